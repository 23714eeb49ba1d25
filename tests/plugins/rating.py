"""A second task as a drop-in plugin: the rating itself, learned by squared error, compared by RMSE.

Legend: N samples, I items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.types import ComponentConfig, TaskConfig
from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.baselines.base import Baseline
from llmcf_cli.rec.measure.base import MeanMeasure, Measure, Truth, Values
from llmcf_cli.rec.objectives import Objective
from llmcf_cli.rec.tasks.base import NumberTask
from llmcf_cli.store.tables import SAMPLE_TIME

RATING = "rating"


class RatingConfig(TaskConfig):
    """Predict the rating that a user gives an item."""

    target: ClassVar[str] = RATING
    monitors: ClassVar[tuple[str, ...]] = ("rmse", "mae")

    type: Literal["rating"] = "rating"


class SquaredErrorConfig(ComponentConfig):
    """Squared error between rating and prediction."""

    targets: ClassVar[frozenset[str]] = frozenset({RATING})

    type: Literal["squared_error"] = "squared_error"
    weight: Annotated[float, Field(ge=0)] = 1.0
    """Factor in the sum of losses."""


class ItemMeanConfig(ComponentConfig):
    """The item's mean rating in train."""

    targets: ClassVar[frozenset[str]] = frozenset({RATING})

    type: Literal["item_mean"] = "item_mean"


class RMSE(Measure):
    """Root of the mean squared error; compared by a paired bootstrap over the samples."""

    name, title, unit = "rmse", "RMSE", "stars"
    higher_is_better = False

    def values(self, prediction: np.ndarray, truth: Truth) -> Values:
        """Each sample contributes its squared error."""
        square_N = np.square(np.subtract(prediction, truth.target_N, dtype=np.float64))
        return Values(float(np.sqrt(square_N.mean())), square_N, user_U=truth.user_row_N)

    def total(self, mean: np.ndarray) -> np.ndarray:
        """The root."""
        return np.sqrt(mean)


class MAE(MeanMeasure):
    """Mean absolute error."""

    name, title, unit = "mae", "MAE", "stars"
    higher_is_better = False

    def values(self, prediction: np.ndarray, truth: Truth) -> Values:
        """Each sample contributes its absolute error."""
        error_N = np.abs(np.subtract(prediction, truth.target_N, dtype=np.float64))
        return Values(float(error_N.mean()), error_N, user_U=truth.user_row_N)


class Rating(NumberTask):
    """The rating of each sample, in stars."""

    measures = (RMSE(), MAE())
    truth = pa.field("rating", pa.float32(), nullable=False)
    output = (pa.field("predicted", pa.float32(), nullable=False),)

    def target(self, con: Any, samples: Samples) -> np.ndarray:
        """The rating of the interaction that each sample is."""
        found = con.sql(
            "SELECT s.sample_id, any_value(i.rating) AS rating FROM sample s LEFT JOIN "
            f"(SELECT * REPLACE ({SAMPLE_TIME} AS time) FROM interaction) i "
            "USING (user_row, item_row, time) GROUP BY s.sample_id ORDER BY s.sample_id"
        ).to_arrow_table()
        rating = found["rating"].combine_chunks()
        if rating.null_count:
            raise DataError("a sample has no rating", where="dataset.label", hint="use `label: {type: rating}`")
        at_N = np.searchsorted(found["sample_id"].to_numpy(), samples.sample_id_N)
        return rating.to_numpy()[at_N].astype(np.float32)

    def check(self, truth: Truth, split: str) -> None:
        """There must be two samples."""
        if len(truth) < 2:
            raise DataError(f"the {split} split has fewer than two samples", where="dataset.split")

    def answer(self, prediction_N: np.ndarray) -> Mapping[str, np.ndarray]:
        """`predicted`, float32, in stars."""
        return {"predicted": prediction_N}


class SquaredError(Objective):
    """mean (z − y)²."""

    def __call__(self, score_B, targets, aux):
        """Mean over the batch."""
        return (score_B - targets.target_B).square().mean()


class ItemMean(Baseline):
    """The mean rating of the item in train; of an item without any, that of all."""

    def __init__(self, config: ItemMeanConfig) -> None:
        self.config = config

    def fit(self, data, *, seed: int) -> None:
        """Sum and count."""
        item_N, rating_N = data.splits["train"].item_row_N, data.targets["train"]
        size = len(data.resources.catalog.items.ids) + 1
        count_I, sum_I = np.bincount(item_N, minlength=size), np.bincount(item_N, rating_N, minlength=size)
        self.mean_I = np.where(count_I, sum_I / np.maximum(count_I, 1), rating_N.mean()).astype(np.float32)

    def score(self, data, split: str) -> np.ndarray:
        """Stars, float32 [N]."""
        return self.mean_I[data.splits[split].item_row_N]


def register(registry) -> None:
    """Add the task and what is made for it."""
    registry.add("task", "rating", config=":RatingConfig", target=":Rating", summary="the rating, measured by RMSE")
    registry.add("objective", "squared_error", config=":SquaredErrorConfig", target=":SquaredError",
                 summary="squared error")  # fmt: skip
    registry.add("baseline", "item_mean", config=":ItemMeanConfig", target=":ItemMean", summary="the item's mean")
