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
from llmcf_cli.rec.baselines.config import ALSConfig, FactorConfig
from llmcf_cli.rec.input.dataset import TaskData

BLOCK = 8192
"""Samples solved for at once."""


class ImplicitFactors:
    """Item vectors y from train positives, by `implicit`, and user vectors solved for any history.

    x = (YᵀY + Yᵀ(C − 1)Y + λ1)⁻¹ YᵀC p (Eq. 4), where p and C are of the history instead of all that the user ever
    took: the future stays out, and a user whom training never saw has a vector.

    Args:
        config: Sizes, confidence and penalty.
        data: The train split is read.
        seed: Of the initial factors.
    """

    def __init__(self, config: FactorConfig, data: TaskData, seed: int) -> None:
        from implicit.cpu.als import AlternatingLeastSquares

        with _one_blas_thread():
            self._model = AlternatingLeastSquares(
                factors=config.factors, iterations=config.iterations, regularization=config.regularization,
                alpha=config.alpha, random_state=derive_seed(seed, "baseline", "als"),
            )  # fmt: skip
            self._model.fit(train_positives(data), show_progress=False)

    @property
    def item_ID(self) -> np.ndarray:
        """Of every item row, float32 [I + 1, D]."""
        factor_ID: np.ndarray = self._model.item_factors
        return factor_ID

    def users(self, samples: Samples) -> np.ndarray:
        """Of each sample's history, float32 [N, D]."""
        taken_NI = histories(samples, len(self.item_ID) - 1)
        with _one_blas_thread():
            user_ND: np.ndarray = self._model.recalculate_user(np.arange(len(samples)), taken_NI)
        return user_ND


class ALS(CalibratedBaseline):
    """score = ⟨x, y_i⟩; see `ImplicitFactors`."""

    def __init__(self, config: ALSConfig) -> None:
        self.config = config

    def learn(self, data: TaskData, seed: int) -> None:
        """Factors of all items."""
        self._factors = ImplicitFactors(self.config, data, seed)

    def scores(self, samples: Samples) -> np.ndarray:
        """[N, 1]."""
        factor_ID = self._factors.item_ID
        score_N1 = np.empty((len(samples), 1), np.float32)
        for start in range(0, len(samples), BLOCK):
            part = samples.take(slice(start, start + BLOCK))
            score_N1[start : start + BLOCK, 0] = (self._factors.users(part) * factor_ID[part.item_row_N]).sum(1)
        return score_N1


def _one_blas_thread() -> AbstractContextManager[Any]:
    """`implicit` has threads of its own, which those of BLAS would fight."""
    from threadpoolctl import threadpool_limits

    limited: AbstractContextManager[Any] = threadpool_limits(1, "blas")
    return limited
