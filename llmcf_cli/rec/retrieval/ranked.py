"""Scores of the whole catalogue → the target's rank and the best items, block by block.

A list holds the items in falling order of their scores; equal ones stand in a fixed pseudo-random order of the
catalogue, the same for every model. Row 0 and items that are left out have the score −∞ and are in no list.

Legend: N queries, B block of them, I items, K listed items, S items to leave out, G groups of items, X items of some.
"""

from __future__ import annotations

import math
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
HELD = 1 << 24
"""Scores held at once, however large the catalogue."""
CACHED = 1 << 20
"""Scores that a processor reads again from its cache: they are read six times."""
FEW = 64
"""Queries that a processor multiplies at once in any case: the items' vectors are read once for all of them."""


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
    # One more tells whether equals of the last one were left out.
    value_BK, item_BK = _largest(score_BI, min(kept + 1, score_BI.shape[1]))
    torn_B = torch.zeros(len(score_BI), dtype=torch.bool, device=score_BI.device)
    if value_BK.shape[1] > kept:
        torn_B = (value_BK[:, kept] == value_BK[:, kept - 1]) & (value_BK[:, kept] > -torch.inf)
    value_BK, item_BK = value_BK[:, :kept], item_BK[:, :kept]
    if torn_B.any():
        item_BK[torn_B] = _with_first_equals(score_BI[torn_B], value_BK[torn_B], item_BK[torn_B], place_I)
    by_place_BK = place_I[item_BK].argsort(1)
    value_BK, item_BK = value_BK.gather(1, by_place_BK), item_BK.gather(1, by_place_BK)
    by_value_BK = value_BK.argsort(dim=1, descending=True, stable=True)
    value_BK, item_BK = value_BK.gather(1, by_value_BK), item_BK.gather(1, by_value_BK)
    none_BK = value_BK == -torch.inf
    pad = (0, count - kept)
    item_BK = torch.nn.functional.pad(item_BK.masked_fill(none_BK, 0), pad)
    return item_BK, torch.nn.functional.pad(value_BK.masked_fill(none_BK, 0), pad)


def _largest(x_BI: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """As `topk` of each row; which equals of the last one are among them is not said.

    Items stand in G groups. A number among the `count` largest is in one of the `count` groups with the largest maxima,
    or equals the last one; so few items are compared with each other.
    """
    width = x_BI.shape[1]
    groups = 2 * math.isqrt(count * width)
    depth = width // groups
    if depth < 2 or groups <= count:
        return x_BI.topk(count, dim=1)
    top_BG = x_BI[:, : depth * groups].unflatten(1, (depth, groups)).amax(1)
    group_BK = top_BG.topk(count, dim=1, sorted=False).indices
    start_d, rest_r = (
        torch.arange(*of, device=x_BI.device) for of in ((0, depth * groups, groups), (depth * groups, width))
    )
    item_BX = torch.cat([(group_BK[..., None] + start_d).flatten(1), rest_r.expand(len(x_BI), -1)], 1)
    value_BK, at_BK = x_BI.gather(1, item_BX).topk(count, dim=1)
    return value_BK, item_BX.gather(1, at_BK)


def _with_first_equals(score_bI: Tensor, value_bK: Tensor, item_bK: Tensor, place_I: Tensor) -> Tensor:
    """The items of each row's K largest scores, falling; equals of the last are those that stand first."""
    last_b1 = value_bK[:, -1:]
    behind_bI = torch.where(score_bI == last_b1, -place_I, 1 - len(place_I))
    first_bK = place_I.argsort()[-_largest(behind_bI, value_bK.shape[1])[0].sort(descending=True).values]
    ahead_b1 = (value_bK > last_b1).sum(1, keepdim=True)
    number_K = torch.arange(value_bK.shape[1], device=score_bI.device)
    return torch.where(number_K < ahead_b1, item_bK, first_bK.gather(1, (number_K - ahead_b1).clamp_min(0)))


def ranks(score_BI: Tensor, target_B: Tensor, place_I: Tensor, mark_BI: Tensor | None = None) -> Tensor:
    """Each target's place in its row's list of all items, from 1, float64 [B]; 0 where it is left out, NaN of NaN.

    Args:
        score_BI: Scores of all rows, float32.
        target_B: Row of each target.
        place_I: Where each row stands among its equals.
        mark_BI: Memory to write to, like the scores; new memory takes as long as the rest.
    """
    own_B1 = score_BI.gather(1, target_B[:, None])
    own_B = own_B1[:, 0]
    mark_BI = torch.empty_like(score_BI) if mark_BI is None else mark_BI
    # Marks are float32: their sum is computed faster than that of truth values, and exact to 16 million.
    rank_B = 1 + torch.gt(score_BI, own_B1, out=mark_BI).sum(1).double()
    equal_B = torch.ge(score_BI, own_B1, out=mark_BI).sum(1).double() - rank_B
    tied_b = (equal_B > 0).nonzero()[:, 0]
    if len(tied_b):
        ahead_bI = (score_BI[tied_b] == own_B1[tied_b]) & (place_I < place_I[target_B[tied_b]][:, None])
        rank_B[tied_b] += ahead_bI.sum(1)
    rank_B = rank_B.where(own_B > -torch.inf, 0)
    return rank_B.where(~own_B.isnan(), torch.nan)


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
    size = _at_once(items + 1, target_N.device)
    mark_BI = torch.empty((min(size, len(target_N)), items + 1), device=target_N.device)
    for start in range(0, len(target_N), size):
        block = slice(start, min(start + size, len(target_N)))
        score_BI = scores(block)
        leave_out(score_BI, None if seen is None else seen(block))
        item_BK, value_BK = best(score_BI, place_I, LISTED)
        rank_B = ranks(score_BI, target_N[block], place_I, mark_BI[: len(score_BI)])
        found[block] = torch.cat([rank_B[:, None], item_BK.double(), value_BK.double()], 1)
    return found


def _at_once(rows: int, device: torch.device) -> int:
    """Queries of a block."""
    most = max(HELD // rows, 1)
    return most if device.type != "cpu" else min(most, max(CACHED // rows, FEW))


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
