"""`evaluate`: every arm's predictions of the test split → metrics, tests, tables and plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import VariantSection
from llmcf_cli.stages.engine.base import ComparingStage, Job, Stage
from llmcf_cli.stages.engine.report import to_json
from llmcf_cli.stages.steps.baseline import FitBaseline
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.predict import Predict, PredictOutput
from llmcf_cli.stages.steps.task_data import task_data
from llmcf_cli.stages.steps.train_rec import ArmReport, TrainRecReport
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import read_parquet, write_parquet
from llmcf_cli.store.tables import METRIC

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llmcf_cli.rec.measure.base import Measure, Truth
    from llmcf_cli.rec.measure.compare import ArmRun
    from llmcf_cli.rec.tasks.base import Task


class EvaluateOutput(Output):
    """The comparison."""

    predictions = File("predictions", "the predictions of every arm and seed, Parquet")
    metrics = File("metric.parquet", "table metric")
    report = File("comparison.json", "the report")
    page = File("comparison.md", "the report as tables")
    picture = File("comparison.png", "measures, differences and curves, as a picture", optional=True)
    plot = File("comparison.html", "the same to look into", optional=True)


@dataclass(frozen=True)
class Served:
    """The model to serve.

    Attributes:
        arm: Its arm.
        seed: Its seed.
        bundle: Its folder.
        named: Whether `serve.arm` names the arm.
        monitor: Name of the validation measure that it was chosen by.
        validation: Arm → mean of that measure over its seeds.
    """

    arm: str
    seed: int
    bundle: str
    named: bool
    monitor: str
    validation: dict[str, float]


@dataclass(frozen=True)
class Compared:
    """Whose predictions were compared.

    Attributes:
        stage: `predict` or `baseline`.
        arm: Name of the arm.
        seed: Its seed.
        key: Of the predictions' artifact.
    """

    stage: str
    arm: str
    seed: int
    key: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The arms side by side on the test split; also what `comparison.json` holds. See `rec.measure.compare`.

    Attributes:
        recipe: Its name.
        backbone: Of the arms.
        monitor: Name of the validation measure that choices went by.
        test_samples: Size of the test split.
        slices: Cold-start slice → its test samples.
        small_slices: Slice that is too small to be measured → what there is of each kind.
        least: Samples of each kind that a slice needs.
        failed: Arm → why it could not be trained.
        measures: `name`, `title` and `heading` of each, the main one first.
        test: The test of differences over what `drawn` says.
        arms: What tables say of each arm.
        references: Arms that the others are tested against.
        differences: Each arm from each reference, with its tests.
        controls: Each arm with each of its controls: both gains, the control's share, the difference with its tests.
        seeds: How many.
        served: The model to serve; None where the arm to serve failed.
        compared: The artifacts behind the arms.
        notes: How to read the differences.
        warnings: What makes an arm less than it could be, or its predictions unfit to be used as they are.
        test_users: Users of the test split.
        drawn: What tests and intervals are over: samples of one user are not independent.
        protocol: How the task's predictions are made and measured, in sentences.
    """

    recipe: str
    backbone: str
    monitor: str
    test_samples: int
    slices: dict[str, int]
    small_slices: dict[str, dict[str, int]]
    least: int
    failed: dict[str, str]
    measures: list[dict[str, Any]]
    test: str
    arms: list[dict[str, Any]]
    references: list[str]
    differences: list[dict[str, Any]]
    controls: list[dict[str, Any]]
    seeds: int
    served: Served | None
    compared: list[Compared]
    notes: list[str]
    warnings: list[str]
    protocol: list[str] = field(default_factory=list)
    test_users: int = 0
    drawn: str = "test samples"


@dataclass(frozen=True)
class Evaluate(ComparingStage):
    """Compares the arms, in the order of the recipe, baselines first."""

    name = "evaluate"
    version = 10
    report = Comparison
    output = EvaluateOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        from llmcf_cli.rec.tasks.base import TASK

        meanings = {variant.name: _meaning(variant) for variant in recipe.rec.variants}
        measures = ", ".join(measure.name for measure in registry().build(TASK, recipe.rec.task).measures)
        return {
            "rec.references": recipe.rec.references, "controls": _controls(recipe), "meanings": meanings,
            "failed": dict(self.failed), "serve.arm": recipe.serve.arm, "rec.task": recipe.rec.task,
            "measures": measures,
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        lost = dict(self.failed)
        return [Ingest(), *(stage for stage in measured_stages(recipe) if stage.arm not in lost)]

    def compared(self, recipe: Recipe) -> Sequence[tuple[str, Stage]]:
        return [(stage.arm, stage) for stage in measured_stages(recipe)]

    def run(self, job: Job) -> Comparison:
        from llmcf_cli.rec.measure.compare import few_users, markdown, notes, summarise, warnings
        from llmcf_cli.rec.measure.plots import plot
        from llmcf_cli.rec.measure.slices import LEAST, parts_of, too_small

        recipe, lost = job.recipe, dict(self.failed)
        data = task_data(recipe, {Ingest.name: job.inputs[Ingest.name]})
        task, truth = data.task, data.truth("test")
        task.check(truth, "test")
        slices, whole = parts_of(task.slices(data.splits["train"], data.splits["test"]))
        out = EvaluateOutput(job.out)
        out.predictions.mkdir()
        stages = [stage for stage in measured_stages(recipe) if stage.arm not in lost]
        runs = [_measure(stage, job, task, truth, slices) for stage in stages]
        summary = summarise(runs, truth, task.measures, recipe.rec.references, _controls(recipe))
        monitor = task.measure(recipe.rec.monitor)
        served = _served(job, runs, monitor)
        told = warnings(runs, task.measures, served.arm if served else None, monitor)
        report = Comparison(
            recipe=recipe.name, backbone=recipe.rec.backbone.type, monitor=recipe.rec.monitor, test_samples=len(truth),
            slices={name: int(mask.sum()) for name, mask in slices.items()},
            small_slices=too_small(task.main, truth, slices), least=LEAST, failed=lost, **summary,
            served=served, warnings=[*few_users(summary), *told],
            compared=[Compared(s.name, s.arm, s.seed, job.keys[s.role]) for s in stages],
            notes=[*notes(summary), *whole], protocol=list(task.protocol),
        )  # fmt: skip
        write_parquet(pa.Table.from_pylist(_metric_rows(runs), METRIC.schema), METRIC, out.metrics)
        plain = to_json(report)
        out.report.write_text(json.dumps(plain, indent=2) + "\n")
        out.page.write_text(markdown(plain))
        plot(plain, runs, job.out)
        return report


def measured_stages(recipe: Recipe) -> list[FitBaseline | Predict]:
    """The stages that leave predictions: a baseline once, an arm once per seed."""
    return [*FitBaseline.of(recipe), *Predict.of(recipe)]


def _measure(
    stage: FitBaseline | Predict, job: Job, task: Task, truth: Truth, slices: Mapping[str, NDArray[np.bool_]]
) -> ArmRun:  # fmt: skip
    """Measures from a stage's predictions, which are copied beside the tables."""
    from llmcf_cli.rec.measure.base import measured
    from llmcf_cli.rec.measure.compare import ArmRun
    from llmcf_cli.rec.measure.slices import slice_values

    made = PredictOutput(job.inputs[stage.role]).predictions
    shutil.copyfile(made, EvaluateOutput(job.out).predictions / f"{stage.arm}-seed{stage.seed}.parquet")
    prediction_N = task.read(read_parquet(made, task.predicted))
    found: ArmReport = job.report_of(stage)
    trained = found if isinstance(found, TrainRecReport) else None
    meanings = {variant.name: _meaning(variant) for variant in job.recipe.rec.variants}
    return ArmRun(
        arm=stage.arm, meaning=meanings.get(stage.arm, found.meaning), seed=stage.seed,
        prediction_N=prediction_N, metrics=measured(task.measures, prediction_N, truth), validation=found.best,
        curve=[epoch.validation[found.monitor] for epoch in (trained.epochs if trained else ())],
        best_epoch=trained.best_epoch if trained else 0,
        seconds_per_epoch=trained.seconds_per_epoch if trained else None,
        parameters=trained.num_parameters if trained else None, peak_memory=trained.peak_memory if trained else None,
        slices=slice_values(task.main, prediction_N, truth, slices),
    )  # fmt: skip


def _controls(recipe: Recipe) -> dict[str, str]:
    """Control → its arm."""
    return {variant.name: variant.control_of for variant in recipe.rec.variants if variant.control_of is not None}


def _meaning(variant: VariantSection) -> str:
    """In the recipe's words, or what the variant sets."""
    flow = yaml.safe_dump(variant.set, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31)
    return variant.meaning or flow.strip()[1:-1]


def _served(job: Job, runs: Sequence[ArmRun], monitor: Measure) -> Served | None:
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
    bundle = job.report_of(Predict(arm, seed)).bundle
    validation = {name: sign * value for name, value in means.items()}
    return Served(arm, seed, bundle, bool(named), monitor.name, validation)


def _metric_rows(runs: Sequence[ArmRun]) -> list[dict[str, Any]]:
    return [
        {"arm": run.arm, "seed": run.seed, "split": split, "metric": metric, "value": value}
        for run in runs
        for split, metrics in (("validation", run.validation), ("test", run.metrics))
        for metric, value in metrics.items()
    ]
