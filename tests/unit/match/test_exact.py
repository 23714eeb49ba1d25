"""Exact search against a slow reference in exact arithmetic, and what must not change its results."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.match.config import ExactSearchConfig
from llmcf_cli.match.exact import ExactSearcher
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.limits import Limits
from llmcf_cli.match.searcher import Matches

FEW = settings(max_examples=60, deadline=None)


def reference(case: Case) -> list[list[tuple[int, float]]]:
    """Per query: (example position, score), best first; guards written out, sums of fractions, sorting."""
    rows = []
    for n in range(len(case.query_keys)):
        scored = []
        for e in range(len(case.example_keys)):
            if not allowed(case, n, e):
                continue
            pairs = zip(case.query_ND[n].tolist(), case.example_ED[e].tolist(), strict=True)
            exact = sum((Fraction(a) * Fraction(b) for a, b in pairs), Fraction(0))
            score = float(np.float32(float(exact)))
            scored.append((-score, int(case.example_keys.sample_id_N[e]), e))
        rows.append(greedy(case, sorted(scored)))
    return rows


def greedy(case: Case, scored: list[tuple[float, int, int]]) -> list[tuple[int, float]]:
    """Down the whole list, every example that its label's half and the limits have room for."""
    room = {0: case.k // 2, 1: case.k // 2} if case.balance == "labels" else {None: case.k}
    users, items, chosen = Counter(), Counter(), []
    for negative, _, e in scored:
        label = int(case.label_E[e]) if case.balance == "labels" else None
        user, item = int(case.example_keys.user_row_N[e]), int(case.example_keys.item_row_N[e])
        if not room[label] or users[user] == case.limits.max_per_user or (case.limits.distinct_items and items[item]):
            continue
        room[label] -= 1
        users[user] += 1
        items[item] += 1
        chosen.append((e, -negative))
    return chosen


def allowed(case: Case, n: int, e: int) -> bool:
    q, x = case.query_keys, case.example_keys
    same_user = q.user_row_N[n] == x.user_row_N[e]
    if q.sample_id_N[n] == x.sample_id_N[e] or (same_user and q.item_row_N[n] == x.item_row_N[e]):
        return False
    if case.clock == "per_user" and not same_user:
        return True
    return bool(x.time_N[e] < q.time_N[n])


class Case:
    """A small world with few distinct vectors, users, items and times, so that everything ties."""

    def __init__(self, seed, queries, examples, users, items, times, dim, levels, positive, clock, balance, k, limits):
        rng = np.random.default_rng(seed)
        rows = examples + queries
        user_N, item_N = rng.integers(1, users + 1, rows), rng.integers(1, items + 1, rows)
        time_N = rng.integers(0, times, rows)
        ids_N = rng.permutation(rows * 2)[:rows]
        self.example_keys = Keys(ids_N[:examples], user_N[:examples], item_N[:examples], time_N[:examples])
        # Queries are live requests, further rows, or the examples themselves.
        own = rng.integers(0, rows, queries)
        query = Keys(ids_N[own], user_N[own], item_N[own], time_N[own])
        live = rng.random(queries) < 0.3
        self.query_keys = Keys(np.where(live, -1, query.sample_id_N), query.user_row_N, query.item_row_N, query.time_N)
        # Multiples of 1/8: the reference and the grid agree on their products to the last bit.
        self.example_ED = (rng.integers(-levels, levels + 1, (examples, dim)) / 8).astype(np.float32)
        self.query_ND = (rng.integers(-levels, levels + 1, (queries, dim)) / 8).astype(np.float32)
        self.label_E = (rng.random(examples) < positive).astype(np.int8)
        self.clock, self.balance, self.k, self.limits = clock, balance, k, limits

    def search(self, **runtime: int | str) -> Matches:
        return ExactSearcher(ExactSearchConfig(device="cpu", **runtime)).search(
            self.query_ND, self.query_keys, self.example_ED, self.example_keys, self.label_E,
            k=self.k, balance=self.balance,
            guard=Guard(self.clock, ["train"] * len(self.label_E), limits=self.limits),
        )  # fmt: skip


UNLIMITED, LIMITS = st.just(Limits()), st.builds(Limits, st.sampled_from([None, 1, 2, 3]), st.booleans())


@st.composite
def cases(draw, limits=UNLIMITED) -> Case:
    return Case(
        seed=draw(st.integers(0, 2**31)),
        queries=draw(st.integers(1, 9)),
        examples=draw(st.integers(0, 40)),
        users=draw(st.sampled_from([1, 2, 30])),
        items=draw(st.sampled_from([1, 3, 50])),
        times=draw(st.sampled_from([1, 2, 40])),
        dim=draw(st.sampled_from([1, 2, 6])),
        levels=draw(st.sampled_from([0, 1, 8])),  # 0: every vector is zero, as of empty histories
        positive=draw(st.sampled_from([0.0, 0.5, 1.0])),
        clock=draw(st.sampled_from(["global", "per_user"])),
        balance=draw(st.sampled_from(["labels", "none"])),
        k=draw(st.sampled_from([2, 4, 60])),
        limits=draw(limits),
    )


@FEW
@given(cases())
def test_equals_brute_force(case):
    found = case.search()
    for n, want in enumerate(reference(case)):
        padding = case.k - len(want)
        assert found.index_NK[n].tolist() == [e for e, _ in want] + [-1] * padding
        assert found.score_NK[n].tolist() == [s for _, s in want] + [0.0] * padding


@settings(max_examples=150, deadline=None)
@given(cases(LIMITS))
def test_the_greedy_choice_under_limits_equals_brute_force(case):
    found = case.search()
    for n, want in enumerate(reference(case)):
        padding = case.k - len(want)
        assert found.index_NK[n].tolist() == [e for e, _ in want] + [-1] * padding
        assert found.score_NK[n].tolist() == [s for _, s in want] + [0.0] * padding


@FEW
@given(cases(LIMITS), st.integers(1, 12), st.integers(1, 50))
def test_block_sizes_change_nothing(case, query_block, example_block):
    one, other = case.search(), case.search(query_block=query_block, example_block=example_block)
    assert np.array_equal(one.index_NK, other.index_NK)
    assert np.array_equal(one.score_NK, other.score_NK)


@FEW
@given(cases(LIMITS), st.integers(1, 50))
def test_numbers_of_the_product_change_nothing(case, example_block):
    one, other = case.search(), case.search(product="bfloat16", example_block=example_block)
    assert np.array_equal(one.index_NK, other.index_NK)
    assert np.array_equal(one.score_NK, other.score_NK)


@FEW
@given(cases(LIMITS), st.integers(0, 2**31))
def test_order_of_the_examples_changes_nothing(case, seed):
    before = case.search()
    order = np.random.default_rng(seed).permutation(len(case.label_E))
    case.example_ED, case.label_E = case.example_ED[order], case.label_E[order]
    case.example_keys = case.example_keys.take(order)
    after = case.search()
    moved = np.where(after.index_NK >= 0, np.append(order, 0)[after.index_NK], -1)
    assert np.array_equal(moved, before.index_NK)
    assert np.array_equal(after.score_NK, before.score_NK)


def unit(rng, rows, dim):
    vector = rng.standard_normal((rows, dim)).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=1, keepdims=True)


def world(rng, queries=500, examples=3000):
    def draw(rows, first):
        return Keys(
            np.arange(first, first + rows), rng.integers(1, 60, rows), rng.integers(1, 200, rows),
            rng.integers(0, 300, rows),
        )  # fmt: skip

    return draw(queries, examples), draw(examples, 0), rng.integers(0, 2, examples)


@pytest.mark.parametrize("copies", [1, 30, 3000])
def test_duplicated_real_vectors_do_not_depend_on_blocks(copies):
    """Ties among copies are decided by sample id, though products of different blocks differ in the last bits."""
    rng = np.random.default_rng(copies)
    query_keys, keys, label = world(rng)
    example = np.tile(unit(rng, 3000 // copies, 48), (copies, 1))
    query = unit(rng, 500, 48)
    found = [
        ExactSearcher(ExactSearchConfig(query_block=a, example_block=b, product=product)).search(
            query, query_keys, example, keys, label, k=4, balance="labels", guard=Guard("global")
        )
        for a, b, product in ((1024, 4096, "float32"), (33, 257, "float32"), (1024, 4096, "bfloat16"))
    ]
    for other in found[1:]:
        assert np.array_equal(found[0].index_NK, other.index_NK)
        assert np.array_equal(found[0].score_NK, other.score_NK)
    score = query.astype(np.float64) @ example.T.astype(np.float64)
    score[~Guard("global").allowed(query_keys, keys)] = -np.inf
    for wanted in (0, 1):
        best = np.sort(np.where(label == wanted, score, -np.inf), axis=1)[:, ::-1][:, :2]
        mine = np.where((found[0].index_NK >= 0) & (label[found[0].index_NK] == wanted), found[0].score_NK, -np.inf)
        np.testing.assert_allclose(-np.sort(-mine, axis=1)[:, :2], best, atol=3e-7)


def test_near_ties_below_float32_are_told_apart():
    """Scores closer than the error of a float32 product, yet different float32 numbers: the better one wins."""
    dim, rng = 768, np.random.default_rng(5)
    base = unit(rng, 1, dim)[0]
    example = np.repeat(base[None], 400, axis=0)
    better = rng.permutation(400)[:4]
    example[better, 0] += np.float32(3e-6)
    query = base[None].copy()
    query[0, 0] = 0.5
    keys = Keys(np.arange(400), np.arange(1, 401), np.ones(400), np.zeros(400))
    found = ExactSearcher().search(
        query,
        Keys([-1], [0], [0], [1]),
        example,
        keys,
        np.ones(400),
        k=4,
        balance="none",
        guard=Guard("global"),
    )
    assert sorted(found.index_NK[0]) == sorted(better)


def test_what_bfloat16_cannot_tell_apart_is_told_apart():
    """Scores that differ in float32 and are one number in bfloat16, more of them than there are candidates."""
    example = np.zeros((400, 64), np.float32)
    example[:, 0], example[:, 1] = 0.5, np.random.default_rng(6).permutation(400) * 1e-6
    query = np.zeros((1, 64), np.float32)
    query[0, :2] = 1.0
    keys = Keys(np.arange(400), np.arange(1, 401), np.ones(400), np.zeros(400))
    found = ExactSearcher(ExactSearchConfig(product="bfloat16")).search(
        query, Keys([-1], [0], [0], [1]), example, keys, np.ones(400), k=4, balance="none", guard=Guard("global")
    )
    assert found.index_NK[0].tolist() == np.argsort(-example[:, 1])[:4].tolist()


@pytest.mark.parametrize("limits", [Limits(1), Limits(2, True), Limits(distinct_items=True)])
def test_limits_on_real_vectors_in_wide_blocks(limits):
    """Many examples of the few users and items that are nearest, so that several rounds are needed."""
    rng = np.random.default_rng(11)
    query_keys, keys, label = world(rng, queries=40)
    centre = unit(rng, 60, 32)
    example = centre[keys.user_row_N] + 0.05 * unit(rng, 3000, 32)
    query = unit(rng, 40, 32)
    found = ExactSearcher(ExactSearchConfig(query_block=16)).search(
        query, query_keys, example, keys, label, k=8, balance="labels", guard=Guard("global", limits=limits)
    )
    score = query.astype(np.float64) @ example.T.astype(np.float64)
    score[~Guard("global").allowed(query_keys, keys)] = -np.inf
    for n in range(40):
        room, users, items, want = {0: 4, 1: 4}, Counter(), Counter(), []
        for e in np.argsort(-score[n], kind="stable"):
            user, item = keys.user_row_N[e], keys.item_row_N[e]
            if score[n, e] == -np.inf or not room[label[e]] or users[user] == limits.max_per_user:
                continue
            if limits.distinct_items and items[item]:
                continue
            room[label[e]] -= 1
            users[user] += 1
            items[item] += 1
            want.append(int(e))
        assert found.index_NK[n].tolist() == want + [-1] * (8 - len(want))


def test_queries_may_be_made_block_by_block():
    rng = np.random.default_rng(1)
    query_keys, keys, label = world(rng)
    query, example = unit(rng, 500, 16), unit(rng, 3000, 16)
    asked = []

    def make(block: slice) -> np.ndarray:
        asked.append(block.stop - block.start)
        return query[block]

    searcher = ExactSearcher(ExactSearchConfig(query_block=64))
    rest = (query_keys, example, keys, label)
    made = searcher.search(make, *rest, k=4, balance="none", guard=Guard("per_user"))
    given_whole = searcher.search(query, *rest, k=4, balance="none", guard=Guard("per_user"))
    assert max(asked) == 64
    assert np.array_equal(made.index_NK, given_whole.index_NK)


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e12])
def test_scale_of_the_vectors_does_not_matter(scale):
    rng = np.random.default_rng(2)
    query_keys, keys, label = world(rng, queries=50, examples=400)
    query, example = unit(rng, 50, 24), unit(rng, 400, 24)

    def search(q, e):
        return ExactSearcher().search(q, query_keys, e, keys, label, k=2, balance="none", guard=Guard("global"))

    plain, scaled = search(query, example), search(query, example * np.float32(scale))
    np.testing.assert_allclose(scaled.score_NK, plain.score_NK * scale, rtol=1e-5)


def bad_vectors(values, **change):
    values = dict(values, **change)
    return lambda: ExactSearcher().prepare(
        values["vector"], values["keys"], values["label"], balance=values["balance"], guard=Guard("global")
    )


def test_bad_input_is_refused_with_a_reason():
    rng = np.random.default_rng(3)
    query_keys, keys, label = world(rng, queries=3, examples=10)
    good = {"vector": unit(rng, 10, 4), "keys": keys, "label": label, "balance": "labels"}
    nan = good["vector"].copy()
    nan[3, 1] = np.nan
    twice = Keys(np.zeros(10), keys.user_row_N, keys.item_row_N, keys.time_N)
    for change, code in (
        ({"vector": nan}, "vectors-not-finite"), ({"keys": twice}, "ids-repeat"), ({"label": label + 1}, "match-label"),
        ({"label": label[:5]}, "vectors-unfit"),
    ):  # fmt: skip
        with refused(code, DataError):
            bad_vectors(good, **change)()
    index = bad_vectors(good)()
    with refused("k-uneven", LlmcfError):
        index.search(unit(rng, 3, 4), query_keys, k=3)
    with refused("vectors-not-finite", DataError):
        index.search(unit(rng, 3, 5), query_keys, k=2)


def test_no_queries_and_no_examples():
    none = Keys([], [], [], [])
    some = Keys([-1, -1], [0, 0], [1, 2], [5, 6])
    for clock in ("global", "per_user"):
        index = ExactSearcher().prepare(np.zeros((0, 6)), none, np.zeros(0), balance="labels", guard=Guard(clock))
        assert index.search(np.zeros((0, 6)), none, k=4).index_NK.shape == (0, 4)
        assert (index.search(np.ones((2, 6)), some, k=4).index_NK == -1).all()
