"""What a baseline is, and what several share.

Legend: N samples, E scores of a sample, U users, I items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from llmcf_cli.plugin import Kind
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.measure.metrics import check_labels

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from llmcf_cli.features.batch import Samples


class Baseline(ABC):
    """A recommender that needs no training loop. Built as `Class(config)`."""

    @abstractmethod
    def fit(self, data: TaskData, *, seed: int) -> None:
        """Learn from the train split; validation may decide and calibrate, the test split is not read.

        Args:
            data: All splits.
            seed: The number that every random choice is derived from.

        Raises:
            DataError: A split lacks a label, or an input is missing.
        """

    @abstractmethod
    def score(self, data: TaskData, split: str) -> np.ndarray:
        """Logits of a split's samples, float32 [N], in their order. Those of the train split have seen their labels."""


BASELINE: Kind[Baseline] = Kind("baseline")


class CalibratedBaseline(Baseline):
    """A baseline whose scores are no probabilities: a logistic regression on the validation split makes them logits.

    With one score per sample the order of samples stays (or, where high scores go with negatives, turns around), so AUC
    is the score's own while logloss and calibration error get a meaning.
    """

    def fit(self, data: TaskData, *, seed: int) -> None:
        """Learn from train, calibrate on validation."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        validation = data.splits["validation"]
        check_labels(validation.label_N, "validation")
        self.learn(data, seed)
        self._calibration = make_pipeline(StandardScaler(), LogisticRegression())
        self._calibration.fit(self.scores(validation), validation.label_N > 0.5)

    def score(self, data: TaskData, split: str) -> np.ndarray:
        """Calibrated logits, float32 [N]."""
        samples = data.splits[split]
        if not len(samples):
            return np.zeros(0, np.float32)
        logit_N: np.ndarray = self._calibration.decision_function(self.scores(samples)).astype(np.float32)
        return logit_N

    @abstractmethod
    def learn(self, data: TaskData, seed: int) -> None:
        """Fit what `scores` needs, from the train split alone."""

    @abstractmethod
    def scores(self, samples: Samples) -> np.ndarray:
        """What is known of each sample, [N, E]; never its label."""


def train_positives(data: TaskData) -> csr_matrix:
    """Who took what in train, 0/1 float32 [U + 1, I + 1]."""
    train, catalog = data.splits["train"], data.resources.catalog
    liked_N = train.label_N > 0.5
    shape = len(catalog.users.ids) + 1, len(catalog.items.ids) + 1
    return _incidence(train.user_row_N[liked_N], train.item_row_N[liked_N], shape)


def histories(samples: Samples, num_items: int) -> csr_matrix:
    """The items of each sample's history, 0/1 float32 [N, I + 1]."""
    row_E, position_E = samples.history_row_NL.nonzero()
    return _incidence(row_E, samples.history_row_NL[row_E, position_E], (len(samples), num_items + 1))


def _incidence(row_E: np.ndarray, column_E: np.ndarray, shape: tuple[int, int]) -> csr_matrix:
    from scipy.sparse import csr_matrix

    matrix = csr_matrix((np.ones(len(row_E), np.float32), (row_E, column_E)), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix
