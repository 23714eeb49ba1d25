"""Users → the items of the whole catalogue that suit them best.

Legend: N users, B block of them, K items of the longest list, I items, S items to leave out, M items of all lists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
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
from llmcf_cli.serve.requests import to_ids

SCORES_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Wanted:
    """What a list is to hold.

    Attributes:
        k: Items of it.
        allow: Ids of the only items to choose from, string; None: all.
        deny: Ids of items to leave out, string.
        filter_seen: Whether items that the user took are left out.
        least: Items that are enough where there are no more.
    """

    k: int
    allow: pa.Array | None
    deny: pa.Array
    filter_seen: bool
    least: int

    @classmethod
    def of(cls, k: int, allow: Collection[Any] | None, deny: Collection[Any], filter_seen: bool) -> Wanted:
        """With ids as users write them.

        Raises:
            DataError: k is below 1, or an id is none.
        """
        if k < 1:
            raise DataError(f"the list has {k} items", code="request-value", where="k", hint="ask for at least 1")
        only = None if allow is None else to_ids(list(allow), "allow")
        return cls(k, only, to_ids(list(deny), "deny"), filter_seen, k)

    def widened(self, candidates: int) -> Wanted:
        """A list of that many items, of fewer where there are no more; of no fewer than this one."""
        return replace(self, k=max(self.k, candidates))


@dataclass(frozen=True)
class UserLists:
    """Lists of items, best first; M items of all lists together.

    Attributes:
        user_ids: string [N].
        user_known_N: bool, whether training saw the user.
        event_N: int64, events of history that the model read: given, or kept in the bundle.
        lacking_N: int64, events of the given history that the catalogue lacks.
        list_M: int64, which list each item is of.
        item_ids: string [M].
        score_M: float32.
    """

    user_ids: pa.Array
    user_known_N: NDArray[np.bool_]
    event_N: NDArray[np.int64]
    lacking_N: NDArray[np.int64]
    list_M: NDArray[np.int64]
    item_ids: pa.Array
    score_M: NDArray[np.float32]

    @property
    def size_N(self) -> NDArray[np.int64]:
        """Items of each list."""
        return np.bincount(self.list_M, minlength=len(self.user_ids))

    def in_order(self, score_M: NDArray[np.float32], k_N: NDArray[np.int64]) -> UserLists:
        """The first k of each list by other scores; equals stay in the order that they have."""
        order_M = np.lexsort((-score_M, self.list_M))
        list_M = self.list_M[order_M]
        size_N = self.size_N
        place_M = np.arange(len(list_M)) - (np.cumsum(size_N) - size_N)[list_M]
        kept_m = order_M[place_M < k_N[list_M]]
        return replace(self, list_M=self.list_M[kept_m], item_ids=self.item_ids.take(pa.array(kept_m)),
                       score_M=score_M[kept_m])  # fmt: skip

    def to_arrow(self) -> pa.Table:
        """Columns user_id, rank (int64, from 1), item_id and score (float32), list by list."""
        size_N = self.size_N
        rank_M = np.arange(1, len(self.list_M) + 1) - np.repeat(np.cumsum(size_N) - size_N, size_N)
        return pa.table({"user_id": self.user_ids.take(pa.array(self.list_M)), "rank": rank_M,
                         "item_id": self.item_ids, "score": self.score_M})  # fmt: skip


def best_items(
    model: Recommender,
    users: Samples,
    asked: pa.Table,
    own: pa.Array,
    wanted: Sequence[Wanted],
    values: Callable[[Samples], Mapping[str, NDArray[Any] | None]],
) -> UserLists:
    """The lists of some users.

    Args:
        model: Makes the lists.
        users: Each request's user, history and time.
        asked: What they were made of: `user_id`, `history`.
        own: Item rows of each request's history that the catalogue has, whatever of them the model reads.
        wanted: What each list is to hold.
        values: Requests → the values of the inputs that the model reads.

    Raises:
        ModelError: The model makes no lists.
        DataError: Nothing is known that a user did, fewer items are left than a list is to hold, or an id of `allow` or
            `deny` is unknown.
    """
    items = model.resources.catalog.items
    banned = {number: _banned(items, one) for number, one in {id(one): one for one in wanted}.items()}
    widest = min(max((one.k for one in wanted), default=1), len(items.ids))
    row_NK, score_NK = np.zeros((len(users), widest), np.int64), np.zeros((len(users), widest), np.float32)
    size = max(SCORES_AT_ONCE // (len(items.ids) + 1), 1)
    for start in range(0, len(users), size):
        block = slice(start, min(start + size, len(users)))
        part = users.take(block)
        left_out = _left_out(model, part, own[block], [(banned[id(one)], one.filter_seen) for one in wanted[block]])
        batch = to_batch(part, model.device, inputs=values(part))
        with torch.inference_mode():
            found = model.listed(batch, widest, left_out)
        row_NK[block], score_NK[block] = (tensor.cpu().numpy() for tensor in found)
    _refuse(users, asked, (row_NK > 0).sum(1), np.array([one.least for one in wanted], np.int64))
    k_N = np.array([one.k for one in wanted], np.int64)
    inside_NK = (row_NK > 0) & (np.arange(widest) < k_N[:, None])
    list_M = np.repeat(np.arange(len(users)), inside_NK.sum(1))
    return UserLists(
        asked["user_id"].combine_chunks(), users.user_row_N > 0, (users.history_row_NL > 0).sum(1),
        _lengths(asked["history"].combine_chunks()) - _lengths(own), list_M,
        items.ids.take(pa.array(row_NK[inside_NK] - 1)), score_NK[inside_NK],
    )  # fmt: skip


def _lengths(lists: pa.Array) -> NDArray[np.int64]:
    return np.asarray(list_parts(lists)[1], np.int64)


def _banned(items: EntityTable, wanted: Wanted) -> NDArray[np.int64]:
    """Item rows that may not be in a list, whoever's it is."""
    banned_I = np.zeros(len(items.ids) + 1, bool)
    if wanted.allow is not None:
        banned_I[:] = True
        banned_I[_rows(items, wanted.allow, "allow")] = False
    banned_I[_rows(items, wanted.deny, "deny")] = True
    return np.flatnonzero(banned_I)


def _rows(items: EntityTable, given: pa.Array, where: str) -> NDArray[np.int32]:
    rows = items.rows(given)
    if (unknown_n := rows == 0).any():
        first, others = given.filter(pa.array(unknown_n))[0].as_py(), int(unknown_n.sum()) - 1
        what = f"item {first!r} is not in the catalogue" + f", nor are {others:,} more" * (others > 0)
        raise DataError(what, code="id-unknown", where=where, hint=f"leave it out of {where}")
    return rows


def _left_out(
    model: Recommender, users: Samples, own: pa.Array, choices: Sequence[tuple[NDArray[np.int64], bool]]
) -> tuple[Any, Any]:  # fmt: skip
    """Whose each item to leave out is, int64 [S], and its row; of choices: banned rows, and whether seen ones are."""
    owners = [np.repeat(np.arange(len(users)), [len(banned) for banned, _ in choices])]
    rows = [banned for banned, _ in choices]
    filters_B = np.array([filter_seen for _, filter_seen in choices], bool)
    if filters_B.any():
        values, length_B = list_parts(own)
        seen = [(np.repeat(np.arange(len(users)), length_B), values.to_numpy(zero_copy_only=False).astype(np.int64))]
        if (events := model.resources.get(EVENTS)) is not None:
            seen.append(events.seen(users.user_row_N, users.time_N))
        for owner_s, row_s in seen:
            kept_s = filters_B[owner_s]
            owners.append(owner_s[kept_s])
            rows.append(row_s[kept_s])
    return np.concatenate(owners), np.concatenate(rows)


def _refuse(users: Samples, asked: pa.Table, left_N: NDArray[np.int64], k_N: NDArray[np.int64]) -> None:
    """Users without any event, and lists that would be too short."""
    nothing_n = np.flatnonzero(~(users.history_row_NL > 0).any(1))
    if len(nothing_n):
        user = asked["user_id"][int(nothing_n[0])].as_py()
        known = (
            "is known, but the bundle has no earlier event of theirs"
            if users.user_row_N[nothing_n[0]]
            else "is unknown"
        )
        raise DataError(
            f"user {user!r} {known}, and the request's history has no item of the catalogue",
            code="history-missing", where="recommend",
            hint="give a history (--history on the command line): items that the user took, oldest first",
        )  # fmt: skip
    short_n = np.flatnonzero(left_N < k_N)
    if len(short_n):
        user, left, k = asked["user_id"][int(short_n[0])].as_py(), int(left_N[short_n[0]]), int(k_N[short_n[0]])
        raise DataError(
            f"{left:,} items are left for user {user!r}, fewer than the {k:,} requested", code="list-too-short",
            where="recommend", hint=f"ask for at most {left:,}, or allow more items" if left else "allow more items",
        )  # fmt: skip
