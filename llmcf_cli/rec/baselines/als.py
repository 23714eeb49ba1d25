"""Matrix factorisation of implicit feedback.

Hu, Koren, Volinsky: Collaborative Filtering for Implicit Feedback Datasets, ICDM 2008.

Legend: N samples, B block of them, D factors, I items.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.baselines.base import CalibratedBaseline, histories, train_positives
from llmcf_cli.rec.baselines.config import ALSConfig
from llmcf_cli.rec.input.dataset import TaskData

BLOCK = 8192
"""Samples solved for at once."""


class ALS(CalibratedBaseline):
    """score = ⟨x, y_i⟩, with y from train positives by `implicit`, and x solved for the sample's own history.

    x = (YᵀY + Yᵀ(C − 1)Y + λ1)⁻¹ YᵀC p (Eq. 4), where p and C are of the history instead of all that the user ever
    took: the future stays out, and a user whom training never saw has a vector.
    """

    def __init__(self, config: ALSConfig) -> None:
        self.config = config

    def learn(self, data: TaskData, seed: int) -> None:
        """Factors of all items."""
        from implicit.cpu.als import AlternatingLeastSquares

        config = self.config
        with _one_blas_thread():
            self._model = AlternatingLeastSquares(
                factors=config.factors, iterations=config.iterations, regularization=config.regularization,
                alpha=config.alpha, random_state=derive_seed(seed, "baseline", "als"),
            )  # fmt: skip
            self._model.fit(train_positives(data), show_progress=False)

    def scores(self, samples: Samples) -> np.ndarray:
        """[N, 1]."""
        factor_ID = self._model.item_factors
        score_N1 = np.empty((len(samples), 1), np.float32)
        for start in range(0, len(samples), BLOCK):
            part = samples.take(slice(start, start + BLOCK))
            taken_BI = histories(part, len(factor_ID) - 1)
            with _one_blas_thread():
                user_BD = self._model.recalculate_user(np.arange(len(part)), taken_BI)
            score_N1[start : start + BLOCK, 0] = (user_BD * factor_ID[part.item_row_N]).sum(1)
        return score_N1


def _one_blas_thread() -> AbstractContextManager[Any]:
    """`implicit` has threads of its own, which those of BLAS would fight."""
    from threadpoolctl import threadpool_limits

    limited: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limited
