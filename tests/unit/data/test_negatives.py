"""The sampler: nothing that is protected, the right frequencies, the exact complement where little is left."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from llmcf_cli.data import negatives as module
from llmcf_cli.data.config import PopularityNegativesConfig
from llmcf_cli.data.cut import Cuts
from llmcf_cli.data.negatives import Catalogue, PopularityNegatives, Positives, make_catalogue, sample_negatives


def of(weights, known=None):
    """A catalogue of items 1, 2, … with these weights, all known at any time if nothing else is said."""
    known = np.zeros(len(weights), np.int64) if known is None else np.asarray(known)
    order = np.argsort(known, kind="stable")
    return Catalogue(order + 1, np.asarray(weights, dtype=float)[order], known[order])


def draw(events, weights, count=1, seed=0, repeats="first", known=None):
    """Negatives of events (user, item) or (user, item, time); without a time all of a user's happen at once."""
    rows = [(*event, 0)[:3] for event in events]
    positives = Positives(
        *(np.array(column, dtype=np.int64) for column in zip(*rows, strict=True)), np.arange(len(rows))
    )
    return sample_negatives(positives, repeats, of(weights, known), count, seed)


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=40, unique=True
    ),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 100.0]), min_size=9, max_size=9).filter(any),
    count=st.integers(1, 5), seed=st.integers(0, 99), repeats=st.sampled_from(["first", "keep"]),
)  # fmt: skip
def test_guards(events, weights, count, seed, repeats):
    item_PK = draw(events, weights, count, seed, repeats)
    for (user, _, time), row in zip(events, item_PK.tolist(), strict=True):
        closed = {i for u, i, t in events if u == user and (t == time or (t < time and repeats == "first"))}
        left = {i + 1 for i, w in enumerate(weights) if w} - closed
        found = [item for item in row if item]
        assert set(found) <= left
        assert len(set(found)) == len(found) == min(count, len(left))
        assert row == found + [0] * (count - len(found))
    assert (item_PK == draw(events, weights, count, seed, repeats)).all()


@settings(max_examples=60, deadline=None)
@given(
    events=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(0, 5)), min_size=1, max_size=40, unique=True
    ),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 100.0]), min_size=9, max_size=9).filter(any),
    more=st.lists(st.sampled_from([1.0, 1e6]), max_size=9),
    count=st.integers(1, 5), seed=st.integers(0, 99), repeats=st.sampled_from(["first", "keep"]),
)  # fmt: skip
def test_later_items_and_events_change_no_draw(events, weights, more, count, seed, repeats):
    first = {item: min(t for _, i, t in events if i == item) for _, item, _ in events}
    known = [first.get(item, 0) for item in range(1, 10)]
    before = draw(events, weights, count, seed, repeats, known)
    later = events + [(user, 10 + n, 6 + n) for n in range(len(more)) for user in (1, 5)]
    after = draw(later, weights + more, count, seed, repeats, known + [6 + n for n in range(len(more))])
    assert (after[: len(events)] == before).all()
    for (user, _, time), row in zip(events, before.tolist(), strict=True):
        closed = {i for u, i, t in events if u == user and (t == time or (t < time and repeats == "first"))}
        left = {i for i, w in enumerate(weights, 1) if w and known[i - 1] <= time} - closed
        assert set(row) - {0} <= left
        assert np.count_nonzero(row) == min(count, len(left))


def frequencies(item_PK, items):
    return np.bincount(item_PK.reshape(-1), minlength=items + 1)[1:] / item_PK.size


def test_uniform_frequencies():
    found = frequencies(draw([(1, 3)] * 40_000, np.ones(20)), 20)
    assert found[2] == 0
    assert np.allclose(np.delete(found, 2), 1 / 19, atol=0.006)


@pytest.mark.parametrize("own", [1, 4], ids=["by rejection", "from the complement"])
def test_weighted_frequencies(own):
    weights = np.array([1.0, 2.0, 3.0, 10.0, 4.0, 0.0])
    found = frequencies(draw([(1, own)] * 40_000, weights), 6)
    expected = weights.copy()
    expected[own - 1] = 0
    assert np.allclose(found, expected / expected.sum(), atol=0.012)
    assert found[5] == 0


def test_one_heavy_item_does_not_stall_distinct_draws():
    weights = np.ones(50)
    weights[7] = 1e9
    item_PK = draw([(user, 1) for user in range(1, 200)], weights, count=3)
    assert all(8 in row and len(set(row)) == 3 and 0 not in row for row in item_PK.tolist())


def test_exact_draws_in_blocks(monkeypatch):
    monkeypatch.setattr(module, "_EXACT_CELLS", 10)
    pairs = [(1, item) for item in range(1, 10)]
    assert (draw(pairs, np.ones(10)) == 10).all()


def test_full_catalogue_has_none():
    assert (draw([(1, 1), (1, 2), (2, 1)], np.ones(2), 2) == [[0, 0], [0, 0], [2, 0]]).all()


def test_batches_cover_every_user_once(run_rows, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_DRAWS", 7)
    rows = [(f"u{n % 9}", f"i{n}", None, n) for n in range(45)]
    result = run_rows(rows, label="implicit")
    labels = [s["label"] for s in result["sample"]]
    assert labels.count(0) == labels.count(1) == 45


def test_shortage_is_counted(run_rows):
    rows = [("greedy", f"i{n}", None, n) for n in range(4)] + [("u", "i0", None, 0)]
    result = run_rows(rows, label={"type": "implicit", "per_positive": 2}, repeats="first")
    # "greedy" has 3, 2, 1 and 0 items left at its four events, "u" has 3
    assert sum(count.negative for count in result.report.samples) == 2 + 2 + 1 + 0 + 2
    assert "3 fewer than asked" in result.step("label implicit").reason


def test_popularity_counts_train_events_plus_one():
    con = duckdb.connect()
    con.execute("CREATE TABLE item_number AS SELECT unnest([1, 2, 3]) AS item_row, unnest(['b', 'a', 'c']) AS item_id")
    con.execute(
        "CREATE TABLE event AS FROM (VALUES (1, 'train', 1), (1, 'train', 2), (2, 'train', 3), (3, 'test', 5)) "
        "t(item_row, split, time)"
    )
    make_catalogue(con, Cuts(4, 5))
    found = Catalogue.read(con, PopularityNegativesConfig(exponent=0.5))
    assert found.item_I.tolist() == [2, 1, 3]
    assert np.allclose(found.weight_I, np.sqrt([2, 3, 1]))
    assert found.known_by(np.array([0, 4, 5])).tolist() == [2, 2, 3]
    weights = PopularityNegatives(PopularityNegativesConfig(exponent=0.5)).weights(con)
    assert np.allclose(weights, np.sqrt([3, 2, 1]))


def world(seed, repeats):
    """Users who take three items of their taste a day for ten days; with repeats they buy again what they bought."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(150):
        taste, taken = rng.permutation(120)[:60], []
        for day in range(10):
            again = rng.permutation(taken)[:2] if repeats and len(taken) > 2 else []
            new = [i for i in rng.permutation(taste) if i not in taken][: 3 - len(again)]
            rows += [(f"u{user}", f"i{item}", None, day) for item in [*again, *new]]
            taken += new
    return rows


def look_up(result, split):
    """AUC of "the pair was a negative in train" on the pairs of a split that were not taken before."""
    seen, taken = (
        {(s["user_row"], s["item_row"]) for s in result["sample"] if s["split"] == "train" and s["label"] == label}
        for label in (0, 1)
    )
    rows = [s for s in result["sample"] if s["split"] == split and (s["user_row"], s["item_row"]) not in taken]
    return roc_auc_score([s["label"] for s in rows], [(s["user_row"], s["item_row"]) in seen for s in rows])


@pytest.mark.parametrize(("repeats", "setting"), [(False, "first"), (True, "keep"), (True, "first")])
def test_train_negatives_do_not_know_the_future(run_rows, repeats, setting):
    split = {"type": "global_time", "validation": 0.2, "test": 0.2}
    found = [
        run_rows(world(seed, repeats), label={"type": "implicit", "per_positive": 2}, split=split, repeats=setting)
        for seed in (1, 2, 3)
    ]
    aucs = [look_up(result, split) for result in found for split in ("validation", "test")]
    assert abs(np.mean(aucs) - 0.5) < 0.02, aucs
    for result in found:
        audit = result.report.negatives
        assert audit.violations == 0
        assert audit.p > 0.005
        assert abs(audit.taken_later - audit.expected) < 5 * np.sqrt(audit.expected)


def test_the_audit_finds_negatives_that_know_the_future(run_rows, monkeypatch):
    """The rule of old: what a user takes at any time is never drawn."""

    def all_knowing(positives, repeats, catalogue, count, seed):
        catalogue = replace(catalogue, known_I=np.zeros_like(catalogue.known_I))
        return sample_negatives(
            replace(positives, time_P=np.zeros_like(positives.time_P)), repeats, catalogue, count, seed
        )

    monkeypatch.setattr(module, "sample_negatives", all_knowing)
    split = {"type": "global_time", "validation": 0.2, "test": 0.2}
    result = run_rows(world(1, False), label="implicit", split=split, repeats="first")
    audit = result.report.negatives
    assert audit.taken_later == 0
    assert audit.expected > 100
    assert audit.p == 1 / (1 + audit.draws)
    assert {"negatives", "train_negative"} <= {alarm.code for alarm in result.report.alarms}
    assert look_up(result, "test") < 0.45
