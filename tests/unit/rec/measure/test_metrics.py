"""Metrics against scikit-learn and against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score

from llmcf_cli.core.errors import DataError
from llmcf_cli.rec.measure.base import Truth, measured
from llmcf_cli.rec.measure.metrics import auc, calibration_error, sigmoid
from llmcf_cli.rec.measure.ranking import AUC, CalibrationError, GroupAUC, LogLoss

MEASURES = (AUC(), LogLoss(), GroupAUC(), CalibrationError())

ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 1), st.sampled_from([-2.0, -0.5, 0.0, 3.0])), min_size=2, max_size=60
)


@given(ROWS)
def test_auc_and_gauc_with_ties_equal_scikit_learn(rows):
    user, label, score = (np.array(c) for c in zip(*rows, strict=True))
    truth = Truth(label, user)
    if len(set(label)) < 2:
        with pytest.raises(DataError):
            auc(label, score)
        return
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
    both = [u for u in set(user) if len(set(label[user == u])) == 2]
    if not both:
        assert "gauc" not in measured(MEASURES, score, truth)
        return
    weights = [(user == u).sum() for u in both]
    expected = np.average([roc_auc_score(label[user == u], score[user == u]) for u in both], weights=weights)
    assert measured(MEASURES, score, truth)["gauc"] == pytest.approx(expected, abs=1e-12)


def logloss(label, logit):
    return LogLoss().value(logit, Truth(label, np.zeros(len(label), np.int32)))


def test_logloss_equals_scikit_learn_and_stays_finite():
    rng = np.random.default_rng(0)
    label, logit = rng.integers(0, 2, 500), rng.normal(size=500).astype(np.float32)
    assert logloss(label, logit) == pytest.approx(log_loss(label, sigmoid(logit)), rel=1e-9)
    assert logloss(np.array([1, 0]), np.array([1000.0, 1000.0])) == pytest.approx(500.0)
    assert sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]


def test_calibration_error_is_the_weighted_gap_of_bins():
    logit = np.log(np.array([0.25, 0.25, 0.25, 0.25, 0.95, 0.95]) / np.array([0.75, 0.75, 0.75, 0.75, 0.05, 0.05]))
    label = np.array([1, 0, 0, 0, 1, 0])
    error, gap = calibration_error(label, logit)
    assert error == pytest.approx(2 / 6 * 0.45)
    assert gap.mean() == pytest.approx(error)
    assert calibration_error(np.ones(3), np.full(3, 50.0))[0] == pytest.approx(0, abs=1e-9)


def test_auc_of_many_rows_is_exact():
    rng = np.random.default_rng(1)
    label, score = rng.integers(0, 2, 200_000), rng.integers(0, 1000, 200_000)
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)
