"""Which examples a query may see. The one definition that every searcher applies.

Legend: N rows, Q queries, E examples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.types import Clock
from llmcf_cli.match.limits import Limits

if TYPE_CHECKING:
    from llmcf_cli.features.batch import Samples

Exclude = Literal["strict", "own_item", "reference"]


@dataclass(frozen=True)
class Keys:
    """What guards need to know of rows.

    Attributes:
        sample_id_N: int64; -1 for a live request, which is no stored sample.
        user_row_N: int32; 0 is an unknown user.
        item_row_N: int32; 0 is an unknown item.
        time_N: int64; microseconds since 1970 in UTC, or the position within the user for data without a clock.

    Raises:
        ValueError: The arrays differ in length.
    """

    sample_id_N: np.ndarray
    user_row_N: np.ndarray
    item_row_N: np.ndarray
    time_N: np.ndarray

    def __post_init__(self) -> None:
        kinds = {"sample_id_N": np.int64, "user_row_N": np.int32, "item_row_N": np.int32, "time_N": np.int64}
        for name, kind in kinds.items():
            # Arrow memory is read-only, torch wants writable.
            object.__setattr__(self, name, np.require(getattr(self, name), kind, ["C", "W"]))
        lengths = {getattr(self, name).shape for name in kinds}
        if len(lengths) > 1 or len(next(iter(lengths))) != 1:
            raise ValueError(f"keys must be four arrays of one length, got shapes {sorted(lengths)}")

    @classmethod
    def of(cls, samples: Samples) -> Keys:
        """The keys of encoded samples."""
        return cls(samples.sample_id_N, samples.user_row_N, samples.item_row_N, samples.time_N)

    def __len__(self) -> int:
        return len(self.sample_id_N)

    def take(self, index: slice | np.ndarray) -> Keys:
        """The rows at `index`, in that order."""
        return Keys(self.sample_id_N[index], self.user_row_N[index], self.item_row_N[index], self.time_N[index])


class Matching(Protocol):
    """The settings that guards and balance go by: a recipe's `match`, or what a bundle keeps of it."""

    @property
    def balance(self) -> Literal["labels", "none"]:
        """Whether half of the examples are positive."""

    @property
    def exclude(self) -> Exclude:
        """Which rule holds."""

    @property
    def max_per_user(self) -> int | None:
        """Most examples of one user."""

    @property
    def distinct_items(self) -> bool:
        """Whether no two may be of the same item."""


def limits_of(section: Matching) -> Limits:
    """The limits that a recipe sets."""
    return Limits(section.max_per_user, section.distinct_items)


def guard_of(section: Matching, clock: Clock, example_split: Iterable[str] = ()) -> Guard:
    """The guard that a recipe sets.

    Raises:
        DataError: An example is no train row.
    """
    return Guard(clock, example_split, section.exclude, limits_of(section))


class Guard:
    """Allows an example for a query only if it was known then and is not the query itself.

    - As of: with a global clock, example time < query time, strictly, for every user. With a per-user clock
      (positions only) that holds for examples of the query's own user; other users' train rows count as past.
    - Never the query's own sample, never the same (user, item) pair.
    - Train rows only: checked once, here, for all examples.

    `exclude: own_item` refuses examples of the query's item besides: a control of what examples of other items say.

    `exclude: reference` is the published code's rule instead, only for measuring its leak: it refuses nothing but
    strictly later rows of the query's own user, so a train row finds itself.

    `limits` are of another kind: they concern what the examples of one query have in common, not a query and an
    example, so `allowed` knows nothing of them; searchers choose under them (`limits.Choice`).

    Args:
        clock: Whether times of different users can be compared.
        example_split: The split of every example.
        exclude: Which rule holds.
        limits: How many examples of a query may be of one user or item.

    Raises:
        DataError: An example is no train row.
    """

    def __init__(
        self, clock: Clock, example_split: Iterable[str] = (), exclude: Exclude = "strict", limits: Limits | None = None
    ) -> None:
        if clock not in ("global", "per_user"):
            raise ValueError(f"clock is {clock!r}, must be 'global' or 'per_user'")
        self.clock: Clock = clock
        self.exclude: Exclude = exclude
        self.limits = limits or Limits()
        foreign = sorted({split for split in map(str, example_split) if split != "train"})
        if foreign:
            raise DataError(
                f"examples from {', '.join(foreign)} rows: chains of thought are written with knowledge of the label, "
                "so only train rows may be examples",
                code="not-train", where="match guard", allowed=("train",), hint="run gen-cot again on train rows",
            )  # fmt: skip

    @property
    def by_time(self) -> bool:
        """Whether nothing but older examples is allowed, so that a prefix in time order holds all candidates."""
        return self.clock == "global" and self.exclude != "reference"

    @property
    def by_item(self) -> bool:
        """Whether examples of the query's item are refused, whoever's they are."""
        return self.exclude == "own_item"

    def allowed(self, query: Keys, example: Keys) -> np.ndarray:
        """bool [Q, E]: may query q see example e?"""
        return self._rule(
            query.sample_id_N[:, None], query.user_row_N[:, None], query.item_row_N[:, None], query.time_N[:, None],
            example.sample_id_N, example.user_row_N, example.item_row_N, example.time_N,
        )  # fmt: skip

    def allowed_pairs(self, query: Keys, example: Keys) -> np.ndarray:
        """bool [N]: may query n see example n? Both sides are of one length."""
        return self._rule(
            query.sample_id_N, query.user_row_N, query.item_row_N, query.time_N,
            example.sample_id_N, example.user_row_N, example.item_row_N, example.time_N,
        )  # fmt: skip

    def _rule(
        self,
        query_id: np.ndarray, query_user: np.ndarray, query_item: np.ndarray, query_time: np.ndarray,
        example_id: np.ndarray, example_user: np.ndarray, example_item: np.ndarray, example_time: np.ndarray,
    ) -> np.ndarray:  # fmt: skip
        same_user: np.ndarray = query_user == example_user
        if self.exclude == "reference":
            later: np.ndarray = example_time > query_time
            allowed: np.ndarray = ~(same_user & later)
        else:
            before: np.ndarray = example_time < query_time
            if self.clock == "per_user":
                before |= ~same_user
            itself = (query_id == example_id) & (query_id >= 0)
            same_item: np.ndarray = query_item == example_item
            refused = same_item if self.by_item else same_user & same_item
            allowed = before & ~itself & ~refused
        return allowed
