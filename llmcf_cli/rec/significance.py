"""Whether two arms differ: DeLong's test over the test samples, and a paired t-test over seeds.

Legend: M positives, N negatives, A arms, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AUCDifference:
    """AUC of one arm minus another's on the same samples.

    Attributes:
        difference: AUC of the second minus AUC of the first.
        standard_error: Of the difference; 0 if both rank alike.
        p_value: Two-sided, of the hypothesis that both are equal.
    """

    difference: float
    standard_error: float
    p_value: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the difference."""
        return self.difference - 1.96 * self.standard_error, self.difference + 1.96 * self.standard_error


def delong(label_N: NDArray[np.float32], first_N: NDArray[np.float32], second_N: NDArray[np.float32]) -> AUCDifference:
    """Test the difference of two correlated AUCs.

    The covariance of DeLong, DeLong and Clarke-Pearson (1988) from midranks as in Sun and Xu (2014): O(n log n) time.

    Args:
        label_N: 0 or 1, both present.
        first_N: Scores of the first arm.
        second_N: Scores of the second arm.
    """
    from scipy.stats import norm

    auc_A, covariance_AA = _auc_covariance(label_N, np.stack([first_N, second_N]))
    contrast = np.array([-1.0, 1.0])
    error = float(np.sqrt(max(contrast @ covariance_AA @ contrast, 0.0)))
    difference = float(auc_A[1] - auc_A[0])
    p_value = 1.0 if error == 0 else float(2 * norm.sf(abs(difference) / error))
    return AUCDifference(difference, error, p_value)


def paired_p_value(first_S: Sequence[float], second_S: Sequence[float]) -> float | None:
    """Two-sided p of a paired t-test over seeds: whether the training's own spread explains the difference.

    None with fewer than two seeds; 1 where all differences are 0.
    """
    from scipy.stats import ttest_rel

    if len(first_S) < 2:
        return None
    difference_S = np.subtract(second_S, first_S)
    if np.ptp(difference_S) == 0:
        return 1.0 if difference_S[0] == 0 else 0.0
    return float(ttest_rel(second_S, first_S).pvalue)


def auc_standard_error(label_N: NDArray[np.float32], score_N: NDArray[np.float32]) -> float:
    """Standard error of one AUC over the samples, by the same components as `delong`."""
    return float(np.sqrt(_auc_covariance(label_N, score_N[None])[1][0, 0]))


def _auc_covariance(
    label_N: NDArray[np.float32], score_AN: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC of every arm [A] and their covariance [A, A]."""
    from scipy.stats import rankdata

    positive = np.asarray(label_N) > 0.5
    score_AN = score_AN.astype(np.float64)
    positive_AM, negative_AN = score_AN[:, positive], score_AN[:, ~positive]
    m, n = positive_AM.shape[1], negative_AN.shape[1]
    both = rankdata(np.concatenate([positive_AM, negative_AN], axis=1), axis=1)
    v10_AM = (both[:, :m] - rankdata(positive_AM, axis=1)) / n
    v01_AN = 1 - (both[:, m:] - rankdata(negative_AN, axis=1)) / m
    covariance_AA = np.atleast_2d(np.cov(v10_AM)) / m + np.atleast_2d(np.cov(v01_AN)) / n
    return v10_AM.mean(axis=1), covariance_AA
