"""Negative items for implicit data: weights per item, and a sampler that never hits a user's own items.

Legend: P positives of a batch, K negatives per positive, I items, S (user, item) pairs seen, C candidates of one user.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data.config import PopularityNegativesConfig, UniformNegativesConfig
from llmcf_cli.data.raw import scalar

_BATCH_DRAWS = 1_000_000
_MAX_ROUNDS = 64
_EXACT_CELLS = 4_000_000


class Negatives(Protocol):
    """A distribution over items: built with its configuration."""

    def weights(self, con: Any) -> np.ndarray:
        """Weight of each item, float64 [I] by item_row − 1, from the tables `event` and `item_number`."""


class UniformNegatives:
    """Every item alike."""

    def __init__(self, config: UniformNegativesConfig) -> None:
        self._config = config

    def weights(self, con: Any) -> np.ndarray:
        """See `Negatives.weights`."""
        return np.ones(scalar(con, "SELECT count(*) FROM item_number"), dtype=np.float64)


class PopularityNegatives:
    """An item's number of train interactions, to the power of `exponent`. Later splits are not looked at."""

    def __init__(self, config: PopularityNegativesConfig) -> None:
        self._config = config

    def weights(self, con: Any) -> np.ndarray:
        """See `Negatives.weights`."""
        counts_I = con.execute(
            "SELECT count(event.item_row) AS count FROM item_number LEFT JOIN event "
            "ON item_number.item_row = event.item_row AND event.split = 'train' "
            "GROUP BY item_number.item_row ORDER BY item_number.item_row"
        ).fetchnumpy()["count"]
        return np.asarray(counts_I, dtype=np.float64) ** self._config.exponent


def insert_negatives(con: Any, weights_I: np.ndarray, per_positive: int, seed: int) -> tuple[int, int]:
    """Add `per_positive` negatives with label 0 to `labelled` for every event, with its user, time and split.

    Users are taken in batches, so memory is bounded by the batch and the largest single user.

    Args:
        weights_I: Weight of each item, float64; 0: never drawn.

    Returns:
        Negatives drawn, and how many fewer that is than asked for.
    """
    drawn = short = 0
    for number, (first, last) in enumerate(_user_ranges(con, max(1, _BATCH_DRAWS // per_positive))):
        events = con.sql(
            f"SELECT user_row, item_row, time, split FROM event WHERE user_row BETWEEN {first} AND {last} "
            "ORDER BY user_row, time, item_row"
        ).to_arrow_table()
        rng = np.random.default_rng(derive_seed(seed, number))
        user_P = events["user_row"].to_numpy().astype(np.int64)
        item_P = events["item_row"].to_numpy().astype(np.int64)
        item_PK = sample_negatives(user_P, item_P, weights_I, per_positive, rng)
        found_PK = item_PK > 0
        take = pa.array(np.repeat(np.arange(len(user_P)), found_PK.sum(axis=1)))
        negatives = events.select(["user_row", "time", "split"]).take(take)
        negatives = negatives.append_column("item_row", pa.array(item_PK[found_PK].astype(np.int32)))
        con.register("negatives_batch", negatives)
        con.execute("INSERT INTO labelled SELECT user_row, item_row, 0::TINYINT, time, split FROM negatives_batch")
        con.unregister("negatives_batch")
        drawn += len(negatives)
        short += item_PK.size - len(negatives)
    return drawn, short


def _user_ranges(con: Any, events: int) -> Iterator[tuple[int, int]]:
    """Ranges of user rows, both ends included, with about `events` events each."""
    count_U = con.execute("SELECT count(*) AS count FROM event GROUP BY user_row ORDER BY user_row").fetchnumpy()[
        "count"
    ]
    batch_U = (np.cumsum(count_U) - count_U) // events
    first = np.flatnonzero(np.diff(batch_U, prepend=-1)) + 1
    yield from zip(first.tolist(), [*(first[1:] - 1).tolist(), len(count_U)], strict=True)


def sample_negatives(
    user_P: np.ndarray, item_P: np.ndarray, weights_I: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw `count` different items for every positive, none of which its user has among the positives.

    Rejection sampling on all rows at once where at least half of the draws would be accepted; users who know most of
    the catalogue draw from the exact complement of their items.

    Args:
        user_P, item_P: All positives of some users (int64), items from 1.
        weights_I: Unnormalised probability of each item, float64.

    Returns:
        Item rows, int64 [P, K]; 0 at the end of a row where the user has too few items left.
    """
    stride = len(weights_I) + 1
    seen_S = np.unique(user_P * stride + item_P)
    users_U, index_P = np.unique(user_P, return_inverse=True)
    index_S = np.searchsorted(users_U, seen_S // stride)
    weight_S = weights_I[seen_S % stride - 1]
    free_mass_U = weights_I.sum() - np.bincount(index_S, weights=weight_S, minlength=len(users_U))
    free_count_U = np.count_nonzero(weights_I) - np.bincount(index_S, weights=weight_S > 0, minlength=len(users_U))
    dense_U = (free_mass_U < weights_I.sum() / 2) | (free_count_U < 4 * count)
    item_PK = np.zeros((len(user_P), count), dtype=np.int64)
    easy_P = ~dense_U[index_P]
    item_PK[easy_P] = _reject(user_P[easy_P], seen_S, weights_I, count, rng)
    rest_P = np.flatnonzero((item_PK == 0).any(axis=1))
    if not len(rest_P):
        return item_PK
    rest_P = rest_P[np.argsort(user_P[rest_P], kind="stable")]
    for row_P in np.split(rest_P, np.flatnonzero(np.diff(user_P[rest_P])) + 1):
        user = user_P[row_P[0]]
        start, stop = np.searchsorted(seen_S, [user * stride, (user + 1) * stride])
        item_PK[row_P] = _exact(len(row_P), seen_S[start:stop] % stride, weights_I, count, rng)
    return item_PK


def _reject(
    user_P: np.ndarray, seen_S: np.ndarray, weights_I: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Item rows, int64 [P, K]. A row that still has unfit draws after `_MAX_ROUNDS` comes back as zeros."""
    stride = len(weights_I) + 1
    cumulative_I = np.cumsum(weights_I)
    item_PK = np.zeros((len(user_P), count), dtype=np.int64)
    flat = item_PK.reshape(-1)
    open_D = np.arange(flat.size)
    for _ in range(_MAX_ROUNDS):
        if not len(open_D):
            break
        point_D = np.minimum(rng.random(len(open_D)) * cumulative_I[-1], np.nextafter(cumulative_I[-1], 0))
        draw_D = np.searchsorted(cumulative_I, point_D, side="right") + 1
        key_D = user_P[open_D // count] * stride + draw_D
        place_D = np.minimum(np.searchsorted(seen_S, key_D), len(seen_S) - 1)
        flat[open_D] = np.where(seen_S[place_D] == key_D, 0, draw_D)
        row_R = np.unique(open_D // count)
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


def _exact(rows: int, seen: np.ndarray, weights_I: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Weighted draws [rows, K] without replacement from what is not `seen`: the largest log w + Gumbel noise."""
    allowed_I = weights_I > 0
    allowed_I[seen - 1] = False
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
