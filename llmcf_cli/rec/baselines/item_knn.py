"""Item-based nearest neighbours.

Sarwar, Karypis, Konstan, Riedl: Item-Based Collaborative Filtering Recommendation Algorithms, WWW 2001.

Legend: N samples, E events of all histories, U users, I items.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.baselines.base import CalibratedBaseline, train_positives
from llmcf_cli.rec.baselines.config import ItemKNNConfig
from llmcf_cli.rec.input.dataset import TaskData


class ItemKNN(CalibratedBaseline):
    """score = Σ of cos(j, i) over the history's items j that have the target i among their nearest.

    cos(j, i) = |users of both| / √(|users of j|·|users of i|), of train positives; neighbours by `implicit`.
    """

    def __init__(self, config: ItemKNNConfig) -> None:
        self.config = config

    def learn(self, data: TaskData, seed: int) -> None:
        """The neighbours of every item."""
        self._cosine_II = item_cosines(data, self.config.neighbours)

    def scores(self, samples: Samples) -> np.ndarray:
        """[N, 1]."""
        row_E, position_E = samples.history_row_NL.nonzero()
        event_E, target_E = samples.history_row_NL[row_E, position_E], samples.item_row_N[row_E]
        cosine_E = np.asarray(self._cosine_II[event_E, target_E]).ravel()
        return np.bincount(row_E, cosine_E, minlength=len(samples))[:, None]


def item_cosines(data: TaskData, neighbours: int) -> Any:
    """Cosines of items by the users of their train positives, sparse [I + 1, I + 1], the nearest of each row alone."""
    from implicit.nearest_neighbours import ItemItemRecommender
    from sklearn.preprocessing import normalize

    model = ItemItemRecommender(K=neighbours)
    taken_UI = train_positives(data).astype(np.float64)  # the only numbers that the search takes
    model.fit(normalize(taken_UI, axis=0).tocsr(), show_progress=False)
    model.similarity.sum_duplicates()  # sorted rows are looked up faster
    return model.similarity
