"""Ranking: whether a user likes an item, as a logit.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.measure.metrics import check_labels, logloss, sigmoid
from llmcf_cli.rec.measure.ranking import AUC, CalibrationError, GroupAUC, LogLoss
from llmcf_cli.rec.tasks.base import NumberTask, Singles


class Ranking(NumberTask):
    """The label of each sample, 0 or 1; models predict its logit."""

    measures = (AUC(), LogLoss(), GroupAUC(), CalibrationError())
    truth = pa.field("label", pa.int8(), nullable=False)
    output = (pa.field("logit", pa.float32(), nullable=False),)

    def target(self, con: Any, samples: Samples) -> NDArray[np.float32]:
        """The samples' own labels."""
        return samples.label_N

    def check(self, truth: Truth, split: str) -> None:
        """Both labels must occur."""
        check_labels(truth.target_N, split)

    def singles(self, prediction: NDArray[Any], truth: Truth) -> Singles:
        """The loss of each sample, and its probability, which people can read."""
        return Singles("logloss", -logloss(truth.target_N, prediction), "probability", sigmoid(prediction))

    def answer(self, prediction_N: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """`logit`, float32, and `probability`, float64."""
        return {"logit": prediction_N, "probability": sigmoid(prediction_N)}
