"""How many of a query's examples may be of one user or item, and the greedy choice under such limits.

Legend: N all queries, R some of them, P pools (one per label, or one), C candidates, K = P · quota examples per query.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

NONE = np.iinfo(np.int64).min
"""Code of no candidate; below every other."""


@dataclass(frozen=True)
class Limits:
    """What the examples of one query may have in common. False where nothing is limited.

    Attributes:
        max_per_user: Most examples of one user; None: any number.
        distinct_items: Whether no two may be of the same item.
    """

    max_per_user: int | None = None
    distinct_items: bool = False

    def __bool__(self) -> bool:
        return self.max_per_user is not None or self.distinct_items


@dataclass(frozen=True)
class Barred:
    """What queries can take no more of, [R, K] each, -1 where there is nothing.

    Attributes:
        user_RK: Users of whom they have as many examples as they may.
        item_RK: Items that they have.
        code_RK: The examples that they have; `NONE` where there is none.
    """

    user_RK: np.ndarray
    item_RK: np.ndarray
    code_RK: np.ndarray

    def take(self, rows: np.ndarray) -> Barred:
        """Those of some queries."""
        return Barred(self.user_RK[rows], self.item_RK[rows], self.code_RK[rows])


class Choice:
    """Examples of some queries, taken greedily: from the best candidate down, each that quota and limits allow.

    What is taken depends on nothing below it. So a search that gives the best few candidates of each pool decides
    as far down as those lists reach; what they leave open is looked up again without what is `barred`. The best
    candidate that is not barred is always taken, so K rounds settle everything.

    Attributes:
        code_NK: int64, codes of the examples taken, best first; `NONE` in places that stay empty.
    """

    def __init__(self, num_queries: int, num_pools: int, quota: int, limits: Limits) -> None:
        shape = (num_queries, num_pools * quota)
        self.limits = limits
        self.code_NK = np.full(shape, NONE)
        self._user_NK, self._item_NK = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        self._taken_N = np.zeros(num_queries, np.int64)
        self._room_NP = np.full((num_queries, num_pools), quota)

    def barred(self, rows_R: np.ndarray) -> Barred:
        """What queries can take no more of."""
        user_RK, item_RK = self._user_NK[rows_R], self._item_NK[rows_R]
        if self.limits.max_per_user is None:
            user_RK = np.full_like(user_RK, -1)
        else:
            count_RK = (user_RK[:, :, None] == user_RK[:, None, :]).sum(2)
            user_RK = np.where(count_RK >= self.limits.max_per_user, user_RK, -1)
        if not self.limits.distinct_items:
            item_RK = np.full_like(item_RK, -1)
        return Barred(user_RK, item_RK, self.code_NK[rows_R])

    def walk(self, rows_R: np.ndarray, code_RPC: np.ndarray, user_RPC: np.ndarray, item_RPC: np.ndarray) -> np.ndarray:
        """Take what can be decided from lists of candidates.

        Args:
            rows_R: The queries.
            code_RPC: int64, the best candidates of each pool that are not barred, descending, `NONE` past the last; no
                code twice. A list that ends in `NONE` is all there is, any other the beginning of a longer one.
            user_RPC: Their users.
            item_RPC: Their items.

        Returns:
            bool [R]: whether a query is settled.
        """
        rows, _, width = code_RPC.shape
        floor_RP = code_RPC[:, :, -1]  # a pool is known down to here
        order_RC = np.argsort(code_RPC.reshape(rows, -1), axis=1)[:, ::-1]
        code_RC, user_RC, item_RC = (
            np.take_along_axis(part.reshape(rows, -1), order_RC, 1) for part in (code_RPC, user_RPC, item_RPC)
        )
        pool_RC, at_R = order_RC // width, np.arange(rows)
        cut_R = np.zeros(rows, bool)
        for code_R, user_R, item_R, pool_R in zip(code_RC.T, user_RC.T, item_RC.T, pool_RC.T, strict=True):
            room_RP = self._room_NP[rows_R] > 0
            # A pool with room whose list ended above this candidate may hold a better one.
            cut_R |= (room_RP & (floor_RP > code_R[:, None])).any(1)
            open_R = ~cut_R & (code_R != NONE) & room_RP.any(1)
            if not open_R.any():
                break
            open_R &= room_RP[at_R, pool_R] & self._allows(rows_R, user_R, item_R)
            self._take(rows_R[open_R], code_R[open_R], user_R[open_R], item_R[open_R], pool_R[open_R])
        full_RP = self._room_NP[rows_R] == 0
        done_R: np.ndarray = (full_RP | ((floor_RP == NONE) & ~cut_R[:, None])).all(1)
        return done_R

    def _allows(self, rows_R: np.ndarray, user_R: np.ndarray, item_R: np.ndarray) -> np.ndarray:
        allowed_R = np.ones(len(rows_R), bool)
        if self.limits.max_per_user is not None:
            allowed_R &= (self._user_NK[rows_R] == user_R[:, None]).sum(1) < self.limits.max_per_user
        if self.limits.distinct_items:
            allowed_R &= (self._item_NK[rows_R] != item_R[:, None]).all(1)
        return allowed_R

    def _take(self, rows: np.ndarray, code: np.ndarray, user: np.ndarray, item: np.ndarray, pool: np.ndarray) -> None:
        place = self._taken_N[rows]
        self.code_NK[rows, place], self._user_NK[rows, place], self._item_NK[rows, place] = code, user, item
        self._taken_N[rows] += 1
        self._room_NP[rows, pool] -= 1
