"""All that users did, in order: what sequences are learned from, and which items a user has seen at a time.

Legend: U users, E events of all of them, n requests, S seen items of all requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.types import Clock
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spans import spans
from llmcf_cli.rec.input.base import Input, Loaded, Made
from llmcf_cli.rec.input.config import EventsInputConfig
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.stored import Stored, Storing, demand, within
from llmcf_cli.store.open import connect_read, read_clock
from llmcf_cli.store.tables import SAMPLE_TIME

EVENTS = "events"
FILE = "event.parquet"


@dataclass(frozen=True)
class Events:
    """Interactions by user, in the order of the splits and histories.

    Attributes:
        taken: Every interaction: users' items and times.
        read_E: bool, whether histories hold the event; None in a bundle.
        target_E: bool, whether the event is to be predicted in training; None in a bundle.
        clock: How times of different users compare.
    """

    taken: Histories
    read_E: NDArray[np.bool_] | None = None
    target_E: NDArray[np.bool_] | None = None
    clock: Clock = "global"

    def __len__(self) -> int:
        return len(self.taken)

    def seen(self, user_row_n: NDArray[Any], time_n: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Items that each user took strictly before a time: whose they are, int64 [S], and their rows, int32 [S]."""
        offset_U = self.taken.offset_U
        start_n, size_n = offset_U[user_row_n], offset_U[user_row_n + 1] - offset_U[user_row_n]
        owner_S, at_S = spans(start_n, size_n)
        before_S = self.taken.time_E[at_S] < time_n[owner_S]
        return owner_S[before_S], self.taken.item_E[at_S[before_S]]


class UserEvents(Input):
    """Holds `Events`; a bundle keeps what was taken and when, no more."""

    files: ClassVar[tuple[str, ...]] = (FILE,)
    config: EventsInputConfig

    def load(self, made: Made) -> Loaded:
        """Of the tables `interaction` and `sample`."""
        with connect_read(made.database) as connection:
            found = connection.sql(
                "SELECT i.user_row, i.item_row, i.time, coalesce(s.label, 0) AS label, coalesce(s.split, '') AS split "
                f"FROM (SELECT user_row, item_row, place, {SAMPLE_TIME} AS time FROM interaction) i "
                "LEFT JOIN sample s USING (user_row, item_row, time) ORDER BY i.user_row, i.place"
            ).to_arrow_table()
        user_E, positive_E = found["user_row"].to_numpy(), found["label"].to_numpy() == 1
        users = len(made.resources.catalog.users.ids)
        offset_U = np.searchsorted(user_E, np.arange(users + 2)).astype(np.int64)
        train_E = np.asarray(found["split"].to_pylist(), dtype=object) == "train"
        taken = Histories(offset_U, found["item_row"].to_numpy().astype(np.int32), found["time"].to_numpy())
        read_E = positive_E if self.config.read == "positive" else np.ones(len(user_E), bool)
        return Loaded(Events(taken, read_E, positive_E & train_E, read_clock(made.database)))

    def stored(self, held: Any) -> Events:
        """Without what only training reads."""
        return Events(held.taken)

    def save(self, held: Any, out: Storing) -> None:
        """A row for each user."""
        out.table(FILE, held.taken.to_arrow())

    def read(self, stored: Stored, resources: Resources) -> Events:
        """As saved."""
        return Events(Histories.from_arrow(stored.table(FILE)))

    def check(self, held: Any, resources: Resources, where: Path) -> None:
        """Items of the catalogue, times that ascend within a user."""
        taken, catalog = held.taken, resources.catalog
        demand(len(taken) == len(catalog.users.ids) + 1, where, "events")
        demand(within(taken.item_E, len(catalog.items.ids) + 1), where, "items of events")
        same_user = np.ones(len(taken.time_E), bool)
        starts = taken.offset_U[1:-1]
        same_user[starts[starts < len(same_user)]] = False
        demand(bool((np.diff(taken.time_E) >= 0)[same_user[1:]].all()), where, "times of events")

    def refreshed(self, held: Any, made: Made, items: pa.Table) -> Events:
        """With the later ones."""
        return self.stored(self.load(made).held)

    def forgotten(self, held: Any) -> Events:
        """Nobody did anything."""
        none = Histories(np.zeros_like(held.taken.offset_U), np.zeros(0, np.int32), np.zeros(0, np.int64))
        return Events(none)
