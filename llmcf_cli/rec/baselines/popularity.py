"""How often an item was taken in train, and how often of all it was shown.

Legend: N samples, I items.
"""

from __future__ import annotations

import numpy as np

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.baselines.base import CalibratedBaseline
from llmcf_cli.rec.baselines.config import ItemRateConfig, PopularityConfig
from llmcf_cli.rec.input.dataset import TaskData


class Popularity(CalibratedBaseline):
    """log(1 + n⁺), n⁺ the item's positive train samples: the more often taken, the higher."""

    def __init__(self, config: PopularityConfig) -> None:
        self.config = config

    def learn(self, data: TaskData, seed: int) -> None:
        """Count."""
        self._log_count_I = np.log1p(_train_counts(data)[:, 0])

    def scores(self, samples: Samples) -> np.ndarray:
        """[N, 1]."""
        score_N1: np.ndarray = self._log_count_I[samples.item_row_N, None]
        return score_N1


class ItemRate(CalibratedBaseline):
    """logit = a·log(1 + n⁺) + b·log(1 + n⁻) + c of the item's positive and negative train samples.

    Of ratings a smoothed log odds of the item's mean label; where negatives are drawn, n⁻ says next to nothing.
    Validation sets a, b and c.
    """

    def __init__(self, config: ItemRateConfig) -> None:
        self.config = config

    def learn(self, data: TaskData, seed: int) -> None:
        """Count."""
        self._log_count_I2 = np.log1p(_train_counts(data))

    def scores(self, samples: Samples) -> np.ndarray:
        """[N, 2]."""
        score_N2: np.ndarray = self._log_count_I2[samples.item_row_N]
        return score_N2


def _train_counts(data: TaskData) -> np.ndarray:
    """Positive and negative train samples of each item, int64 [I + 1, 2]."""
    train, size = data.splits["train"], len(data.resources.catalog.items.ids) + 1
    liked_N = train.label_N > 0.5
    return np.stack([np.bincount(train.item_row_N[of_N], minlength=size) for of_N in (liked_N, ~liked_N)], 1)
