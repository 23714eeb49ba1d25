"""The sampler: never a user's own item, the right frequencies, the exact complement where little is left."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.data import negatives as module
from llmcf_cli.data.negatives import sample_negatives


def draw(pairs, weights, count=1, seed=0):
    user_P, item_P = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    return sample_negatives(user_P, item_P, np.asarray(weights, dtype=float), count, np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 9)), min_size=1, max_size=40),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 100.0]), min_size=9, max_size=9).filter(any),
    count=st.integers(1, 5), seed=st.integers(0, 99),
)  # fmt: skip
def test_guards(pairs, weights, count, seed):
    item_PK = draw(pairs, weights, count, seed)
    for (user, _), row in zip(pairs, item_PK.tolist(), strict=True):
        own = {item for u, item in pairs if u == user}
        left = {i + 1 for i, w in enumerate(weights) if w} - own
        found = [item for item in row if item]
        assert set(found) <= left
        assert len(set(found)) == len(found) == min(count, len(left))
        assert row == found + [0] * (count - len(found))
    assert (item_PK == draw(pairs, weights, count, seed)).all()


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
    result = run_rows(rows, label={"type": "implicit", "per_positive": 2})
    step = result.step("label implicit")
    assert "2 drawn; 8 fewer than asked" in step.reason
    assert step.kept == 7


def test_popularity_looks_at_train_only(run_rows):
    # item "late" occurs in test only, so nothing may draw it
    rows = [(f"u{u}", f"i{(u + n) % 6}", None, n) for u in range(6) for n in range(3)] + [("u0", "late", None, 9)]
    result = run_rows(rows, label={"type": "implicit", "negatives": "popularity"})
    late = next(row for row, identifier in result.ids("item").items() if identifier == "late")
    assert [s["label"] for s in result["sample"] if s["item_row"] == late] == [1]
