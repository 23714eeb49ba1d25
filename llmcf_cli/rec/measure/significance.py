"""Whether two arms differ: DeLong's test, a t-test and a bootstrap over the test's units, and a t-test over seeds.

Legend: N samples, M positives, A arms, U units (samples, users or queries), S seeds, R resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.seeding import derive_seed

NORMAL_95 = 1.96
"""Standard errors to either side that hold 95 % of a normal distribution."""
DRAWS = 2000
"""Resamples of a bootstrap."""
_AT_ONCE = 1 << 22
"""Numbers drawn at once."""

Total = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Weighted means of the units' contributions → the measure, elementwise."""


@dataclass(frozen=True)
class Paired:
    """One arm's measure minus another's on the same units.

    Attributes:
        difference: The second's minus the first's.
        standard_error: Of the difference; 0 if no unit differs.
        interval: 95 % confidence interval of the difference.
        p_value: Two-sided, of the hypothesis that both are equal.
    """

    difference: float
    standard_error: float
    interval: tuple[float, float]
    p_value: float


def delong(label_N: NDArray[Any], first_N: NDArray[Any], second_N: NDArray[Any]) -> Paired:
    """Test the difference of two correlated AUCs.

    The covariance of DeLong, DeLong and Clarke-Pearson (1988) from midranks as in Sun and Xu (2014): O(n log n) time.

    Args:
        label_N: 0 or 1, both present.
        first_N: Scores of the first arm.
        second_N: Scores of the second arm.
    """
    return delong_of_placements(label_N, placements(label_N, first_N), placements(label_N, second_N))


def placements(label_N: NDArray[Any], score_N: NDArray[Any]) -> NDArray[np.float64]:
    """Each sample's part of the AUC, float64 [N], ties counting half.

    Of a positive the share of negatives that it scores above, of a negative the share of positives that score above it:
    the mean over either label is the AUC.
    """
    from scipy.stats import rankdata

    positive_N = np.asarray(label_N) > 0.5
    score_N = np.asarray(score_N, np.float64)
    positive_M, negative_n = score_N[positive_N], score_N[~positive_N]
    m, n = len(positive_M), len(negative_n)
    both = rankdata(np.concatenate([positive_M, negative_n]))
    place_N = np.empty(len(score_N))
    place_N[positive_N] = (both[:m] - rankdata(positive_M)) / n
    place_N[~positive_N] = 1 - (both[m:] - rankdata(negative_n)) / m
    return place_N


def delong_of_placements(
    label_N: NDArray[Any], first_N: NDArray[np.float64], second_N: NDArray[np.float64]
) -> Paired:  # fmt: skip
    """`delong`, given the `placements` of both arms."""
    from scipy.stats import norm

    auc_A, covariance_AA = _auc_covariance(label_N, np.stack([first_N, second_N]))
    contrast = np.array([-1.0, 1.0])
    error = float(np.sqrt(max(contrast @ covariance_AA @ contrast, 0.0)))
    difference = float(auc_A[1] - auc_A[0])
    p_value = 1.0 if error == 0 else float(2 * norm.sf(abs(difference) / error))
    interval = difference - NORMAL_95 * error, difference + NORMAL_95 * error
    return Paired(difference, error, interval, p_value)


def auc_standard_error(label_N: NDArray[Any], placement_N: NDArray[np.float64]) -> float:
    """Standard error of one AUC over the samples, given its `placements`."""
    return float(np.sqrt(_auc_covariance(label_N, placement_N[None])[1][0, 0]))


def paired_t(first_U: NDArray[np.float64], second_U: NDArray[np.float64]) -> Paired:
    """Test whether the mean over units differs, by Student's t of their differences; at least two units."""
    from scipy.stats import ttest_1samp

    difference_U = second_U - first_U
    mean = float(difference_U.mean())
    error = float(difference_U.std(ddof=1) / np.sqrt(len(difference_U)))
    if error == 0:
        return Paired(mean, 0.0, (mean, mean), 1.0 if mean == 0 else 0.0)
    found = ttest_1samp(difference_U, 0.0)
    low, high = found.confidence_interval(0.95)
    return Paired(mean, error, (float(low), float(high)), float(found.pvalue))


def paired_bootstrap(
    first_U: NDArray[np.float64], second_U: NDArray[np.float64], weight_U: NDArray[np.float64], total: Total
) -> Paired:
    """Test whether a function of the units' weighted mean differs: units are drawn anew, the same for both arms.

    The interval is that of the percentiles; p is twice the smaller share of resamples on either side of 0 (Efron and
    Tibshirani, 1993, ch. 13 and 15), never below 2 / (R + 1).
    """
    unit_AU = np.stack([first_U, second_U])
    first, second = _totals(unit_AU, weight_U, total)
    difference_R = np.subtract(*resampled(unit_AU, weight_U, total)[::-1])
    error = float(difference_R.std(ddof=1))
    if np.array_equal(first_U, second_U):
        return Paired(0.0, 0.0, (0.0, 0.0), 1.0)
    tail = min(np.count_nonzero(difference_R <= 0), np.count_nonzero(difference_R >= 0))
    low, high = np.percentile(difference_R, [2.5, 97.5])
    p_value = min(1.0, 2 * (tail + 1) / (len(difference_R) + 1))
    return Paired(float(second - first), error, (float(low), float(high)), float(p_value))


def resampled(unit_AU: NDArray[np.float64], weight_U: NDArray[np.float64], total: Total) -> NDArray[np.float64]:
    """Each arm's total when units are drawn with replacement, float64 [A, R]; the same draws for all, every time."""
    size = unit_AU.shape[1]
    rng = np.random.default_rng(derive_seed(0, "bootstrap", size))
    found, block = [], max(1, _AT_ONCE // size)
    for start in range(0, DRAWS, block):
        rows = min(block, DRAWS - start)
        drawn_n = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
        count_RU = np.bincount(drawn_n.ravel(), minlength=rows * size).reshape(rows, size)
        found.append(_totals(unit_AU, count_RU * weight_U, total))
    return np.concatenate(found, axis=1)


def _totals(unit_AU: NDArray[np.float64], weight_RU: NDArray[np.float64], total: Total) -> NDArray[np.float64]:
    """[A, R], or [A] for weights [U]."""
    with np.errstate(invalid="ignore"):  # resamples in which no unit weighs anything
        return total((unit_AU @ weight_RU.T) / weight_RU.sum(-1))


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


def _auc_covariance(
    label_N: NDArray[Any], placement_AN: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """AUC of every arm [A] and their covariance [A, A]."""
    positive_N = np.asarray(label_N) > 0.5
    v10_AM, v01_An = placement_AN[:, positive_N], placement_AN[:, ~positive_N]
    m, n = v10_AM.shape[1], v01_An.shape[1]
    covariance_AA = np.atleast_2d(np.cov(v10_AM)) / m + np.atleast_2d(np.cov(v01_An)) / n
    return v10_AM.mean(axis=1), covariance_AA
