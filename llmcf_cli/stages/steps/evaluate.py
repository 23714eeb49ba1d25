"""`evaluate`: every arm's predictions of the test split → metrics, tests, tables and plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import VariantSection
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.baseline import FitBaseline
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.predict import PREDICTIONS, Predict
from llmcf_cli.stages.steps.task_data import task_data
from llmcf_cli.stages.steps.train_rec import TrainRec
from llmcf_cli.store.artifacts import MANIFEST, read_manifest
from llmcf_cli.store.open import read_parquet, write_parquet
from llmcf_cli.store.tables import METRIC

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmcf_cli.rec.measure.base import Measure, Truth
    from llmcf_cli.rec.measure.compare import ArmRun
    from llmcf_cli.rec.tasks.base import Task


@dataclass(frozen=True)
class Evaluate(Stage):
    """Compares the arms, in the order of the recipe, baselines first.

    Attributes:
        failed: (arm, reason) of arms that could not be trained: the comparison says so and goes on without them.
    """

    failed: tuple[tuple[str, str], ...] = ()

    name = "evaluate"
    version = 6

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        meanings = {variant.name: _meaning(variant) for variant in recipe.rec.variants}
        return {
            "rec.references": recipe.rec.references, "meanings": meanings, "failed": dict(self.failed),
            "serve.arm": recipe.serve.arm, "rec.task": recipe.rec.task,
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        lost = dict(self.failed)
        return [Ingest(), *(stage for stage in measured_stages(recipe) if stage.arm not in lost)]

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.rec.measure.compare import markdown, notes, summarise
        from llmcf_cli.rec.measure.plots import plot
        from llmcf_cli.rec.measure.slices import LEAST, too_small

        recipe, lost = job.recipe, dict(self.failed)
        data = task_data(recipe, {Ingest.name: job.inputs[Ingest.name]})
        task, truth = data.task, data.truth("test")
        task.check(truth, "test")
        slices = task.slices(data.splits["train"], data.splits["test"])
        (job.out / "predictions").mkdir()
        stages = [stage for stage in measured_stages(recipe) if stage.arm not in lost]
        runs = [_measure(stage, job, task, truth, slices) for stage in stages]
        report = {
            "recipe": recipe.name, "backbone": recipe.rec.backbone.type, "monitor": recipe.rec.monitor,
            "test_samples": len(truth),
            "slices": {name: int(mask.sum()) for name, mask in slices.items()},
            "small_slices": too_small(task.main, truth, slices), "least": LEAST, "failed": lost,
            **summarise(runs, truth, task.measures, recipe.rec.references),
            "served": _served(job, runs, task.measure(recipe.rec.monitor)),
            "compared": [
                {"stage": s.name, "arm": s.arm, "seed": s.seed, "key": job.keys[s.role]} for s in stages
            ],
        }  # fmt: skip
        report["notes"] = notes(report)
        write_parquet(pa.Table.from_pylist(_metric_rows(runs), METRIC.schema), METRIC, job.out / "metric.parquet")
        (job.out / "comparison.json").write_text(json.dumps(report, indent=2) + "\n")
        (job.out / "comparison.md").write_text(markdown(report))
        plot(report, runs, job.out)
        return report


def measured_stages(recipe: Recipe) -> list[FitBaseline | Predict]:
    """The stages that leave predictions: a baseline once, an arm once per seed."""
    baselines = [FitBaseline(config, recipe.seeds[0]) for config in recipe.rec.baselines]
    return [*baselines, *(Predict(arm, seed) for arm in recipe.arms for seed in recipe.seeds)]


def trained_stages(recipe: Recipe) -> list[TrainRec]:
    """One `TrainRec` per arm and seed."""
    return [TrainRec(arm, seed) for arm in recipe.arms for seed in recipe.seeds]


def _measure(
    stage: FitBaseline | Predict, job: Job, task: Task, truth: Truth, slices: Mapping[str, NDArray[np.bool_]]
) -> ArmRun:  # fmt: skip
    """Measures from a stage's predictions, which are copied beside the tables."""
    from llmcf_cli.rec.measure.base import measured
    from llmcf_cli.rec.measure.compare import ArmRun
    from llmcf_cli.rec.measure.slices import slice_values

    folder = job.inputs[stage.role]
    shutil.copyfile(folder / PREDICTIONS, job.out / "predictions" / f"{stage.arm}-seed{stage.seed}.parquet")
    prediction_N = task.read(read_parquet(folder / PREDICTIONS, [task.output.name]))
    found = read_manifest(folder / MANIFEST).report
    meanings = {variant.name: _meaning(variant) for variant in job.recipe.rec.variants}
    return ArmRun(
        arm=stage.arm, meaning=meanings.get(stage.arm, found["meaning"]), seed=stage.seed,
        prediction_N=prediction_N, metrics=measured(task.measures, prediction_N, truth), validation=found["best"],
        curve=[epoch["validation"][found["monitor"]] for epoch in found.get("epochs", ())],
        seconds_per_epoch=found.get("seconds_per_epoch"), parameters=found.get("num_parameters"),
        peak_memory=found.get("peak_memory"), slices=slice_values(task.main, prediction_N, truth, slices),
    )  # fmt: skip


def _meaning(variant: VariantSection) -> str:
    """In the recipe's words, or what the variant sets."""
    flow = yaml.safe_dump(variant.set, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31)
    return variant.meaning or flow.strip()[1:-1]


def _served(job: Job, runs: Sequence[ArmRun], monitor: Measure) -> dict[str, Any] | None:
    """The bundle to serve: of the arm that `serve.arm` names, else of the one that is best on validation.

    Means over the seeds are compared; of the arm's seeds the best one on validation is served. An arm whose guard leaks
    on purpose is no candidate, nor is a baseline, which leaves no bundle. None if the arm failed.
    """
    recipe, sign = job.recipe, monitor.sign
    honest = [arm for arm, own in recipe.arms.items() if own.match.exclude != "reference"]
    found = {
        arm: [(sign * run.validation[monitor.name], -run.seed) for run in runs if run.arm == arm] for arm in honest
    }
    means = {arm: sum(value for value, _ in group) / len(group) for arm, group in found.items() if group}
    named = recipe.serve.arm
    if not means or (named and named not in means):
        return None
    arm = named or max(means, key=lambda name: means[name])  # the first of equals
    seed = -max(found[arm])[1]
    bundle = read_manifest(job.inputs[Predict(arm, seed).role] / MANIFEST).report["bundle"]
    validation = {name: sign * value for name, value in means.items()}
    return {"arm": arm, "seed": seed, "bundle": str(bundle), "named": bool(named), "monitor": monitor.name,
            "validation": validation}  # fmt: skip


def _metric_rows(runs: Sequence[ArmRun]) -> list[dict[str, Any]]:
    return [
        {"arm": run.arm, "seed": run.seed, "split": split, "metric": metric, "value": value}
        for run in runs
        for split, metrics in (("validation", run.validation), ("test", run.metrics))
        for metric, value in metrics.items()
    ]
