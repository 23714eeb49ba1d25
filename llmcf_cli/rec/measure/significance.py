"""Whether two arms differ: DeLong's test, a t-test and a bootstrap over the test's units, and a t-test over seeds.

A user's samples resemble each other, so they tell less than as many samples of as many users. Where units are samples,
what varies independently is the user, and all tests but the one over seeds are over users then. With one sample per
user they are the plain tests.

Legend: N samples, M positives, A arms, U units (samples, users or queries), G users, S seeds, R resamples.
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


def delong(
    label_N: NDArray[Any], first_N: NDArray[Any], second_N: NDArray[Any], user_N: NDArray[Any] | None = None
) -> Paired:
    """Test the difference of two correlated AUCs.

    The covariance of DeLong, DeLong and Clarke-Pearson (1988) from midranks as in Sun and Xu (2014): O(n log n) time.
    With several samples per user it is that of Obuchowski (1997) for clustered data.

    Args:
        label_N: 0 or 1, both present.
        first_N: Scores of the first arm.
        second_N: Scores of the second arm.
        user_N: Whose samples they are; None: all of different users.
    """
    return delong_of_placements(label_N, placements(label_N, first_N), placements(label_N, second_N), user_N)


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
    label_N: NDArray[Any], first_N: NDArray[np.float64], second_N: NDArray[np.float64],
    user_N: NDArray[Any] | None = None,
) -> Paired:  # fmt: skip
    """`delong`, given the `placements` of both arms."""
    from scipy.stats import norm

    difference_N = second_N - first_N
    error = float(np.sqrt(_auc_variance(label_N, difference_N, user_N)))
    difference = float(difference_N[np.asarray(label_N) > 0.5].mean())
    p_value = 1.0 if error == 0 else float(2 * norm.sf(abs(difference) / error))
    interval = difference - NORMAL_95 * error, difference + NORMAL_95 * error
    return Paired(difference, error, interval, p_value)


def auc_standard_error(
    label_N: NDArray[Any], placement_N: NDArray[np.float64], user_N: NDArray[Any] | None = None
) -> float:
    """Standard error of one AUC over the users, or else samples, given its `placements`."""
    return float(np.sqrt(_auc_variance(label_N, placement_N, user_N)))


def paired_t(
    first_U: NDArray[np.float64], second_U: NDArray[np.float64], user_U: NDArray[Any] | None = None
) -> Paired:  # fmt: skip
    """Test whether the mean over units differs, by Student's t of their differences; at least two users, or else units.

    Args:
        first_U: Of the first arm.
        second_U: Of the second arm.
        user_U: Whose units they are; None: all of different users.
    """
    from scipy.stats import t

    difference_U = second_U - first_U
    mean, error = float(difference_U.mean()), mean_standard_error(difference_U, user_U)
    if error == 0:
        return Paired(mean, 0.0, (mean, mean), 1.0 if mean == 0 else 0.0)
    freedom = (len(difference_U) if user_U is None else len(np.unique(user_U))) - 1
    most = float(t.ppf(0.975, freedom)) * error
    return Paired(mean, error, (mean - most, mean + most), float(2 * t.sf(abs(mean) / error, freedom)))


def mean_standard_error(unit_U: NDArray[np.float64], user_U: NDArray[Any] | None = None) -> float:
    """Standard error of the mean over units, of which those of a user vary together (Liang and Zeger, 1986).

    √(G / (G − 1) · Σ_g (Σ_{u of g} (x_u − mean))²) / U, NaN for a single user.
    """
    gap_U = unit_U - unit_U.mean()
    gap_G = gap_U if user_U is None else sums(gap_U[None], user_U)[0]
    return float(np.sqrt(_spread(len(gap_G)) * (gap_G**2).sum()) / len(unit_U))


def sums(unit_AU: NDArray[np.float64], user_U: NDArray[Any]) -> NDArray[np.float64]:
    """Sum over each user's units, float64 [A, G], users in order."""
    _, group_U = np.unique(user_U, return_inverse=True)
    return np.stack([np.bincount(group_U, unit_U) for unit_U in unit_AU])


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


def _auc_variance(label_N: NDArray[Any], placement_N: NDArray[np.float64], user_N: NDArray[Any] | None) -> float:
    """Variance of an AUC given its `placements`, or of a difference of two given theirs.

    Obuchowski (1997): with p and n the sums of a user's gaps of either label from that label's mean, by its number,
    I₁ / (I₁ − 1) · Σ p² + I₀ / (I₀ − 1) · Σ n² + 2 I / (I − 1) · Σ p n, where I₁ users have a positive, I₀ a negative,
    and I any sample. If all samples are of different users, the last sum is 0 and the rest is DeLong's.
    """
    positive_N = np.asarray(label_N) > 0.5
    user_N = np.arange(len(positive_N)) if user_N is None else np.asarray(user_N)
    total, parts = 0.0, []
    for of_label_N in (positive_N, ~positive_N):
        gap_N = np.where(of_label_N, placement_N - placement_N[of_label_N].mean(), 0.0)
        part_G = sums(gap_N[None], user_N)[0] / np.count_nonzero(of_label_N)
        parts.append(part_G)
        total += _spread(len(np.unique(user_N[of_label_N]))) * float(part_G @ part_G)
    between = float(parts[0] @ parts[1])  # exactly 0 where no user has both labels
    return max(total + (2 * _spread(len(parts[0])) * between if between else 0.0), 0.0)


def _spread(count: int) -> float:
    """What makes a sum of squares over so many that vary independently unbiased; NaN for one."""
    return count / (count - 1) if count > 1 else float("nan")
