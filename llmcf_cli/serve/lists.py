"""Users → the items of the whole catalogue that suit them best.

Legend: N users, B block of them, K items of a list, I items, S items to leave out.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import EntityTable, Samples, to_batch
from llmcf_cli.features.spec import list_parts
from llmcf_cli.rec.input.events import EVENTS
from llmcf_cli.rec.recommender import Recommender

SCORES_AT_ONCE = 1 << 24


@dataclass(frozen=True)
class Choice:
    """What a list may hold.

    Attributes:
        allow: Ids of the only items to choose from; None: all.
        deny: Ids of items to leave out.
        filter_seen: Whether items that the user took are left out.
    """

    allow: Collection[str] | None = None
    deny: Collection[str] = ()
    filter_seen: bool = True


def best_items(model: Recommender, users: Samples, asked: pa.Table, k: int, choice: Choice) -> pa.Table:
    """See `Scorer.recommend`.

    Args:
        model: Makes the lists.
        users: Each request's user, history and time.
        asked: `user_id` of each request, and `history`: rows of all its items, whatever of them the model reads.
        k: K.
        choice: What a list may hold.
    """
    if k < 1:
        raise DataError(f"a list of {k} items", code="request-value", where="k", hint="ask for at least 1")
    items = model.resources.catalog.items
    banned_I = _banned(items, choice)
    row_NK, score_NK = np.zeros((len(users), k), np.int64), np.zeros((len(users), k), np.float32)
    size = max(SCORES_AT_ONCE // len(banned_I), 1)
    for start in range(0, len(users), size):
        block = slice(start, min(start + size, len(users)))
        part, own = users.take(block), asked["history"].slice(start, size).combine_chunks()
        left_out = _left_out(model, part, own, banned_I, choice.filter_seen)
        with torch.inference_mode():
            found = model.listed(to_batch(part, model.device), k, left_out)
        row_NK[block], score_NK[block] = (tensor.cpu().numpy() for tensor in found)
    _refuse(users, asked, row_NK, k)
    return pa.table({
        "user_id": asked["user_id"].combine_chunks().take(pa.array(np.repeat(np.arange(len(users)), k))),
        "rank": np.tile(np.arange(1, k + 1), len(users)),
        "item_id": items.ids.take(pa.array(row_NK.ravel() - 1)), "score": score_NK.ravel(),
    })  # fmt: skip


def _banned(items: EntityTable, choice: Choice) -> NDArray[np.bool_]:
    """Which item rows are in nobody's list, bool [I + 1]."""
    banned_I = np.zeros(len(items.ids) + 1, bool)
    if choice.allow is not None:
        banned_I[:] = True
        banned_I[_rows(items, choice.allow, "allow")] = False
    banned_I[_rows(items, choice.deny, "deny")] = True
    return banned_I


def _rows(items: EntityTable, ids: Collection[str], where: str) -> NDArray[np.int32]:
    given = pa.array(list(ids), pa.string())
    rows = items.rows(given)
    if (unknown_n := rows == 0).any():
        first, others = given.filter(pa.array(unknown_n))[0].as_py(), int(unknown_n.sum()) - 1
        what = f"item {first!r} is not in the catalogue" + f", nor are {others:,} more" * (others > 0)
        raise DataError(what, code="id-unknown", where=where, hint=f"leave it out of {where}")
    return rows


def _left_out(
    model: Recommender, users: Samples, own: pa.Array, banned_I: NDArray[np.bool_], filter_seen: bool
) -> tuple[Any, Any]:  # fmt: skip
    """Whose each item to leave out is, int64 [S], and its row."""
    banned = np.flatnonzero(banned_I)
    owners, rows = [np.repeat(np.arange(len(users)), len(banned))], [np.tile(banned, len(users))]
    if filter_seen:
        values, length_B = list_parts(own)
        owners.append(np.repeat(np.arange(len(users)), length_B))
        rows.append(values.to_numpy(zero_copy_only=False).astype(np.int64))
        if (events := model.resources.get(EVENTS)) is not None:
            for kept, part in zip((owners, rows), events.seen(users.user_row_N, users.time_N), strict=True):
                kept.append(part)
    return np.concatenate(owners), np.concatenate(rows)


def _refuse(users: Samples, asked: pa.Table, row_NK: NDArray[np.int64], k: int) -> None:
    """Users without any event, and lists that would be too short."""
    nothing_n = np.flatnonzero(~(users.history_row_NL > 0).any(1))
    if len(nothing_n):
        user = asked["user_id"][int(nothing_n[0])].as_py()
        known = (
            "is known, but the bundle keeps none of its events" if users.user_row_N[nothing_n[0]] else "is not known"
        )
        raise DataError(
            f"user {user!r} {known}, and the request brings no item of the catalogue as its history",
            code="history-missing", where="recommend", hint="give the items that the user took, oldest first: history",
        )  # fmt: skip
    short_n = np.flatnonzero(row_NK[:, -1] == 0)
    if len(short_n):
        user, left = asked["user_id"][int(short_n[0])].as_py(), int((row_NK[short_n[0]] > 0).sum())
        raise DataError(
            f"{left:,} items are left for user {user!r}, fewer than the {k:,} asked for", code="list-too-short",
            where="recommend", hint=f"ask for at most {left:,}, or allow more items" if left else "allow more items",
        )  # fmt: skip
