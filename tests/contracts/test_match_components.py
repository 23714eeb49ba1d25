"""What every registered space and searcher must do; a new one is tested the moment it is registered."""

from __future__ import annotations

import numpy as np
import pytest

from llmcf_cli.core.progress import SILENT
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.limits import Limits
from llmcf_cli.plugin import registry

T, ITEMS = 8, 40


def item_vectors(space) -> np.ndarray:
    text_IT = np.random.default_rng(0).standard_normal((ITEMS + 1, T)).astype(np.float32)
    text_IT /= np.linalg.norm(text_IT, axis=1, keepdims=True)
    text_IT[0] = 0
    return space.item_vectors(text_IT)


def config(kind: str, name: str):
    cls = registry().get(kind, name).config()
    needed = {field: "asset:any" for field, info in cls.model_fields.items() if info.is_required()}
    return cls(**needed)


@pytest.mark.parametrize("name", registry().names("space"))
class TestSpaces:
    def rows(self):
        rng = np.random.default_rng(1)
        return rng.integers(0, ITEMS + 1, 30), rng.integers(0, ITEMS + 1, (30, 6))

    def test_shapes_and_dtypes(self, name):
        space = registry().build("space", config("space", name))
        item_N, history_NL = self.rows()
        for make in (space.example_vectors, space.query_vectors):
            item_ID = item_vectors(space)
            vector_ND = make(item_ID, item_N, history_NL)
            assert vector_ND.shape == (30, 2 * item_ID.shape[1])
            assert vector_ND.dtype == np.float32
            assert np.isfinite(vector_ND).all()

    def test_nothing_known_gives_zeros(self, name):
        space = registry().build("space", config("space", name))
        assert not space.query_vectors(item_vectors(space), np.zeros(2, int), np.zeros((2, 5), int)).any()

    def test_a_row_does_not_depend_on_its_neighbours(self, name):
        space = registry().build("space", config("space", name))
        item_N, history_NL = self.rows()
        whole = space.query_vectors(item_vectors(space), item_N, history_NL)
        alone = space.query_vectors(item_vectors(space), item_N[7:8], history_NL[7:8])
        assert np.array_equal(whole[7:8], alone)


@pytest.mark.parametrize("clock", ["global", "per_user"])
@pytest.mark.parametrize("balance", ["labels", "none"])
@pytest.mark.parametrize("name", registry().names("searcher"))
class TestSearchers:
    def world(self):
        rng = np.random.default_rng(2)

        def keys(rows, first):
            return Keys(
                np.arange(first, first + rows), rng.integers(1, 6, rows), rng.integers(1, 9, rows),
                rng.integers(0, 20, rows),
            )  # fmt: skip

        example_ED = rng.standard_normal((120, 2 * T)).astype(np.float32)
        query_ND = rng.standard_normal((50, 2 * T)).astype(np.float32)
        return query_ND, keys(50, 100), example_ED, keys(120, 0), rng.integers(0, 2, 120)

    def test_guarded_balanced_ordered_padded(self, name, balance, clock):
        query_ND, query_keys, example_ED, keys, label_E = self.world()
        guard = Guard(clock, ["train"] * 120)
        searcher = registry().build("searcher", config("searcher", name))
        found = searcher.search(
            query_ND,
            query_keys,
            example_ED,
            keys,
            label_E,
            k=6,
            balance=balance,
            guard=guard,
            progress=SILENT,
        )
        assert found.index_NK.shape == found.score_NK.shape == (50, 6)
        assert (found.index_NK.dtype, found.score_NK.dtype) == (np.int32, np.float32)
        allowed_NE = guard.allowed(query_keys, keys)
        for n in range(50):
            index = found.index_NK[n][found.index_NK[n] >= 0]
            filled = len(index)
            assert allowed_NE[n, index].all()
            assert len(set(index)) == filled
            assert (found.index_NK[n, filled:] == -1).all()
            assert (found.score_NK[n, filled:] == 0).all()
            assert (np.diff(found.score_NK[n, :filled]) <= 0).all()
            if searcher.by_similarity:
                np.testing.assert_allclose(found.score_NK[n, :filled], example_ED[index] @ query_ND[n], atol=1e-5)
            if balance == "labels":
                assert max(np.bincount(label_E[index], minlength=2)) <= 3
                room = [min(3, (allowed_NE[n] & (label_E == label)).sum()) for label in (0, 1)]
                assert filled == sum(room)
            else:
                assert filled == min(6, allowed_NE[n].sum())

    def test_limits_on_users_and_items_hold(self, name, balance, clock):
        query_ND, query_keys, example_ED, keys, label_E = self.world()
        searcher = registry().build("searcher", config("searcher", name))
        for limits in (Limits(1), Limits(2), Limits(None, True), Limits(2, True)):
            guard = Guard(clock, ["train"] * 120, limits=limits)
            found = searcher.search(query_ND, query_keys, example_ED, keys, label_E, k=6, balance=balance, guard=guard)
            allowed_NE = guard.allowed(query_keys, keys)
            for n in range(50):
                index = found.index_NK[n][found.index_NK[n] >= 0]
                assert allowed_NE[n, index].all()
                users, items = np.bincount(keys.user_row_N[index]), np.bincount(keys.item_row_N[index])
                assert not len(index) or users.max() <= (limits.max_per_user or 6)
                assert not len(index) or items.max() <= (1 if limits.distinct_items else 6)
                # No place is left empty that another example could take.
                if len(index) < 6:
                    left = set(np.flatnonzero(allowed_NE[n])) - set(index.tolist())
                    full = {v for v in (0, 1) if balance == "labels" and (label_E[index] == v).sum() == 3}
                    for e in left:
                        of_user = (keys.user_row_N[index] == keys.user_row_N[e]).sum() == limits.max_per_user
                        of_item = limits.distinct_items and keys.item_row_N[e] in keys.item_row_N[index]
                        assert of_user or of_item or label_E[e] in full

    def test_prepared_once_searched_often(self, name, balance, clock):
        query_ND, query_keys, example_ED, keys, label_E = self.world()
        searcher = registry().build("searcher", config("searcher", name))
        rest = {"balance": balance, "guard": Guard(clock)}
        whole = searcher.search(query_ND, query_keys, example_ED, keys, label_E, k=4, **rest)
        index = searcher.prepare(example_ED, keys, label_E, **rest)
        for n in (0, 17):
            one = slice(n, n + 1)
            found = index.search(query_ND[one], query_keys.take(one), k=4)
            assert np.array_equal(found.index_NK, whole.index_NK[one])
            assert np.array_equal(found.score_NK, whole.score_NK[one])
