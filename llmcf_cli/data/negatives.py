"""Negative items for implicit data: weights per item, and a sampler that knows nothing of a user's future.

A negative of a positive at time t is no item that its user has taken by t. What the user takes later protects nothing:
if it did, "drawn as a negative in train" would say that the user never takes the item, in the test period included.
Where repeats are kept only the items taken at t itself are protected: if the earlier ones were, "taken before" would
mean positive.

Legend: P positives of a batch, K negatives per positive, D draws, I items, S protected (group, item) pairs, C items
that one positive may draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data.config import PopularityNegativesConfig, UniformNegativesConfig
from llmcf_cli.data.raw import scalar
from llmcf_cli.plugin import Kind
from llmcf_cli.recipe.sections import Repeats

_BATCH_DRAWS = 1_000_000
_MAX_ROUNDS = 64
_EXACT_CELLS = 4_000_000


class Negatives(Protocol):
    """A distribution over items: built with its configuration."""

    def weights(self, con: Any) -> np.ndarray:
        """Weight of each item, float64 [I] by item_row − 1, from the tables `event` and `item_number`."""


NEGATIVES: Kind[Negatives] = Kind("negatives")


class UniformNegatives:
    """Every item alike."""

    def __init__(self, config: UniformNegativesConfig) -> None:
        self._config = config

    def weights(self, con: Any) -> np.ndarray:
        """See `Negatives.weights`."""
        return np.ones(scalar(con, "SELECT count(*) FROM item_number"), dtype=np.float64)


class PopularityNegatives:
    """An item's number of train interactions plus one, to the power of `exponent`. Later splits are not looked at.

    Plus one: an item that only later splits know would be an unmistakable positive there if it could not be drawn.
    """

    def __init__(self, config: PopularityNegativesConfig) -> None:
        self._config = config

    def weights(self, con: Any) -> np.ndarray:
        """See `Negatives.weights`."""
        counts_I = con.execute(
            "SELECT count(event.item_row) AS count FROM item_number LEFT JOIN event "
            "ON item_number.item_row = event.item_row AND event.split = 'train' "
            "GROUP BY item_number.item_row ORDER BY item_number.item_row"
        ).fetchnumpy()["count"]
        return (np.asarray(counts_I, dtype=np.float64) + 1) ** self._config.exponent


@dataclass(frozen=True)
class Positives:
    """Positive samples of some users, all of them.

    Attributes:
        user_P: int64.
        item_P: int64, from 1.
        time_P: int64.
    """

    user_P: np.ndarray
    item_P: np.ndarray
    time_P: np.ndarray

    def __len__(self) -> int:
        return len(self.user_P)


class Protected:
    """Which items a positive must not draw: those of its group that were taken by its time.

    A group is the user where repeats are dropped, and the user at one time where they are kept.
    """

    def __init__(self, positives: Positives, repeats: Repeats, num_items: int) -> None:
        group_P = positives.user_P
        if repeats == "keep":
            moments, moment_P = np.unique(positives.time_P, return_inverse=True)
            group_P = positives.user_P * len(moments) + moment_P
        self.group_P = np.unique(group_P, return_inverse=True)[1].astype(np.int64)
        self._stride = num_items + 1
        key_P = self.group_P * self._stride + positives.item_P
        order_P = np.lexsort((positives.time_P, key_P))
        self._key_S, first_S = np.unique(key_P[order_P], return_index=True)
        self._since_S = positives.time_P[order_P][first_S]

    def hits(self, group_D: np.ndarray, time_D: np.ndarray, item_D: np.ndarray) -> np.ndarray:
        """Whether each draw is protected from its positive, bool [D]."""
        key_D = group_D * self._stride + item_D
        place_D = np.minimum(np.searchsorted(self._key_S, key_D), len(self._key_S) - 1)
        hit_D: np.ndarray = (self._key_S[place_D] == key_D) & (self._since_S[place_D] <= time_D)
        return hit_D

    def of(self, group: int, time: int) -> np.ndarray:
        """The items protected from a positive of that group and time, int64."""
        start, stop = np.searchsorted(self._key_S, [group * self._stride, (group + 1) * self._stride])
        return self._key_S[start:stop][self._since_S[start:stop] <= time] % self._stride


def insert_negatives(
    con: Any, weights_I: np.ndarray, per_positive: int, repeats: Repeats, seed: int
) -> tuple[int, int]:
    """Add `per_positive` negatives with label 0 to `labelled` for every event, with its user, time and split.

    Users are taken in batches, so memory is bounded by the batch and the largest single user.

    Args:
        weights_I: Weight of each item, float64; 0: never drawn.
        repeats: Whether `event` holds a user's later events with an item.

    Returns:
        Negatives drawn, and how many fewer that is than asked for.
    """
    drawn = short = 0
    for number, events in enumerate(user_batches(con, max(1, _BATCH_DRAWS // per_positive))):
        rng = np.random.default_rng(derive_seed(seed, number))
        item_PK = sample_negatives(positives_of(events), repeats, weights_I, per_positive, rng)
        found_PK = item_PK > 0
        take = pa.array(np.repeat(np.arange(len(events)), found_PK.sum(axis=1)))
        negatives = events.select(["user_row", "time", "split"]).take(take)
        negatives = negatives.append_column("item_row", pa.array(item_PK[found_PK].astype(np.int32)))
        con.register("negatives_batch", negatives)
        con.execute(
            "INSERT INTO labelled SELECT user_row, item_row, 0::TINYINT, time, NULL, split FROM negatives_batch"
        )
        con.unregister("negatives_batch")
        drawn += len(negatives)
        short += item_PK.size - len(negatives)
    return drawn, short


def positives_of(events: pa.Table) -> Positives:
    """The columns user_row, item_row and time of `events` as arrays."""
    return Positives(*(events[name].to_numpy().astype(np.int64) for name in ("user_row", "item_row", "time")))


def user_batches(con: Any, events: int) -> Iterator[pa.Table]:
    """The rows of `event` (user_row, item_row, time, split), a range of users with about `events` of them at a time."""
    count_U = con.execute("SELECT count(*) AS count FROM event GROUP BY user_row ORDER BY user_row").fetchnumpy()[
        "count"
    ]
    user_U = con.execute("SELECT DISTINCT user_row FROM event ORDER BY user_row").fetchnumpy()["user_row"]
    batch_U = (np.cumsum(count_U) - count_U) // events
    first = np.flatnonzero(np.diff(batch_U, prepend=-1))
    for start, stop in zip(first, [*first[1:], len(user_U)], strict=True):
        yield con.sql(
            f"SELECT user_row, item_row, time, split FROM event WHERE user_row BETWEEN {user_U[start]} AND "
            f"{user_U[stop - 1]} ORDER BY user_row, time, item_row"
        ).to_arrow_table()


def sample_negatives(
    positives: Positives, repeats: Repeats, weights_I: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw `count` different items for every positive, none of which is protected from it.

    Rejection sampling on all rows at once; a row that finds too few draws from the exact complement.

    Args:
        positives: All positives of some users.
        repeats: Whether a user may have an item among them twice; see `Protected`.
        weights_I: Unnormalised probability of each item, float64.

    Returns:
        Item rows, int64 [P, K]; 0 at the end of a row where too few items are left.
    """
    protected = Protected(positives, repeats, len(weights_I))
    item_PK = _reject(positives, protected, weights_I, count, rng)
    rest_P = np.flatnonzero((item_PK == 0).any(axis=1))
    if not len(rest_P):
        return item_PK
    group_P, time_P = protected.group_P, positives.time_P
    rest_P = rest_P[np.lexsort((time_P[rest_P], group_P[rest_P]))]
    changes_P = (np.diff(group_P[rest_P]) != 0) | (np.diff(time_P[rest_P]) != 0)
    for row_P in np.split(rest_P, np.flatnonzero(changes_P) + 1):
        closed = protected.of(group_P[row_P[0]], time_P[row_P[0]])
        item_PK[row_P] = _exact(len(row_P), closed, weights_I, count, rng)
    return item_PK


def _reject(
    positives: Positives, protected: Protected, weights_I: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Item rows, int64 [P, K]. A row that still has unfit draws after `_MAX_ROUNDS` comes back as zeros."""
    cumulative_I = np.cumsum(weights_I)
    item_PK = np.zeros((len(positives), count), dtype=np.int64)
    flat = item_PK.reshape(-1)
    open_D = np.arange(flat.size)
    for _ in range(_MAX_ROUNDS):
        if not len(open_D):
            break
        point_D = np.minimum(rng.random(len(open_D)) * cumulative_I[-1], np.nextafter(cumulative_I[-1], 0))
        draw_D = np.searchsorted(cumulative_I, point_D, side="right") + 1
        row_D = open_D // count
        flat[open_D] = np.where(protected.hits(protected.group_P[row_D], positives.time_P[row_D], draw_D), 0, draw_D)
        row_R = np.unique(row_D)
        item_RK = _without_repeats(item_PK[row_R])
        item_PK[row_R] = item_RK
        open_R, open_K = np.nonzero(item_RK == 0)
        open_D = row_R[open_R] * count + open_K
    item_PK[open_D // count] = 0
    return item_PK


def _without_repeats(item_RK: np.ndarray) -> np.ndarray:
    """The same rows with 0 for an item that occurs further left in its row."""
    order_RK = np.argsort(item_RK, axis=1, kind="stable")
    sorted_RK = np.take_along_axis(item_RK, order_RK, axis=1)
    sorted_RK[:, 1:][np.diff(sorted_RK, axis=1) == 0] = 0
    result_RK = np.empty_like(item_RK)
    np.put_along_axis(result_RK, order_RK, sorted_RK, axis=1)
    return result_RK


def _exact(rows: int, closed: np.ndarray, weights_I: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Weighted draws [rows, K] without replacement from all items but `closed`: the largest log w + Gumbel noise."""
    allowed_I = weights_I > 0
    allowed_I[closed - 1] = False
    item_C = np.flatnonzero(allowed_I) + 1
    take = min(count, len(item_C))
    result = np.zeros((rows, count), dtype=np.int64)
    if take == 0:
        return result
    log_weight_C = np.log(weights_I[item_C - 1])
    step = max(1, _EXACT_CELLS // len(item_C))
    for start in range(0, rows, step):
        size = min(step, rows - start)
        key = log_weight_C + rng.gumbel(size=(size, len(item_C)))
        best = np.argpartition(-key, take - 1, axis=1)[:, :take]
        result[start : start + size, :take] = item_C[best]
    return result
