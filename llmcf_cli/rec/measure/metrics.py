"""Metrics of binary predictions, on NumPy arrays in float64. Ties count half, as in the definition of AUC.

Legend: N samples, M samples of one label, G groups (users).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError


def auc(label_N: NDArray[Any], score_N: NDArray[Any]) -> float:
    """Area under the ROC curve: how often a positive scores above a negative.

    Raises:
        DataError: All labels are the same.
    """
    positive_N, score_N = np.asarray(label_N) > 0.5, np.asarray(score_N)
    # The Mann–Whitney count, in integers. Sorted needles make the search a walk through memory.
    positive_M, negative_M = np.sort(score_N[positive_N]), np.sort(score_N[~positive_N])
    pairs = len(positive_M) * len(negative_M)
    if not pairs:
        raise DataError("AUC needs samples of both labels", code="split-one-class", where=f"{len(score_N)} samples")
    below, not_above = (int(np.searchsorted(negative_M, positive_M, side).sum()) for side in ("left", "right"))
    return (below + not_above) / (2 * pairs)


def group_auc(
    group_N: NDArray[Any], label_N: NDArray[Any], score_N: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """AUC (NaN where one label is missing) and number of samples of groups 0 … G − 1, by the Mann–Whitney rank sum.

    Weighted by these numbers, the mean over groups with both labels is the gAUC (Zhou 2018, Eq. 7).

    Args:
        group_N: Rows of groups: integers from 0, without large gaps.
        label_N: 0 or 1.
        score_N: Higher for a likelier 1.
    """
    group_N = np.asarray(group_N)
    count_G = np.bincount(group_N)
    label_N = np.asarray(label_N, np.float64)
    rank_N = _group_ranks(group_N, np.asarray(score_N), count_G)
    positive_G = np.bincount(group_N, label_N, minlength=len(count_G))
    rank_sum_G = np.bincount(group_N, label_N * rank_N, minlength=len(count_G))
    pairs_G = positive_G * (count_G - positive_G)
    above_G = rank_sum_G - positive_G * (positive_G + 1) / 2
    return np.divide(above_G, pairs_G, out=np.full(len(count_G), np.nan), where=pairs_G > 0), count_G


def logloss(label_N: NDArray[Any], logit_N: NDArray[Any]) -> NDArray[np.float64]:
    """−y log σ(z) − (1 − y) log(1 − σ(z)) of each sample, from logits, so that no probability rounds to 0 or 1."""
    logit_N = np.asarray(logit_N, np.float64)
    loss_N: NDArray[np.float64] = np.logaddexp(0.0, logit_N) - np.asarray(label_N, np.float64) * logit_N
    return loss_N


def calibration_error(
    label_N: NDArray[Any], logit_N: NDArray[Any], bins: int = 10
) -> tuple[float, NDArray[np.float64]]:
    """Expected calibration error: Σ_b n_b/N · |mean label − mean probability| over bins of equal width.

    Returns:
        The error; and float64 [N], label minus probability with the sign of its bin's sum, whose mean is the error.
    """
    probability_N = sigmoid(logit_N)
    bin_N = np.minimum((probability_N * bins).astype(np.int64), bins - 1)
    gap_N = np.asarray(label_N, np.float64) - probability_N
    gap_b = np.bincount(bin_N, gap_N, minlength=bins)
    return float(np.abs(gap_b).sum() / len(probability_N)), gap_N * np.sign(gap_b)[bin_N]


def sigmoid(logit_N: NDArray[Any]) -> NDArray[Any]:
    """1 / (1 + exp(−z)), float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logit_N, np.float64)))


def check_labels(label_N: NDArray[Any], split: str) -> None:
    """Refuse a split that no model can be trained or measured on.

    Raises:
        DataError: The split is empty or holds one label only.
    """
    if not len(label_N) or np.min(label_N) == np.max(label_N):
        what = "is empty" if not len(label_N) else f"has only the label {label_N[0]:g}"
        raise DataError(
            f"the {split} split {what}",
            code="split-one-class",
            where="dataset",
            hint="check dataset.label and dataset.split",
        )


def _group_ranks(group_N: NDArray[Any], score_N: NDArray[Any], count_G: NDArray[Any]) -> NDArray[Any]:
    """1-based rank of each score within its group; equal scores share their mean rank."""
    order_N = np.argsort(score_N)  # ties may stand in any order: they share their rank
    order_N = order_N[np.argsort(group_N[order_N], kind="stable")]
    group_s, score_s = group_N[order_N], score_N[order_N]
    new_s = np.ones(len(order_N), bool)
    new_s[1:] = (group_s[1:] != group_s[:-1]) | (score_s[1:] != score_s[:-1])
    tie_s = np.cumsum(new_s) - 1
    start_t = np.flatnonzero(new_s)
    size_t = np.diff(np.append(start_t, len(order_N)))
    first_G = np.cumsum(count_G) - count_G
    rank_N = np.empty(len(order_N))
    rank_N[order_N] = (start_t + (size_t + 1) / 2)[tie_s] - first_G[group_s]
    return rank_N
