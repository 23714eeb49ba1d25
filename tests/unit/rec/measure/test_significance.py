"""DeLong's test against its definition, and its behaviour on data whose truth is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from llmcf_cli.rec.measure.significance import auc_standard_error, delong, placements


def scores(rng, label_N, strength):
    return (strength * label_N + rng.normal(size=len(label_N))).astype(np.float32)


def brute_covariance(label_N, arms):
    """Structural components by all pairs (DeLong et al., 1988)."""
    positive, negative = label_N > 0.5, label_N < 0.5
    v10, v01 = [], []
    for score in arms:
        psi = (score[positive][:, None] > score[negative][None]) + 0.5 * (score[positive][:, None] == score[negative])
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    return np.cov(v10) / positive.sum() + np.cov(v01) / negative.sum()


def test_difference_and_error_follow_the_definition_with_ties():
    rng = np.random.default_rng(1)
    label_N = (rng.random(200) < 0.4).astype(np.float32)
    first, second = (np.round(scores(rng, label_N, s), 1) for s in (0.5, 1.0))
    found = delong(label_N, first, second)
    assert found.difference == pytest.approx(roc_auc_score(label_N, second) - roc_auc_score(label_N, first))
    covariance = brute_covariance(label_N, [first, second])
    expected = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.standard_error == pytest.approx(expected)
    assert auc_standard_error(label_N, placements(label_N, first)) == pytest.approx(np.sqrt(covariance[0, 0]))
    low, high = found.interval
    assert low < found.difference < high


def test_equal_rankings_do_not_differ():
    label_N = np.array([0, 1, 0, 1, 1], np.float32)
    first = np.array([0.1, 0.4, 0.5, 0.6, 0.9], np.float32)
    found = delong(label_N, first, 2 * first + 1)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(400):
        label_N = (rng.random(150) < 0.5).astype(np.float32)
        p_values.append(delong(label_N, scores(rng, label_N, 0.7), scores(rng, label_N, 0.7)).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.4 < np.mean(p_values) < 0.6


def test_a_real_difference_is_found():
    rng = np.random.default_rng(3)
    label_N = (rng.random(4000) < 0.5).astype(np.float32)
    assert delong(label_N, scores(rng, label_N, 0.3), scores(rng, label_N, 0.8)).p_value < 1e-6
