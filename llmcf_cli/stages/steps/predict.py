"""`predict`: an arm's scores of the test split, the only place where a trained model meets it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, SeededArmStage, Stage
from llmcf_cli.stages.steps.task_data import arm_needs, arm_stages, task_data
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecOutput, TrainRecReport
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import write_parquet

if TYPE_CHECKING:
    import numpy as np

    from llmcf_cli.rec.input.dataset import TaskData


class PredictOutput(Output):
    """Scores of the test split, of an arm or a baseline."""

    predictions = File("predictions.parquet", "the task's table of predictions")


@dataclass(frozen=True, kw_only=True)
class PredictReport(TrainRecReport):
    """The training's report, with the place of its model.

    Attributes:
        bundle: Folder of the model that predicted.
    """

    bundle: str


@dataclass(frozen=True)
class Predict(SeededArmStage):
    """Scores the test split once with an arm's bundle."""

    name = "predict"
    version = 2
    report = PredictReport
    output = PredictOutput

    @classmethod
    def of(cls, recipe: Recipe) -> Sequence[Self]:
        return [cls(arm, seed) for arm in recipe.arms for seed in recipe.seeds]

    @property
    def role(self) -> str:
        return self.label

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return [*arm_stages(recipe), TrainRec(self.arm, self.seed)]

    def run(self, job: Job) -> PredictReport:
        from llmcf_cli.rec.bundle.bundle import load_bundle
        from llmcf_cli.rec.input.events import EVENTS
        from llmcf_cli.rec.train.predict import predict

        folder = job.inputs[TrainRec.name]
        data = task_data(job.recipe, job.inputs, arm_needs(job.recipe))
        bundle = TrainRecOutput(folder).bundle
        model = load_bundle(bundle).model
        if EVENTS in model.resources.held:  # a bundle without histories tells nothing of them
            model = model.with_items(model.resources.holding(**{EVENTS: data.resources.get(EVENTS)}))
        with job.progress.task("predict", len(data.splits["test"]), "samples") as task:
            prediction_N = predict(model, data, "test", batch_size=job.recipe.rec.fit.evaluation_batch_size)
            task.advance(len(prediction_N))
        write_predictions(data, prediction_N, PredictOutput(job.out).predictions)
        return PredictReport(bundle=str(bundle), **vars(job.report_of(TrainRec(self.arm, self.seed))))


def write_predictions(data: TaskData, prediction: np.ndarray, path: Path) -> None:
    """Write the task's table of predictions of the test split, with the user's own ids."""
    test, catalog, task = data.splits["test"], data.resources.catalog, data.task
    columns = {
        "sample_id": test.sample_id_N, "user_row": test.user_row_N, "item_row": test.item_row_N,
        "user_id": catalog.users.ids.take(pa.array(test.user_row_N - 1)),
        "item_id": catalog.items.ids.take(pa.array(test.item_row_N - 1)), "time": test.time_N,
        task.truth.name: pa.array(data.targets["test"]).cast(task.truth.type), "split": ["test"] * len(test),
        **task.columns(prediction),
    }  # fmt: skip
    write_parquet(pa.table(columns), task.stored, path)
