"""An arm input as a drop-in plugin: how long ago the user's last positive event was. And an augmenter that reads it.

Legend: N samples, B batch, U users, E events, C context.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import nn

from llmcf_cli.core.types import ComponentConfig, InputConfig
from llmcf_cli.rec.augment.base import Augmentation, Augmenter
from llmcf_cli.rec.input.base import Input, Loaded, RowLookup
from llmcf_cli.rec.input.stored import demand
from llmcf_cli.store.open import connect_read

FILE = "recency.safetensors"


class RecencyInputConfig(InputConfig):
    """When users took something; made from `ingest` alone."""

    type: Literal["recency"] = "recency"


class RecencyConfig(ComponentConfig):
    """Context from how long ago the last event was."""

    needs: ClassVar[frozenset[str]] = frozenset({"recency"})

    type: Literal["recency"] = "recency"
    dim: int = 4
    """Numbers in the context feature."""


class Recency(Input):
    """Holds `user_E` and `time_E`, sorted. Values: log(1 + time since the last event), and whether there is one."""

    files = (FILE,)
    of_examples = True

    def load(self, made):
        """Positive events of all splits: a row looks at earlier ones only."""
        with connect_read(made.database) as connection:
            found = connection.sql(
                "SELECT user_row, time FROM sample WHERE label = 1 ORDER BY user_row, time"
            ).fetchnumpy()
        return Loaded({"user_E": found["user_row"].astype(np.int64), "time_E": found["time"].astype(np.int64)})

    def values(self, resources, samples, split):
        """float32 [N, 2]."""
        held, value_N2 = resources.get("recency"), np.zeros((len(samples), 2), np.float32)
        first_U, last_U = (
            np.searchsorted(held["user_E"], np.arange(samples.user_row_N.max(initial=0) + 1), side)
            for side in ("left", "right")
        )
        for row, (user, time) in enumerate(zip(samples.user_row_N, samples.time_N, strict=True)):
            own_E = held["time_E"][first_U[user] : last_U[user]]
            if before := np.searchsorted(own_E, time):
                value_N2[row] = np.log1p(float(time) - float(own_E[before - 1])), 1
        return value_N2

    def lookup(self, resources):
        """Values as they are."""
        return RecencyLookup()

    def save(self, held, out):
        """Two arrays."""
        out.arrays(FILE, held)

    def read(self, stored, resources):
        """As saved."""
        return stored.arrays(FILE)

    def check(self, held, resources, where):
        """Events of known users."""
        demand(held.keys() == {"user_E", "time_E"} and len(held["user_E"]) == len(held["time_E"]), where, "events")
        demand((np.diff(held["user_E"]) >= 0).all(), where, "users of events")


class RecencyLookup(RowLookup):
    """[B, 2], scaled by the train rows."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes = {"recency": 2}
        self.register_buffer("scale_2", torch.ones(2))

    def fit(self, train) -> None:
        """The greatest values."""
        self.scale_2.copy_(train.inputs["recency"].amax(0).clamp_min(1))

    def forward(self, batch):
        """Of these rows."""
        return batch.inputs["recency"] / self.scale_2


class RecencyAugmenter(Augmenter):
    """context = tanh(W recency + b)."""

    def __init__(self, config, shape) -> None:
        super().__init__()
        self.context_dim = config.dim
        self.linear = nn.Linear(shape.size("recency"), config.dim)

    def forward(self, x):
        """[B, 2] → [B, C]."""
        return Augmentation(torch.tanh(self.linear(x.query.inputs["recency"])))


def register(registry) -> None:
    """Add both."""
    registry.add("input", "recency", config=":RecencyInputConfig", target=":Recency", summary="times of past events")
    registry.add("augmenter", "recency", config=":RecencyConfig", target=":RecencyAugmenter",
                 summary="how long ago the last event was")  # fmt: skip
