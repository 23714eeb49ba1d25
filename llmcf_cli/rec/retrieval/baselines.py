"""Baselines that score the whole catalogue from a history.

Legend: N queries, B block of them, I items, U users, T text.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.baselines.als import ImplicitFactors
from llmcf_cli.rec.baselines.base import Baseline, histories, train_positives
from llmcf_cli.rec.baselines.item_knn import item_cosines
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.input.events import EVENTS
from llmcf_cli.rec.input.text import TEXT
from llmcf_cli.rec.retrieval.config import (
    EASEConfig,
    IALSConfig,
    ItemNeighboursConfig,
    RetrievalBaselineConfig,
    RetrievalConfig,
    TextNeighboursConfig,
    TopPopularConfig,
    TopRecentConfig,
)
from llmcf_cli.rec.retrieval.ranked import predictions

MOST_ITEMS = 20_000
"""Of a dense matrix of items by items: 1.6 GB."""


class RetrievalBaseline(Baseline):
    """A baseline whose lists are made and ranked as the models' are."""

    def __init__(self, config: RetrievalBaselineConfig) -> None:
        return

    @abstractmethod
    def scores(self, samples: Samples) -> NDArray[np.float32]:
        """Scores of all item rows for some queries, float32 [B, I + 1], by their histories alone."""

    def score(self, data: TaskData, split: str) -> NDArray[np.float64]:
        """Predictions of a split's queries; see `rec.retrieval.ranked`."""
        samples, events, task = data.splits[split], data.resources.get(EVENTS), data.task.config
        filters = task.filter_seen if isinstance(task, RetrievalConfig) else True

        def seen(block: slice) -> Any:
            return events.seen(samples.user_row_N[block], samples.time_N[block])

        found = predictions(
            lambda block: torch.from_numpy(self.scores(samples.take(block))),
            torch.from_numpy(samples.item_row_N.astype(np.int64)), seen if filters else None,
            len(data.resources.catalog.items.ids),
        )  # fmt: skip
        return found.numpy()


class TopPopular(RetrievalBaseline):
    """Train positives of each item."""

    def __init__(self, config: TopPopularConfig) -> None:
        super().__init__(config)

    def fit(self, data: TaskData, *, seed: int) -> None:
        """Count."""
        self._count_I = data.taken_I.astype(np.float32)

    def scores(self, samples: Samples) -> NDArray[np.float32]:
        """The same for all."""
        return np.tile(self._count_I, (len(samples), 1))


class TopRecent(TopPopular):
    """Train positives of each item among the latest, of equals in time all."""

    def __init__(self, config: TopRecentConfig) -> None:
        super().__init__(TopPopularConfig())
        self._share = config.share

    def fit(self, data: TaskData, *, seed: int) -> None:
        """Count from a quantile of the times on.

        Raises:
            DataError: Times are positions within a user.
        """
        if data.resources.get(EVENTS).clock != "global":
            raise DataError(
                "the data have no times that compare between users, only an order within each", code="split-clock",
                where="baseline top_recent", hint="leave it out of rec.baselines",
            )  # fmt: skip
        train = data.splits["train"]
        start = np.sort(train.time_N)[int(len(train) * (1 - self._share))] if len(train) else 0
        recent = train.item_row_N[train.time_N >= start]
        self._count_I = np.bincount(recent, minlength=len(data.taken_I)).astype(np.float32)


class ItemNeighbours(RetrievalBaseline):
    """score(i) = Σ of cos(j, i) over the history's items j that have i among their nearest."""

    def __init__(self, config: ItemNeighboursConfig) -> None:
        super().__init__(config)
        self._neighbours = config.neighbours

    def fit(self, data: TaskData, *, seed: int) -> None:
        """The neighbours of every item."""
        self._cosine_II = item_cosines(data, self._neighbours)

    def scores(self, samples: Samples) -> NDArray[np.float32]:
        """A sparse product."""
        found: Any = histories(samples, self._cosine_II.shape[0] - 1) @ self._cosine_II
        return np.asarray(found.todense(), np.float32)


class IALS(RetrievalBaseline):
    """score = ⟨x, y_i⟩; see `ImplicitFactors`. A history without events has a vector of zeros."""

    def __init__(self, config: IALSConfig) -> None:
        super().__init__(config)
        self._config = config

    def fit(self, data: TaskData, *, seed: int) -> None:
        """Factors of all items."""
        self._factors = ImplicitFactors(self._config, data, seed)

    def scores(self, samples: Samples) -> NDArray[np.float32]:
        """Products of the users' and all items' factors."""
        found: NDArray[np.float32] = self._factors.users(samples) @ self._factors.item_ID.T
        return found


class EASE(RetrievalBaseline):
    """score = x B, x the history's items; B = −P / diag(P) off the diagonal, P = (XᵀX + λ)⁻¹, X the train positives.

    Steck: Embarrassingly Shallow Autoencoders for Sparse Data, WWW 2019 (Eq. 8).
    """

    def __init__(self, config: EASEConfig) -> None:
        super().__init__(config)
        self._l2 = config.l2

    def fit(self, data: TaskData, *, seed: int) -> None:
        """In closed form.

        Raises:
            DataError: There are too many items for a dense matrix.
        """
        taken_UI = train_positives(data)
        size = taken_UI.shape[1]
        if size > MOST_ITEMS:
            raise DataError(
                f"{size - 1:,} items: their matrix would take too much memory",
                code="memory-full", where="baseline ease",
                hint=f"leave it out of rec.baselines; it supports up to {MOST_ITEMS - 1:,} items",
            )  # fmt: skip
        gram_II = np.asarray((taken_UI.T @ taken_UI).todense(), np.float32)
        gram_II[np.diag_indices(size)] += self._l2
        weight_II = np.linalg.inv(gram_II)
        weight_II /= -np.diag(weight_II)
        weight_II[np.diag_indices(size)] = 0
        self._weight_II = weight_II

    def scores(self, samples: Samples) -> NDArray[np.float32]:
        """A product."""
        found: NDArray[np.float32] = histories(samples, len(self._weight_II) - 1) @ self._weight_II
        return np.ascontiguousarray(found, np.float32)


class TextNeighbours(RetrievalBaseline):
    """Cosine of an item's text and the mean of the history's."""

    def __init__(self, config: TextNeighboursConfig) -> None:
        super().__init__(config)

    def fit(self, data: TaskData, *, seed: int) -> None:
        """Nothing to learn."""
        self._text_IT = data.resources.get(TEXT)

    def scores(self, samples: Samples) -> NDArray[np.float32]:
        """[B, I + 1]; zeros for an empty history."""
        mean_BT = np.asarray(histories(samples, len(self._text_IT) - 1) @ self._text_IT)
        norm_B1 = np.linalg.norm(mean_BT, axis=1, keepdims=True)
        found: NDArray[np.float32] = (mean_BT / np.maximum(norm_B1, 1e-6)) @ self._text_IT.T
        return found.astype(np.float32)
