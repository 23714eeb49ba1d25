"""Popularity.

Legend: N samples, I items.
"""

from __future__ import annotations

import numpy as np

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.baselines.base import CalibratedBaseline
from llmcf_cli.rec.baselines.config import PopularityConfig
from llmcf_cli.rec.dataset import RankingData


class Popularity(CalibratedBaseline):
    """logit = a·log(1 + n⁺) + b·log(1 + n⁻) + c of the item's positive and negative train samples.

    Where negatives are drawn, n⁻ says next to nothing and the first term is the classical popularity; where they are
    ratings, both together are a smoothed log odds of the item's mean label. Validation sets a, b and c.
    """

    def __init__(self, config: PopularityConfig) -> None:
        self.config = config

    def learn(self, data: RankingData, seed: int) -> None:
        """Count."""
        train, size = data.splits["train"], len(data.resources.catalog.items.ids) + 1
        liked_N = train.label_N > 0.5
        counts = [np.bincount(train.item_row_N[of_N], minlength=size) for of_N in (liked_N, ~liked_N)]
        self._log_count_I2 = np.log1p(np.stack(counts, 1))

    def scores(self, samples: Samples) -> np.ndarray:
        """[N, 2]."""
        return self._log_count_I2[samples.item_row_N]
