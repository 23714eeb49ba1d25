"""The search for live requests with the user's part computed once: exact scores as sums of two halves.

A query is (history ⊕ item), so its score is ⟨history, e⟩ + ⟨item, e⟩. The history is that of all candidates of a
request, and the item's half depends on no request, so it is kept. On the grid (`grid.py`) both halves are exact in
float64 and so is their sum: what is found is what `ExactIndex.search` finds, to the bit. A number on the grid depends
on itself and on the row's exponent alone, so halves are computed for each exponent that occurs: few, as texts are of
unit norm.

Legend: N queries, R different ones, U different histories, M pairs of history and exponent, I items, E examples of all
pools, D dimensions of a half, T text.
"""

from __future__ import annotations

from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray

from llmcf_cli.core.types import Clock
from llmcf_cli.features.batch import Samples
from llmcf_cli.match.exact_index import ExactIndex
from llmcf_cli.match.grid import LEAST, at_exponent, exponents, peaks, power, squares, step_bits
from llmcf_cli.match.guard import Keys, Matching, guard_of
from llmcf_cli.match.searcher import Matches, OnlineSearch, Searcher
from llmcf_cli.match.space import Space

MOST_BYTES = 1 << 28
"""Of the examples in float64, and of the items' halves that are kept."""
AT_ONCE = 1 << 26
"""Bytes of scores that are held at once."""


def fits(vector_ES: NDArray[np.float32], device: torch.device) -> bool:
    """Whether examples are few enough, and searched on a CPU."""
    return vector_ES.size * 8 <= MOST_BYTES and device.type == "cpu"


class ExactOnlineSearch(OnlineSearch):
    """`OnlineSearch` of few enough examples, on a CPU. Safe to share between threads."""

    def __init__(
        self, searcher: Searcher, space: Space, examples: Samples, vector_ES: NDArray[np.float32], matching: Matching,
        clock: Clock,
    ) -> None:  # fmt: skip
        super().__init__(searcher, space, examples, vector_ES, matching, clock)
        assert isinstance(self._index, ExactIndex)
        self._exact = self._index
        grid_ED = torch.cat([pool.vector_ED for pool in self._exact.pools]).double()
        self._sizes = [len(pool.keys) for pool in self._exact.pools]
        self._scale, self._dim_half = float(self._exact.scale), vector_ES.shape[1] // 2
        self._history_ED = grid_ED[:, : self._dim_half].contiguous()
        self._item_ED = grid_ED[:, self._dim_half :].contiguous()
        own = examples.user_row_N.astype(np.int64) << 32 | examples.item_row_N
        # Sorted, with an end that is none, so that every search has a place.
        self._pairs, self._lock = np.append(np.unique(own), np.iinfo(np.int64).max), Lock()
        self._items: _ItemHalf | None = None
        self._by_item = guard_of(matching, clock).by_item

    def search(self, text_IT: NDArray[np.float32], samples: Samples, k: int) -> Matches:
        """See `OnlineSearch.search`."""
        if not len(samples):
            return super().search(text_IT, samples, k)
        items = self._items_of(text_IT)
        history_of_N = _runs(samples)
        first_U = np.flatnonzero(np.diff(history_of_N, prepend=-1))
        own_N = samples.item_row_N.astype(np.int64)
        if items.is_nothing and not self._by_item:
            # Then candidates differ only in the examples of their own that the guard refuses.
            pair_N = samples.user_row_N.astype(np.int64) << 32 | own_N
            own_N = np.where(self._pairs[np.searchsorted(self._pairs, pair_N)] == pair_N, own_N, -1)
        _, row_R, of_N = np.unique(history_of_N << 32 | (own_N + 1), return_index=True, return_inverse=True)
        keys = Keys.of(samples).take(row_R)
        keys = Keys(keys.sample_id_N, keys.user_row_N, own_N[row_R], keys.time_N)
        found = self._found(items, samples.history_row_NL[first_U], history_of_N[row_R], samples.item_row_N[row_R],
                            keys, k)  # fmt: skip
        return Matches(found.index_NK[of_N], found.score_NK[of_N])

    def _found(
        self, items: _ItemHalf, history_UL: NDArray[np.int32], history_of_R: NDArray[np.int64],
        item_R: NDArray[np.int32], keys: Keys, k: int,
    ) -> Matches:  # fmt: skip
        """The matches of different queries."""
        none_U = np.zeros(len(history_UL), np.int32)
        query_UD = self._space.query_vectors(items.vector_ID, none_U, history_UL)[:, : self._dim_half]
        history_UD, of_R = torch.from_numpy(np.ascontiguousarray(query_UD)), torch.from_numpy(history_of_R)
        row_R = torch.from_numpy(item_R.astype(np.int64))
        peak_R = torch.maximum(_peaks(history_UD)[of_R], items.peak_I[row_R])
        exponent_R = self._exponents(items, history_UD, of_R, row_R, peak_R)
        # Different histories at different exponents: nearly always one of each user.
        pair_M, at_R = torch.unique(of_R << 32 | (exponent_R.long() + 1024), return_inverse=True)
        exponent_M1 = ((pair_M & 0xFFFFFFFF) - 1024).int()[:, None]
        grid_MD = at_exponent(history_UD[pair_M >> 32], exponent_M1)
        like_ME = (grid_MD.double() @ self._history_ED.T).mul_(power(exponent_M1).double() * self._scale)
        blocks = torch.arange(len(item_R)).split(max(1, AT_ONCE // (8 * like_ME.shape[1] + 1)))
        parts = []
        for block in blocks:
            mine = like_ME if len(like_ME) == 1 else like_ME[at_R[block]]
            score_BE = items.plus(mine, row_R[block], exponent_R[block])
            scores = list(score_BE.split(self._sizes, 1))
            parts.append(self._exact.of_scores(scores, keys.take(block.numpy()), k))
        return Matches(
            np.concatenate([part.index_NK for part in parts]), np.concatenate([part.score_NK for part in parts])
        )

    def _exponents(
        self, items: _ItemHalf, history_UD: torch.Tensor, of_R: torch.Tensor, row_R: torch.Tensor, peak_R: torch.Tensor
    ) -> torch.Tensor:
        """int32 [R]: exponents of the queries' scales, as `on_grid` computes them of the whole."""
        bits = step_bits(2 * self._dim_half)
        square_R = torch.empty(len(row_R))
        for peak in torch.unique(peak_R):
            at = torch.nonzero(peak_R == peak)[:, 0]
            of_history_U = squares(history_UD, peak.expand(len(history_UD), 1), bits)[:, 0]
            square_R[at] = of_history_U[of_R[at]] + items.squares(int(peak), bits)[row_R[at]]
        return exponents(peak_R[:, None], square_R[:, None], bits)[:, 0]

    def _items_of(self, text_IT: NDArray[np.float32]) -> _ItemHalf:
        """The items' half for a catalogue; it changes when items are added."""
        with self._lock:
            if self._items is None or self._items.text_IT is not text_IT:
                self._items = _ItemHalf(self._space, text_IT, self._item_ED, self._scale)
            return self._items


class _ItemHalf:
    """The half of queries that is the item's, and its part of scores, kept once computed.

    Args:
        space: Where.
        text_IT: Text vectors of the catalogue.
        example_ED: float64, the items' half of the examples on their grid.
        scale: Of that grid.
    """

    def __init__(self, space: Space, text_IT: NDArray[np.float32], example_ED: torch.Tensor, scale: float) -> None:
        self.text_IT, self.vector_ID = text_IT, space.item_vectors(text_IT)
        count = len(self.vector_ID)
        nobody = np.zeros((count, 1), np.int32)
        query_ID = space.query_vectors(self.vector_ID, np.arange(count), nobody)[:, self.vector_ID.shape[1] :]
        self._query_ID, self._example_ED, self._scale = torch.from_numpy(query_ID.copy()), example_ED, scale
        self.is_nothing = not bool(self._query_ID.any())
        self.peak_I = _peaks(self._query_ID)
        self._squares: dict[int, torch.Tensor] = {}
        slots = max(1, min(count, MOST_BYTES // (8 * len(example_ED) + 1)))
        self._like_SE = torch.empty(0 if self.is_nothing else slots, len(example_ED), dtype=torch.float64)
        self._slots: dict[int, torch.Tensor] = {}  # exponent → slot of each item, -1: none
        self._used, self._lock = 0, Lock()

    def squares(self, peak: int, bits: int) -> torch.Tensor:
        """float32 [I]: squared norms in steps of a peak."""
        if peak not in self._squares:
            of_I1 = torch.full((len(self._query_ID), 1), peak, dtype=torch.int32)
            # Where an item's own peak is higher, its steps are too many to be summed, and nobody asks for them.
            fit_I1 = self.peak_I[:, None] <= peak
            self._squares[peak] = squares(torch.where(fit_I1, self._query_ID, 0.0), of_I1, bits)[:, 0]
        return self._squares[peak]

    def plus(self, like_BE: torch.Tensor, row_B: torch.Tensor, exponent_B: torch.Tensor) -> torch.Tensor:
        """float32 [B, E]: exact sums of another half (or one for all rows) and the items' half, rounded once."""
        if self.is_nothing:
            return like_BE.float().expand(len(row_B), -1).clone()
        with self._lock:
            slot_B = self._kept(row_B, exponent_B)
            if slot_B is not None:
                return self._like_SE[slot_B].add_(like_BE).float()
        return self._computed(row_B, exponent_B).add_(like_BE).float()

    def _kept(self, row_B: torch.Tensor, exponent_B: torch.Tensor) -> torch.Tensor | None:
        """int64 [B]: where the halves are kept, once those that are lacking are there; None: too many to be kept."""
        slot_B = torch.empty_like(row_B)
        for exponent in torch.unique(exponent_B):
            at = torch.nonzero(exponent_B == exponent)[:, 0]
            slot_I = self._slots.setdefault(int(exponent), torch.full((len(self._query_ID),), -1))
            lacking = torch.unique(row_B[at][slot_I[row_B[at]] < 0])
            if len(lacking) > len(self._like_SE) - self._used:
                self._slots, self._used = {}, 0
                return None
            here = slice(self._used, self._used + len(lacking))
            if len(lacking):
                self._like_SE[here] = self._computed(lacking, exponent.expand(len(lacking)))
                slot_I[lacking] = torch.arange(here.start, here.stop)
                self._used = here.stop
            slot_B[at] = slot_I[row_B[at]]
        return slot_B

    def _computed(self, row_B: torch.Tensor, exponent_B: torch.Tensor) -> torch.Tensor:
        """float64 [B, E]."""
        grid_BD = at_exponent(self._query_ID[row_B], exponent_B[:, None])
        return (grid_BD.double() @ self._example_ED.T).mul_(power(exponent_B[:, None]).double() * self._scale)


def _peaks(vector_BD: torch.Tensor) -> torch.Tensor:
    """int32 [B]: `peaks` of halves; the least for zeros, so that the other half decides."""
    return torch.where(vector_BD.any(1), peaks(vector_BD)[:, 0], LEAST)


def _runs(samples: Samples) -> NDArray[np.int64]:
    """int64 [N]: 0, 0, …, 1, …: one number for neighbours of the same user, history and time."""
    history_NL = samples.history_row_NL
    new_n = (history_NL[1:] != history_NL[:-1]).any(1)
    for column in (samples.user_row_N, samples.time_N, samples.sample_id_N):
        new_n |= column[1:] != column[:-1]
    return np.concatenate([[0], np.cumsum(new_n)]).astype(np.int64)
