"""Negative items for implicit data: weights per item, and a sampler that knows nothing of a user's future.

A negative of a positive at time t is no item that its user has taken by t. What the user takes later protects nothing:
if it did, "drawn as a negative in train" would say that the user never takes the item, in the test period included.
Where repeats are kept only the items taken at t itself are protected: if the earlier ones were, "taken before" would
mean positive.

Where the split has cuts in time, a negative is an item that the train split knows, or that somebody has taken by t. And
every draw follows from the seed, the user's id, the item's id and the time of its positive, whatever else is drawn. So
rows that are added later change no negative of before.

Legend: P positives of a batch, K negatives per positive, D draws, I items, S protected (group, item) pairs, C items
that one positive may draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmcf_cli.core.seeding import GOLDEN, mixed, shifted
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.config import PopularityNegativesConfig, UniformNegativesConfig
from llmcf_cli.data.cut import Cuts
from llmcf_cli.data.raw import scalar
from llmcf_cli.plugin import Kind, registry
from llmcf_cli.recipe.dataset import Repeats

_BATCH_DRAWS = 1_000_000
_MAX_ROUNDS = 64
_EXACT_CELLS = 4_000_000
_ALWAYS = int(np.iinfo(np.int64).min)
PAIR = "(md5_number_lower(concat_ws(chr(31), user_id, item_id)) >> 1)::BIGINT"
"""SQL of a hash of a user's and an item's id: what is drawn for the two depends on it, and not on their row numbers."""


class Negatives(Protocol):
    """A distribution over items: built with its configuration."""

    def weights(self, con: Any) -> np.ndarray:
        """Weight of each item, float64 [I] by item_row − 1, from the table `catalogue` (see `make_catalogue`)."""


NEGATIVES: Kind[Negatives] = Kind("negatives")


class UniformNegatives:
    """Every item alike."""

    def __init__(self, config: UniformNegativesConfig) -> None:
        self._config = config

    def weights(self, con: Any) -> np.ndarray:
        """See `Negatives.weights`."""
        return np.ones(scalar(con, "SELECT count(*) FROM catalogue"), dtype=np.float64)


class PopularityNegatives:
    """An item's number of train interactions plus one, to the power of `exponent`. Later splits are not looked at.

    Plus one: an item that only later splits know would be an unmistakable positive there if it could not be drawn.
    """

    def __init__(self, config: PopularityNegativesConfig) -> None:
        self._config = config

    def weights(self, con: Any) -> np.ndarray:
        """See `Negatives.weights`."""
        counts_I = con.execute("SELECT train FROM catalogue ORDER BY item_row").fetchnumpy()["train"]
        return (np.asarray(counts_I, dtype=np.float64) + 1) ** self._config.exponent


def make_catalogue(con: Any, cuts: Cuts | None, items: str = "item_number", events: str = "event") -> None:
    """Create `catalogue(item_row, item_id, train, known)`: events of the train split, and since when it can be drawn.

    Args:
        con: Connection.
        cuts: Of the split. None: every item can be drawn at any time.
        items: Relation of all items (item_row, item_id).
        events: Relation of all events (item_row, time, split).
    """
    known = "NULL" if cuts is None else f"CASE WHEN min(time) >= {cuts.validation_from} THEN min(time) END"
    train = "count(*) FILTER (split = 'train')"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE catalogue AS SELECT item_row, item_id, {train} AS train, "
        f"coalesce({known}, {_ALWAYS})::BIGINT AS known FROM {items} JOIN {events} USING (item_row) GROUP BY ALL"
    )


@dataclass(frozen=True)
class Catalogue:
    """The items that can be drawn, in the order in which they became known, and by id among equals.

    Attributes:
        item_I: Their rows, int64.
        weight_I: Unnormalised probability, float64; 0: never drawn.
        known_I: Time from which each can be drawn, int64, ascending.
    """

    item_I: np.ndarray
    weight_I: np.ndarray
    known_I: np.ndarray

    @classmethod
    def read(cls, con: Any, negatives: ComponentConfig) -> Catalogue:
        """The table `catalogue`, with the weights of a kind of negatives."""
        weight_I = registry().build(NEGATIVES, negatives).weights(con)
        found = con.execute("SELECT item_row, known FROM catalogue ORDER BY known, item_id").fetchnumpy()
        item_I = np.asarray(found["item_row"], np.int64)
        return cls(item_I, np.asarray(weight_I, np.float64)[item_I - 1], np.asarray(found["known"], np.int64))

    @cached_property
    def cumulative_I(self) -> np.ndarray:
        """Running sum of the weights, float64."""
        total_I: np.ndarray = np.cumsum(self.weight_I)
        return total_I

    @cached_property
    def place_I(self) -> np.ndarray:
        """Position of each item by item_row − 1, int64."""
        place_I = np.empty(len(self.item_I), np.int64)
        place_I[self.item_I - 1] = np.arange(len(self.item_I))
        return place_I

    def known_by(self, time_P: np.ndarray) -> np.ndarray:
        """How many of the items, the first ones, can be drawn at each time, int64."""
        count_P: np.ndarray = np.searchsorted(self.known_I, time_P, side="right")
        return count_P


@dataclass(frozen=True)
class Positives:
    """Positive samples of some users, all of them.

    Attributes:
        user_P: int64.
        item_P: int64, from 1.
        time_P: int64.
        state_P: int64, a hash of each one's user id, item id and time: where its random numbers start.
    """

    user_P: np.ndarray
    item_P: np.ndarray
    time_P: np.ndarray
    state_P: np.ndarray

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

    def copies(self, count: int) -> Protected:
        """The same for the positives `count` times, one after the other."""
        found = copy(self)
        found.group_P = np.tile(self.group_P, count)
        return found

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


def insert_negatives(con: Any, catalogue: Catalogue, per_positive: int, repeats: Repeats, seed: int) -> tuple[int, int]:
    """Add `per_positive` negatives with label 0 to `labelled` for every event, with its user, time and split.

    Users are taken in batches, so memory is bounded by the batch and the largest single user.

    Args:
        catalogue: What can be drawn.
        repeats: Whether `event` holds a user's later events with an item.

    Returns:
        Negatives drawn, and how many fewer that is than asked for.
    """
    drawn = short = 0
    for events in user_batches(con, max(1, _BATCH_DRAWS // per_positive)):
        item_PK = sample_negatives(positives_of(events), repeats, catalogue, per_positive, seed)
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
    """The columns user_row, item_row, time and pair (see `PAIR`) of `events` as arrays."""
    user_P, item_P, time_P, pair_P = (
        events[name].to_numpy().astype(np.int64) for name in ("user_row", "item_row", "time", "pair")
    )
    return Positives(user_P, item_P, time_P, mixed(mixed(pair_P) ^ time_P))


def user_batches(con: Any, events: int) -> Iterator[pa.Table]:
    """The rows of `event` (user_row, item_row, time, split, pair), users with about `events` of them at a time."""
    count_U = con.execute("SELECT count(*) AS count FROM event GROUP BY user_row ORDER BY user_row").fetchnumpy()[
        "count"
    ]
    user_U = con.execute("SELECT DISTINCT user_row FROM event ORDER BY user_row").fetchnumpy()["user_row"]
    if not len(user_U):
        return
    batch_U = (np.cumsum(count_U) - count_U) // events
    first = np.flatnonzero(np.diff(batch_U, prepend=-1))
    for start, stop in zip(first, [*first[1:], len(user_U)], strict=True):
        yield con.sql(
            f"SELECT user_row, item_row, time, split, pair FROM event WHERE user_row BETWEEN {user_U[start]} AND "
            f"{user_U[stop - 1]} ORDER BY user_row, time, item_row"
        ).to_arrow_table()


def sample_negatives(positives: Positives, repeats: Repeats, catalogue: Catalogue, count: int, seed: int) -> np.ndarray:
    """Draw `count` different items for every positive, none of which is protected from it.

    Rejection sampling on all rows at once; a row that finds too few draws from the exact complement.

    Args:
        positives: All positives of some users.
        repeats: Whether a user may have an item among them twice; see `Protected`.
        catalogue: What can be drawn.
        seed: With each positive's state it decides what is drawn.

    Returns:
        Item rows, int64 [P, K]; 0 at the end of a row where too few items are left.
    """
    protected = Protected(positives, repeats, len(catalogue.item_I))
    return draw_negatives(positives, protected, catalogue, count, seed)


def draw_negatives(
    positives: Positives, protected: Protected, catalogue: Catalogue, count: int, seed: int
) -> np.ndarray:
    """As `sample_negatives`, with what is protected from the positives."""
    state_P = mixed(positives.state_P ^ np.int64(seed))
    item_PK = _reject(positives, protected, catalogue, count, state_P)
    rest_P = np.flatnonzero((item_PK == 0).any(axis=1))
    if not len(rest_P):
        return item_PK
    group_P, time_P = protected.group_P, positives.time_P
    rest_P = rest_P[np.lexsort((time_P[rest_P], group_P[rest_P]))]
    changes_P = (np.diff(group_P[rest_P]) != 0) | (np.diff(time_P[rest_P]) != 0)
    for row_P in np.split(rest_P, np.flatnonzero(changes_P) + 1):
        closed = protected.of(group_P[row_P[0]], time_P[row_P[0]])
        known = int(catalogue.known_by(time_P[row_P[:1]])[0])
        item_PK[row_P] = _exact(state_P[row_P], closed, catalogue, known, count)
    return item_PK


def _reject(
    positives: Positives, protected: Protected, catalogue: Catalogue, count: int, state_P: np.ndarray
) -> np.ndarray:
    """Item rows, int64 [P, K]. A row that still has unfit draws after `_MAX_ROUNDS` comes back as zeros."""
    known_P = catalogue.known_by(positives.time_P)
    weight_P = np.append(0.0, catalogue.cumulative_I)[known_P]
    item_PK = np.zeros((len(positives), count), dtype=np.int64)
    flat = item_PK.reshape(-1)
    open_D = np.arange(flat.size)
    for number in range(_MAX_ROUNDS):
        if not len(open_D):
            break
        row_D, slot_D = np.divmod(open_D, count)
        weight_D = weight_P[row_D]
        random_D = _uniform(state_P[row_D] + (number * count + slot_D + 1) * np.int64(GOLDEN))
        point_D = np.minimum(random_D * weight_D, np.nextafter(weight_D, 0))
        place_D = np.searchsorted(catalogue.cumulative_I, point_D, side="right")
        fits_D = (weight_D > 0) & (place_D < known_P[row_D])
        draw_D = np.where(fits_D, catalogue.item_I[np.minimum(place_D, len(catalogue.item_I) - 1)], 0)
        flat[open_D] = np.where(protected.hits(protected.group_P[row_D], positives.time_P[row_D], draw_D), 0, draw_D)
        row_R = row_D[np.flatnonzero(np.diff(row_D, prepend=-1))]  # ascending, so this is what np.unique sorts for
        item_RK = _without_repeats(item_PK[row_R])
        item_PK[row_R] = item_RK
        open_R, open_K = np.nonzero(item_RK == 0)
        open_D = row_R[open_R] * count + open_K
    item_PK[open_D // count] = 0
    return item_PK


def _uniform(state: np.ndarray) -> np.ndarray:
    """A number between 0 and 1, both excluded, for each int64 state."""
    number: np.ndarray = (shifted(mixed(state), 11) + 0.5) * 2.0**-53
    return number


def _without_repeats(item_RK: np.ndarray) -> np.ndarray:
    """The same rows with 0 for an item that occurs further left in its row."""
    order_RK = np.argsort(item_RK, axis=1, kind="stable")
    sorted_RK = np.take_along_axis(item_RK, order_RK, axis=1)
    sorted_RK[:, 1:][np.diff(sorted_RK, axis=1) == 0] = 0
    result_RK = np.empty_like(item_RK)
    np.put_along_axis(result_RK, order_RK, sorted_RK, axis=1)
    return result_RK


def _exact(state_R: np.ndarray, closed: np.ndarray, catalogue: Catalogue, known: int, count: int) -> np.ndarray:
    """Weighted draws [R, K] without replacement from the first `known` items but `closed`: greatest log w + Gumbel."""
    allowed_I = catalogue.weight_I[:known] > 0
    place = catalogue.place_I[closed - 1]
    allowed_I[place[place < known]] = False
    place_C = np.flatnonzero(allowed_I)
    take = min(count, len(place_C))
    result = np.zeros((len(state_R), count), dtype=np.int64)
    if take == 0:
        return result
    log_weight_C = np.log(catalogue.weight_I[place_C])
    step = max(1, _EXACT_CELLS // len(place_C))
    for start in range(0, len(state_R), step):
        state_R1 = mixed(state_R[start : start + step, None])  # another stream than that of `_reject`
        gumbel_RC = -np.log(-np.log(_uniform(state_R1 + (place_C + 1) * np.int64(GOLDEN))))
        key_RC = log_weight_C + gumbel_RC
        best_RK = np.argpartition(-key_RC, take - 1, axis=1)[:, :take]
        # Sorted: of equal sets, argpartition's order depends on how many candidates there are.
        best_RK = np.take_along_axis(best_RK, np.argsort(np.take_along_axis(-key_RC, best_RK, 1), axis=1), 1)
        result[start : start + step, :take] = catalogue.item_I[place_C[best_RK]]
    return result
