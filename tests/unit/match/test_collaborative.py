"""The collaborative space: what it finds, and that no user's own interactions shape what its train rows see."""

from __future__ import annotations

import hashlib

import duckdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.core.progress import SilentProgress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.features.collaborative import load_collaborative, save_collaborative
from llmcf_cli.match.collaborative import deal_users, fit_collaborative

USERS, ITEMS = 40, 18


class Notes(SilentProgress):
    """Keeps what is said."""

    def __init__(self):
        self.said = []

    def say(self, text):
        self.said.append(text)


def positives(seed=0, users=USERS):
    """Users take items of their own third of the catalogue, and now and then another."""
    rng = np.random.default_rng(seed)
    taken = [
        (u, i) for u in range(1, users + 1) for i in range(1, ITEMS + 1) if rng.random() < (0.5, 0.05)[i % 3 != u % 3]
    ]
    return np.array(taken, np.int32).T


def deal(users, folds, seed):
    with duckdb.connect() as connection:
        connection.execute(
            f"CREATE TABLE \"user\" AS SELECT r AS user_row, 'u' || r AS user_id FROM range(1, {users + 1}) t(r)"
        )
        return deal_users(connection, folds, seed)


def fit(pairs, users=USERS, dim=6, folds=4, seed=3, **rest):
    return fit_collaborative(*pairs, deal(users, folds, seed), ITEMS, dim=dim, seed=seed, **rest)


def test_items_of_the_same_users_are_alike_in_every_fold():
    found = fit(positives())
    group_I = np.arange(1, ITEMS + 1) % 3
    same = group_I[:, None] == group_I
    for fold in range(5):
        likeness = found.item_FID[fold, 1:] @ found.item_FID[fold, 1:].T
        off = ~np.eye(ITEMS, dtype=bool)
        assert likeness[same & off].mean() > likeness[~same].mean() + 0.3
    assert found.item_FID.shape == (5, ITEMS + 1, 6)
    assert found.item_FID.dtype == np.float32
    assert not found.item_FID[:, 0].any()
    np.testing.assert_allclose(np.linalg.norm(found.item_FID[:, 1:], axis=2), 1, atol=1e-5)
    assert (found.variance_kept_F > 0).all()
    assert (found.variance_kept_F <= 1 + 1e-6).all()


def test_with_all_dimensions_cosines_are_those_of_the_normalised_columns():
    pairs = positives()
    found = fit(pairs, dim=ITEMS)
    taken = np.zeros((USERS + 1, ITEMS + 1))
    taken[tuple(pairs)] = 1
    taken /= np.sqrt(np.maximum(taken.sum(1, keepdims=True), 1))  # columns' own scale cancels in a cosine
    column = taken[:, 1:] / np.linalg.norm(taken[:, 1:], axis=0)
    np.testing.assert_allclose(found.item_FID[-1, 1:] @ found.item_FID[-1, 1:].T, column.T @ column, atol=1e-4)
    assert found.variance_kept_F[-1] == pytest.approx(1, abs=1e-4)


def test_folds_are_of_about_equal_size_and_a_user_keeps_its_own():
    fold_U = deal(10_000, 4, 3)
    assert np.abs(np.bincount(fold_U[1:]) - 2_500).max() < 5 * np.sqrt(2_500 * 0.75)
    assert np.array_equal(deal(20_000, 4, 3)[:10_001], fold_U)
    seeded = derive_seed(3, "collab", "folds")
    expected = [int.from_bytes(hashlib.md5(f"{seeded},u{r}".encode()).digest()[8:], "little") % 4 for r in (1, 77)]
    assert fold_U[[1, 77]].tolist() == expected


def test_unknown_users_see_the_last_fold():
    found = fit(positives())
    assert found.fold_of_user_U[0] == found.last == 4
    assert found.later_folds(3).tolist() == [4, 4, 4]
    user_row_N = np.array([1, 0, 7])
    assert found.train_folds(user_row_N).tolist() == found.fold_of_user_U[[1, 0, 7]].tolist()


def test_counts_are_those_of_the_other_users():
    user_P, item_P = positives()
    found = fit((user_P, item_P))
    for fold in range(5):
        others = found.fold_of_user_U[user_P] != fold
        expected = np.bincount(item_P[others], minlength=ITEMS + 1)
        assert found.count_FI[fold].tolist() == expected.tolist()
    assert found.popularity_FI[-1].sum() == len(item_P)
    np.testing.assert_allclose(found.popularity_FI[:-1], found.count_FI[:-1] * (4 / 3), rtol=1e-6)


@settings(max_examples=20)
@given(st.integers(1, USERS), st.sets(st.integers(1, ITEMS)))
def test_a_users_own_interactions_do_not_change_what_its_train_rows_see(user, items):
    user_P, item_P = positives()
    other = user_P != user
    mine = np.array(sorted(items), np.int32)
    changed = np.append(user_P[other], np.full(len(mine), user)), np.append(item_P[other], mine)
    before, after = fit((user_P, item_P)), fit(changed)
    assert np.array_equal(before.fold_of_user_U, after.fold_of_user_U)
    fold = before.fold_of_user_U[user]
    assert np.array_equal(before.item_FID[fold], after.item_FID[fold])
    assert np.array_equal(before.count_FI[fold], after.count_FI[fold])


def test_the_seed_decides_and_order_and_repetition_do_not():
    user_P, item_P = positives()
    first, other = fit((user_P, item_P)), fit((user_P, item_P), seed=4)
    again = fit((np.append(user_P[::-1], user_P[:5]), np.append(item_P[::-1], item_P[:5])))
    assert np.array_equal(first.item_FID, again.item_FID)
    assert np.array_equal(first.fold_of_user_U, again.fold_of_user_U)
    assert not np.array_equal(first.fold_of_user_U, other.fold_of_user_U)


def test_more_dimensions_than_there_are_is_said():
    notes = Notes()
    found = fit(positives(), dim=64, progress=notes)
    assert found.item_FID.shape[2] == ITEMS
    assert notes.said == ["collaborative vectors: 18 dimensions instead of 64: the matrix has no more"]


@pytest.mark.parametrize("users", [1, 2, 3])
def test_fewer_users_than_folds(users):
    pairs = np.array([range(1, users + 1), [1] * users])
    found = fit(pairs, users=users, folds=10)
    assert found.last == 10
    of_fold = np.bincount(found.fold_of_user_U[1:], minlength=10)
    assert found.count_FI[:, 1].tolist() == [*(users - of_fold), users]
    assert np.isfinite(found.item_FID).all()
    assert not found.item_FID[:, 2:].any()


@pytest.mark.parametrize(
    ("pairs", "code"),
    [
        (np.zeros((2, 0), np.int32), "no-positives"),
        ([[0], [1]], "rows-out-of-range"),
        ([[1], [ITEMS + 1]], "rows-out-of-range"),
    ],
)
def test_impossible_positives_are_explained(pairs, code):
    with refused(code, DataError):
        fit(pairs)


def test_new_items_and_serving():
    found = fit(positives())
    longer = found.extended(ITEMS + 2)
    assert longer.item_FID.shape[1] == longer.count_FI.shape[1] == ITEMS + 3
    assert not longer.item_FID[:, -2:].any()
    assert not longer.count_FI[:, -2:].any()
    served = found.serving()
    assert served.last == 0
    assert np.array_equal(served.item_FID[served.last], found.item_FID[found.last])
    np.testing.assert_array_equal(served.popularity_FI[-1], found.popularity_FI[-1])


def test_a_file_gives_back_what_was_written(tmp_path):
    found, path = fit(positives()), tmp_path / "c.safetensors"
    save_collaborative(found, path)
    again = load_collaborative(path)
    for name, array in vars(again).items():
        assert np.array_equal(array, getattr(found, name)), name
        assert array.dtype == getattr(found, name).dtype
    path.write_bytes(b"something else")
    for wrong in (path, tmp_path / "missing"):
        with refused("vectors-missing", StoreError):
            load_collaborative(wrong)
