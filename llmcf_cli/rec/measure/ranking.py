"""Measures of logits against labels 0 and 1.

Legend: N samples, G users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.rec.measure import metrics
from llmcf_cli.rec.measure.base import MeanMeasure, Measure, Truth, Values
from llmcf_cli.rec.measure.significance import Paired, auc_standard_error, delong_of_placements, placements


class AUC(Measure):
    """How often a positive scores above a negative; compared by DeLong's test, over users as Obuchowski has it."""

    name, title = "auc", "AUC"
    higher_is_better = True
    chance = 0.5
    test_title = "DeLong"

    def values(self, prediction: NDArray[Any], truth: Truth) -> Values:
        """Each sample contributes its placement among those of the other label."""
        total = self.value(prediction, truth)
        return Values(total, placements(truth.target_N, prediction), label_U=truth.target_N, user_U=truth.user_row_N)

    def value(self, prediction: NDArray[Any], truth: Truth) -> float:
        """The area alone, which takes no ranks."""
        return metrics.auc(truth.target_N, prediction)

    def test(self, first: Values, second: Values) -> Paired:
        """DeLong's test of correlated AUCs."""
        return delong_of_placements(_labels(first), first.unit_U, second.unit_U, first.user_U)

    def standard_error(self, values: Values) -> float:
        """By the same components as the test."""
        return auc_standard_error(_labels(values), values.unit_U, values.user_U)

    def counts(self, truth: Truth) -> Mapping[str, int]:
        """Both labels are needed."""
        positive = int(np.count_nonzero(truth.target_N > 0.5))
        return {"positive samples": positive, "negative samples": len(truth) - positive}


class LogLoss(MeanMeasure):
    """Mean cross-entropy of the labels, in nats."""

    name, title = "logloss", "logloss"
    higher_is_better = False

    def values(self, prediction: NDArray[Any], truth: Truth) -> Values:
        """Each sample contributes its own loss."""
        loss_N = metrics.logloss(truth.target_N, prediction)
        return Values(float(loss_N.mean()), loss_N, user_U=truth.user_row_N)


class GroupAUC(Measure):
    """AUC within users, weighted by their numbers of samples; users with one label do not count."""

    name, title = "gauc", "gAUC"
    higher_is_better = True
    chance = 0.5

    def values(self, prediction: NDArray[Any], truth: Truth) -> Values:
        """Each user contributes its AUC."""
        auc_G, count_G = metrics.group_auc(truth.user_row_N, truth.target_N, prediction)
        both_G = ~np.isnan(auc_G)
        if not both_G.any():
            users = np.count_nonzero(count_G)
            raise DataError(
                "gAUC needs a user with samples of both labels", code="split-one-class", where=f"{users} users"
            )
        auc_U, weight_U = auc_G[both_G], count_G[both_G].astype(np.float64)
        return Values(float(np.average(auc_U, weights=weight_U)), auc_U, weight_U)


class CalibrationError(MeanMeasure):
    """Expected calibration error in bins of equal width."""

    name, title = "ece", "ECE"
    most, advice = 0.05, "calibrate the probabilities (on validation) before you use them as such"
    higher_is_better = False

    def values(self, prediction: NDArray[Any], truth: Truth) -> Values:
        """Each sample contributes its label minus its probability, signed as its bin's sum is."""
        return Values(*metrics.calibration_error(truth.target_N, prediction), user_U=truth.user_row_N)


def _labels(values: Values) -> NDArray[np.float32]:
    assert values.label_U is not None
    return values.label_U
