"""`evaluate`: every arm's predictions of the test split → metrics, tests, tables and plots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import VariantSection
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.baseline import FitBaseline
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.predict import PREDICTIONS, Predict
from llmcf_cli.stages.ranking_data import ranking_data
from llmcf_cli.stages.train_rec import TrainRec
from llmcf_cli.store.artifacts import MANIFEST, read_manifest
from llmcf_cli.store.open import read_parquet, write_parquet
from llmcf_cli.store.tables import METRIC

if TYPE_CHECKING:
    from llmcf_cli.features.batch import Samples
    from llmcf_cli.rec.compare import ArmRun


@dataclass(frozen=True)
class Evaluate(Stage):
    """Compares the arms, in the order of the recipe, baselines first.

    Attributes:
        failed: (arm, reason) of arms that could not be trained: the comparison says so and goes on without them.
    """

    failed: tuple[tuple[str, str], ...] = ()

    name = "evaluate"
    version = 5

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        meanings = {variant.name: _meaning(variant) for variant in recipe.rec.variants}
        return {
            "rec.references": recipe.rec.references, "meanings": meanings, "failed": dict(self.failed),
            "serve.arm": recipe.serve.arm,
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        lost = dict(self.failed)
        return [Ingest(), *(stage for stage in measured_stages(recipe) if stage.arm not in lost)]

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.rec.compare import markdown, notes, summarise
        from llmcf_cli.rec.metrics import check_labels
        from llmcf_cli.rec.plots import plot
        from llmcf_cli.rec.slices import LEAST, cold_start_slices, too_small

        recipe, lost = job.recipe, dict(self.failed)
        splits = ranking_data(recipe, {Ingest.name: job.inputs[Ingest.name]}).splits
        check_labels(splits["test"].label_N, "test")
        test, slices = splits["test"], cold_start_slices(splits["train"], splits["test"])
        (job.out / "predictions").mkdir()
        stages = [stage for stage in measured_stages(recipe) if stage.arm not in lost]
        runs = [_measure(stage, job, test, slices) for stage in stages]
        report = {
            "recipe": recipe.name, "backbone": recipe.rec.backbone.type, "monitor": recipe.rec.fit.monitor,
            "test_samples": len(test),
            "slices": {name: int(mask.sum()) for name, mask in slices.items()},
            "small_slices": too_small(test.label_N, slices), "least_per_label": LEAST, "failed": lost,
            **summarise(runs, test.label_N, recipe.rec.references), "served": _served(job, runs),
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


def _measure(stage: FitBaseline | Predict, job: Job, test: Samples, slices: dict[str, Any]) -> ArmRun:
    """Metrics from a stage's predictions, which are copied beside the tables."""
    from llmcf_cli.rec.compare import ArmRun
    from llmcf_cli.rec.metrics import ranking_metrics
    from llmcf_cli.rec.slices import slice_auc

    folder = job.inputs[stage.role]
    shutil.copyfile(folder / PREDICTIONS, job.out / "predictions" / f"{stage.arm}-seed{stage.seed}.parquet")
    logit_N = read_parquet(folder / PREDICTIONS, ["logit"])["logit"].to_numpy()
    found = read_manifest(folder / MANIFEST).report
    meanings = {variant.name: _meaning(variant) for variant in job.recipe.rec.variants}
    return ArmRun(
        arm=stage.arm, meaning=meanings.get(stage.arm, found["meaning"]), seed=stage.seed, logit_N=logit_N,
        metrics=ranking_metrics(test.label_N, logit_N, test.user_row_N), validation=found["best"],
        curve=[epoch["validation"][found["monitor"]] for epoch in found.get("epochs", ())],
        seconds_per_epoch=found.get("seconds_per_epoch"), parameters=found.get("num_parameters"),
        peak_memory=found.get("peak_memory"), slices=slice_auc(test.label_N, logit_N, slices),
    )  # fmt: skip


def _meaning(variant: VariantSection) -> str:
    """In the recipe's words, or what the variant sets."""
    flow = yaml.safe_dump(variant.set, default_flow_style=True, sort_keys=False, allow_unicode=True, width=2**31)
    return variant.meaning or flow.strip()[1:-1]


def _served(job: Job, runs: Sequence[ArmRun]) -> dict[str, Any] | None:
    """The bundle to serve: of the arm that `serve.arm` names, else of the one that is best on validation.

    Means over the seeds are compared; of the arm's seeds the best one on validation is served. An arm whose guard leaks
    on purpose is no candidate, nor is a baseline, which leaves no bundle. None if the arm failed.
    """
    from llmcf_cli.rec.fit import HIGHER_IS_BETTER

    recipe, monitor = job.recipe, job.recipe.rec.fit.monitor
    honest = [arm for arm, own in recipe.arms.items() if own.match.exclude != "reference"]
    sign = 1.0 if HIGHER_IS_BETTER[monitor] else -1.0
    found = {arm: [(sign * run.validation[monitor], -run.seed) for run in runs if run.arm == arm] for arm in honest}
    means = {arm: sum(value for value, _ in group) / len(group) for arm, group in found.items() if group}
    named = recipe.serve.arm
    if not means or (named and named not in means):
        return None
    arm = named or max(means, key=lambda name: means[name])  # the first of equals
    seed = -max(found[arm])[1]
    bundle = read_manifest(job.inputs[Predict(arm, seed).role] / MANIFEST).report["bundle"]
    validation = {name: sign * value for name, value in means.items()}
    return {"arm": arm, "seed": seed, "bundle": str(bundle), "named": bool(named), "monitor": monitor,
            "validation": validation}  # fmt: skip


def _metric_rows(runs: Sequence[ArmRun]) -> list[dict[str, Any]]:
    return [
        {"arm": run.arm, "seed": run.seed, "split": split, "metric": metric, "value": value}
        for run in runs
        for split, metrics in (("validation", run.validation), ("test", run.metrics))
        for metric, value in metrics.items()
    ]
