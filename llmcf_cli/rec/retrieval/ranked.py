"""Scores of the whole catalogue → the target's rank and the best items, block by block.

A list holds the items in falling order of their scores; equal ones stand in a fixed pseudo-random order of the
catalogue, the same for every model. Row 0 and items that are left out have the score −∞ and are in no list.

Legend: N queries, B block of them, I items, K listed items, S items to leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcf_cli.core.seeding import mixed
from llmcf_cli.rec.retrieval.config import CUTOFFS

LISTED = max(CUTOFFS)
"""K: items of a list that are kept."""
WIDTH = 1 + 2 * LISTED
"""Numbers of a query's prediction: the target's rank, the list's items, and their scores."""
BLOCK_NUMBERS = 1 << 24
"""Scores held at once."""


@lru_cache(maxsize=2)
def places(count: int) -> NDArray[np.int64]:
    """Where each row from 0 to count − 1 stands among items of one score; rows that are added later move none.

    The array is shared: it must not be changed.
    """
    hash_I: NDArray[np.int64] = mixed(np.arange(count, dtype=np.int64) + 1)
    place_I = np.empty(count, np.int64)
    place_I[np.argsort(hash_I, kind="stable")] = np.arange(count)
    return place_I


def best(score_BI: Tensor, place_I: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` best items of each row: rows int64 [B, count] and scores [B, count]; 0 and 0 past the last item."""
    kept = min(count, score_BI.shape[1])
    # One more tells whether equals of the last one were left out: which of them stay is not for `topk` to say.
    value_BK, item_BK = score_BI.topk(min(kept + 1, score_BI.shape[1]), dim=1)
    torn_B = torch.zeros(len(score_BI), dtype=torch.bool, device=score_BI.device)
    if value_BK.shape[1] > kept:
        torn_B = (value_BK[:, kept] == value_BK[:, kept - 1]) & (value_BK[:, kept] > -torch.inf)
    value_BK, item_BK = value_BK[:, :kept], item_BK[:, :kept]
    by_place_BK = place_I[item_BK].argsort(1)
    value_BK, item_BK = value_BK.gather(1, by_place_BK), item_BK.gather(1, by_place_BK)
    by_value_BK = value_BK.argsort(dim=1, descending=True, stable=True)
    value_BK, item_BK = value_BK.gather(1, by_value_BK), item_BK.gather(1, by_value_BK)
    if torn_B.any():
        row_I = place_I.argsort()
        ordered_bI = score_BI[torn_B][:, row_I]
        found_bK = ordered_bI.argsort(dim=1, descending=True, stable=True)[:, :kept]
        item_BK[torn_B], value_BK[torn_B] = row_I[found_bK], ordered_bI.gather(1, found_bK)
    none_BK = value_BK == -torch.inf
    pad = (0, count - kept)
    item_BK = torch.nn.functional.pad(item_BK.masked_fill(none_BK, 0), pad)
    return item_BK, torch.nn.functional.pad(value_BK.masked_fill(none_BK, 0), pad)


def ranks(score_BI: Tensor, target_B: Tensor, place_I: Tensor) -> Tensor:
    """Each target's place in its row's list of all items, from 1, float64 [B]; 0 where it is left out, NaN of NaN."""
    own_B = score_BI.gather(1, target_B[:, None])
    rank_B = 1.0 + (score_BI > own_B).sum(1).double()
    equal_BI = score_BI == own_B
    tied_b = (equal_BI.sum(1) > 1).nonzero()[:, 0]
    if len(tied_b):
        ahead_bI = equal_BI[tied_b] & (place_I < place_I[target_B[tied_b]][:, None])
        rank_B[tied_b] += ahead_bI.sum(1)
    rank_B = rank_B.where(own_B[:, 0] > -torch.inf, 0)
    return rank_B.where(~own_B[:, 0].isnan(), torch.nan)


def predictions(
    scores: Callable[[slice], Tensor], target_N: Tensor, seen: Callable[[slice], tuple[Any, Any]] | None, items: int
) -> Tensor:  # fmt: skip
    """Rank of the target, list and its scores for each query, float64 [N, WIDTH], in bounded memory.

    Args:
        scores: Some queries → their scores of all rows, float [B, I + 1]; may be overwritten.
        target_N: int64, the item that each query took.
        seen: Some queries → whose each item to leave out is, int64 [S], and its row, int [S]; None: none is left out.
        items: I.
    """
    place_I = torch.as_tensor(places(items + 1), device=target_N.device)
    found = torch.empty((len(target_N), WIDTH), dtype=torch.float64, device=target_N.device)
    size = max(BLOCK_NUMBERS // (items + 1), 1)
    for start in range(0, len(target_N), size):
        block = slice(start, min(start + size, len(target_N)))
        score_BI = scores(block)
        leave_out(score_BI, None if seen is None else seen(block))
        item_BK, value_BK = best(score_BI, place_I, LISTED)
        rank_B = ranks(score_BI, target_N[block], place_I)
        found[block] = torch.cat([rank_B[:, None], item_BK.double(), value_BK.double()], 1)
    return found


def leave_out(score_BI: Tensor, seen: tuple[Any, Any] | None) -> None:
    """Put −∞ where an item is seen, and in row 0, in place."""
    score_BI[:, 0] = -torch.inf
    if seen is not None:
        owner_S, item_S = (torch.as_tensor(part, device=score_BI.device).long() for part in seen)
        score_BI[owner_S, item_S] = -torch.inf


def rank_of(prediction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks of predictions, [N]; 0: not in the list at all."""
    return prediction[:, 0]


def items_of(prediction: NDArray[np.float64]) -> NDArray[np.int64]:
    """Item rows of the lists of predictions, [N, K]; 0 past the last item."""
    return prediction[:, 1 : 1 + LISTED].astype(np.int64)


def scores_of(prediction: NDArray[np.float64]) -> NDArray[np.float32]:
    """Scores of these items, [N, K]."""
    return prediction[:, 1 + LISTED :].astype(np.float32)
