"""Gradient-boosted trees over matching signals.

Legend: N samples, S signals.
"""

from __future__ import annotations

import numpy as np

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.rec.baselines.base import Baseline
from llmcf_cli.rec.baselines.config import GBMConfig
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.measure.metrics import check_labels


class GBM(Baseline):
    """Histogram gradient boosting (scikit-learn) on the log loss, grown until the validation split's loss rises.

    Train rows come with the signals of their user's fold, in which the user had no part. Logits are the
    model's own: train and validation are labelled alike.
    """

    def __init__(self, config: GBMConfig) -> None:
        self.config = config

    def fit(self, data: TaskData, *, seed: int) -> None:
        """Grow trees on train, stop by validation."""
        from sklearn.ensemble import HistGradientBoostingClassifier

        for split in ("train", "validation"):
            check_labels(data.splits[split].label_N, split)
        train, validation = (data.splits[split].label_N > 0.5 for split in ("train", "validation"))
        config = self.config
        self._model = HistGradientBoostingClassifier(
            max_iter=config.trees, learning_rate=config.learning_rate, max_leaf_nodes=config.leaves,
            l2_regularization=config.l2, early_stopping=True, n_iter_no_change=config.patience, scoring="loss",
            random_state=derive_seed(seed, "baseline", "gbm"),
        )  # fmt: skip
        self._model.fit(
            data.values("signals", "train"), train, X_val=data.values("signals", "validation"), y_val=validation
        )

    def score(self, data: TaskData, split: str) -> np.ndarray:
        """Logits, float32 [N]."""
        signal_NS = data.values("signals", split)
        if signal_NS is None or not len(signal_NS):
            return np.zeros(0, np.float32)
        logit_N: np.ndarray = self._model.decision_function(signal_NS).astype(np.float32)
        return logit_N
