"""Metrics of a ranking model, on NumPy arrays in float64. Ties count half, as in the definition of AUC.

Legend: N samples, M samples of one label, G groups (users).
"""

from __future__ import annotations

import numpy as np

from llmcf_cli.core.errors import DataError


def auc(label_N: np.ndarray, score_N: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative.

    Raises:
        DataError: All labels are the same.
    """
    positive_N, score_N = np.asarray(label_N) > 0.5, np.asarray(score_N)
    # The Mann–Whitney count, in integers. Sorted needles make the search a walk through memory.
    positive_M, negative_M = np.sort(score_N[positive_N]), np.sort(score_N[~positive_N])
    pairs = len(positive_M) * len(negative_M)
    if not pairs:
        raise DataError("AUC needs samples of both labels", where=f"{len(score_N)} samples")
    below, not_above = (int(np.searchsorted(negative_M, positive_M, side).sum()) for side in ("left", "right"))
    return (below + not_above) / (2 * pairs)


def gauc(user_N: np.ndarray, label_N: np.ndarray, score_N: np.ndarray) -> float:
    """Mean of each user's AUC, weighted by the user's number of samples, over users with both (Zhou 2018, Eq. 7).

    Args:
        user_N: User rows: integers from 0, without large gaps.
        label_N: 0 or 1.
        score_N: Higher for a likelier 1.

    Raises:
        DataError: No user has both labels.
    """
    auc_G, count_G = _group_auc(user_N, label_N, score_N)
    both_G = ~np.isnan(auc_G)
    if not both_G.any():
        raise DataError("GAUC needs a user with samples of both labels", where=f"{np.count_nonzero(count_G)} users")
    return float(np.average(auc_G[both_G], weights=count_G[both_G]))


def logloss(label_N: np.ndarray, logit_N: np.ndarray) -> float:
    """Mean of −y log σ(z) − (1 − y) log(1 − σ(z)), from logits, so that no probability rounds to 0 or 1."""
    logit_N = np.asarray(logit_N, np.float64)
    return float(np.mean(np.logaddexp(0.0, logit_N) - np.asarray(label_N, np.float64) * logit_N))


def calibration_error(label_N: np.ndarray, logit_N: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: Σ_b n_b/N · |mean label − mean probability| over bins of equal width."""
    probability_N = sigmoid(logit_N)
    bin_N = np.minimum((probability_N * bins).astype(np.int64), bins - 1)
    gap_b = np.bincount(bin_N, np.asarray(label_N, np.float64) - probability_N, minlength=bins)
    return float(np.abs(gap_b).sum() / len(probability_N))


def sigmoid(logit_N: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(−z)), float64, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logit_N, np.float64)))


def check_labels(label_N: np.ndarray, split: str) -> None:
    """Refuse a split that no model can be trained or measured on.

    Raises:
        DataError: The split is empty or holds one label only.
    """
    if not len(label_N) or np.min(label_N) == np.max(label_N):
        what = "is empty" if not len(label_N) else f"holds only the label {label_N[0]:g}"
        raise DataError(f"the {split} split {what}", where="dataset", hint="check dataset.label and dataset.split")


def ranking_metrics(label_N: np.ndarray, logit_N: np.ndarray, user_N: np.ndarray) -> dict[str, float]:
    """`auc`, `gauc`, `logloss` and `ece`; `gauc` is absent where no user has both labels.

    Raises:
        DataError: All labels are the same.
    """
    found = {"auc": auc(label_N, logit_N), "logloss": logloss(label_N, logit_N)}
    found["ece"] = calibration_error(label_N, logit_N)
    try:
        found["gauc"] = gauc(user_N, label_N, logit_N)
    except DataError:
        return found
    return found


def _group_auc(group_N: np.ndarray, label_N: np.ndarray, score_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUC (NaN where one label is missing) and number of samples of groups 0 … G − 1, by the Mann–Whitney rank sum."""
    group_N = np.asarray(group_N)
    count_G = np.bincount(group_N)
    label_N = np.asarray(label_N, np.float64)
    rank_N = _group_ranks(group_N, np.asarray(score_N), count_G)
    positive_G = np.bincount(group_N, label_N, minlength=len(count_G))
    rank_sum_G = np.bincount(group_N, label_N * rank_N, minlength=len(count_G))
    pairs_G = positive_G * (count_G - positive_G)
    above_G = rank_sum_G - positive_G * (positive_G + 1) / 2
    return np.divide(above_G, pairs_G, out=np.full(len(count_G), np.nan), where=pairs_G > 0), count_G


def _group_ranks(group_N: np.ndarray, score_N: np.ndarray, count_G: np.ndarray) -> np.ndarray:
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
