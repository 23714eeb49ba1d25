"""Ranks, lists and measures against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.retrieval import ranked
from llmcf_cli.rec.retrieval.measures import HR, MRR, NDCG, Coverage, Novelty, Popularity


def plain(scores, target, seen, place):
    """Rank of the target (0: left out) and the list of a query, by sorting."""
    left = {item: score for item, score in enumerate(scores) if item > 0 and item not in seen}
    order = sorted(left, key=lambda item: (-left[item], place[item]))
    return order.index(target) + 1 if target in left else 0, order


@st.composite
def cases(draw):
    """Scores with many ties, targets and seen items."""
    items, queries = draw(st.integers(1, 80)), draw(st.integers(1, 6))
    values = st.lists(st.integers(-2, draw(st.sampled_from([0, 2, 50]))), min_size=items + 1, max_size=items + 1)
    scores = draw(st.lists(values, min_size=queries, max_size=queries))
    rows = st.integers(1, items)
    targets = draw(st.lists(rows, min_size=queries, max_size=queries))
    return scores, targets, draw(st.lists(st.sets(rows), min_size=queries, max_size=queries))


@given(cases(), st.sampled_from([1, 3, 100]))
def test_rank_and_list_are_those_of_a_sort(case, queries):
    scores, targets, seen = case
    items, place = len(scores[0]) - 1, ranked.places(len(scores[0]))

    def of(block):
        chosen = list(range(len(scores)))[block]
        pairs = [(number, item) for number, query in enumerate(chosen) for item in seen[query]]
        return np.array([p[0] for p in pairs], np.int64), np.array([p[1] for p in pairs], np.int64)

    matrix = torch.tensor(scores, dtype=torch.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranked, "HELD", queries * (items + 1))  # a block of one query, of some, of all
        found = ranked.predictions(lambda block: matrix[block].clone(), torch.tensor(targets), of, items).numpy()
    for query, (rank, order) in enumerate(map(plain, scores, targets, seen, [place] * len(scores))):
        assert ranked.rank_of(found)[query] == rank
        listed = order[: ranked.LISTED]
        assert ranked.items_of(found)[query].tolist() == listed + [0] * (ranked.LISTED - len(listed))
        assert ranked.scores_of(found)[query][: len(listed)].tolist() == [scores[query][item] for item in listed]


@pytest.mark.parametrize("values", [1, 2, 30, 3000, 1 << 23])
@pytest.mark.parametrize("items", [300, 1500, 12_101])
def test_lists_of_a_large_catalogue_are_those_of_a_sort(items, values):
    rng = np.random.default_rng(items + values)
    score_BI = rng.integers(0, values, (7, items)).astype(np.float32)
    score_BI[0, rng.random(items) < 0.9] = -np.inf
    score_BI[1, 60:] = -np.inf
    place_I = ranked.places(items)
    target_B = rng.integers(0, items, 7)
    for count in (1, 50, items, items + 9):
        item_BK, value_BK = ranked.best(torch.from_numpy(score_BI), torch.from_numpy(place_I), count)
        for row in range(7):
            order = np.lexsort((place_I, -score_BI[row]))[:count]
            order = order[score_BI[row, order] > -np.inf]
            rest = [0] * (count - len(order))
            assert item_BK[row].tolist() == order.tolist() + rest
            assert value_BK[row].tolist() == score_BI[row, order].tolist() + rest
    found_B = ranked.ranks(torch.from_numpy(score_BI), torch.from_numpy(target_B), torch.from_numpy(place_I))
    for row, target in enumerate(target_B):
        order = np.lexsort((place_I, -score_BI[row])).tolist()
        assert found_B[row] == (order.index(target) + 1) * (score_BI[row, target] > -np.inf)


def test_blocks_are_bounded():
    for device, rows, queries in (("cpu", 12_102, 86), ("cpu", 100_000, 64), ("cpu", 1 << 20, 16), ("cpu", 1 << 25, 1),
                                  ("cuda", 12_102, 1386)):  # fmt: skip
        assert ranked._at_once(rows, torch.device(device)) == queries


def test_equals_stand_in_one_order_whatever_is_added():
    first, longer = ranked.places(50), ranked.places(80)
    assert sorted(first.tolist()) == list(range(50))
    assert np.array_equal(np.argsort(first), [row for row in np.argsort(longer) if row < 50])
    assert abs(np.corrcoef(np.arange(5000), ranked.places(5000))[0, 1]) < 0.05


def test_a_score_that_is_none_is_seen():
    scores = torch.tensor([[0.0, math.nan, 1.0], [0.0, 2.0, 1.0]])
    found = ranked.predictions(lambda block: scores[block].clone(), torch.tensor([2, 2]), None, 2)
    assert torch.isfinite(found).all(1).tolist() == [False, True]
    found = ranked.predictions(lambda block: scores[block].clone(), torch.tensor([1, 1]), None, 2)
    assert found[0, 0].isnan()


@pytest.fixture(scope="module")
def predicted():
    """Random lists of 40 users over 300 items, some shorter than 50, some targets left out."""
    rng = np.random.default_rng(0)
    taken_I = np.concatenate([[0], rng.integers(0, 30, 300)])
    user_N = rng.integers(1, 41, 200).astype(np.int32)
    found = []
    for _ in range(200):
        size = int(rng.choice([0, 3, 12, 50]))
        items = rng.permutation(np.arange(1, 301))[:size].tolist() + [0] * (50 - size)
        found.append([int(rng.integers(0, 70)), *items, *[0] * 50])
    return np.array(found, np.float64), Truth(np.zeros(200, np.float32), user_N, taken_I)


@pytest.mark.parametrize("cutoff", [5, 10, 20, 50])
def test_measures_are_those_of_plain_python(predicted, cutoff):
    prediction, truth = predicted
    taken = truth.taken_I.tolist()

    def per_user(value):
        by_user = {}
        for row, user in zip(prediction.tolist(), truth.user_row_N.tolist(), strict=True):
            by_user.setdefault(user, []).append(value(int(row[0]), [int(i) for i in row[1:51]][:cutoff]))
        means = [sum(by_user[user]) / len(by_user[user]) for user in sorted(by_user)]
        return sum(means) / len(means), means

    def of_list(value):
        return lambda rank, items: sum(map(value, filter(None, items))) / max(len([*filter(None, items)]), 1)

    total = sum(taken) + 300
    expected = {
        HR: per_user(lambda rank, items: 1.0 if 1 <= rank <= cutoff else 0.0),
        NDCG: per_user(lambda rank, items: 1 / math.log2(rank + 1) if 1 <= rank <= cutoff else 0.0),
        MRR: per_user(lambda rank, items: 1 / rank if 1 <= rank <= cutoff else 0.0),
        Popularity: per_user(of_list(lambda item: taken[item])),
        Novelty: per_user(of_list(lambda item: -math.log2((taken[item] + 1) / total))),
    }
    for kind, (value, units) in expected.items():
        found = kind(cutoff).values(prediction, truth)
        assert found.total == pytest.approx(value)
        assert found.unit_U.tolist() == pytest.approx(units)
    everything = {int(item) for row in prediction for item in row[1 : 1 + cutoff]} - {0}
    assert Coverage(cutoff).values(prediction, truth).total == pytest.approx(len(everything) / 300)


def test_seeds_are_pooled_user_by_user(predicted):
    prediction, truth = predicted
    other = prediction[::-1].copy()
    found = NDCG(10).pooled([prediction, other], truth)
    first, second = (NDCG(10).values(one, truth) for one in (prediction, other))
    assert found.total == pytest.approx((first.total + second.total) / 2)
    np.testing.assert_allclose(found.unit_U, (first.unit_U + second.unit_U) / 2)
