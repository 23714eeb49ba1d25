"""`evaluate`: every arm on the test split, once, and the comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.train_rec import BUNDLE, TrainRec, train_rec_runs
from llmcf_cli.store.artifacts import MANIFEST, read_manifest
from llmcf_cli.store.open import write_parquet
from llmcf_cli.store.tables import METRIC, PREDICTION

if TYPE_CHECKING:
    from llmcf_cli.features.batch import Samples
    from llmcf_cli.rec.compare import ArmRun
    from llmcf_cli.rec.dataset import RankingData


class Evaluate(Stage):
    """Reads the test split for the first and only time; writes predictions, metrics, tables and plots."""

    name = "evaluate"
    version = 1

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"rec.task": recipe.rec.task}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        runs = train_rec_runs(recipe)
        inputs = {need.label: need for run in runs for need in run.needs(recipe)}
        return (*({Ingest().label: Ingest()} | inputs).values(), *runs)

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.rec.compare import markdown, notes, plot, summarise
        from llmcf_cli.stages.ranking_data import ranking_data

        data = ranking_data(job.recipe, job.inputs)
        stages = train_rec_runs(job.recipe)
        runs = []
        (job.out / "predictions").mkdir()
        with job.progress.task("evaluate", len(stages), "arms") as task:
            for stage in stages:
                runs.append(_measure(stage, job, data))
                task.advance()
        test = data.splits["test"]
        report = {
            "recipe": job.recipe.name, "backbone": job.recipe.rec.backbone.type, "test_samples": len(test),
            **summarise(runs, test.label_N),
            "bundle": str(_bundle(job.inputs, _served(job.recipe, stages))),
        }  # fmt: skip
        report["notes"] = notes(report)
        _write_metrics(runs, job.out / "metric.parquet")
        (job.out / "comparison.json").write_text(json.dumps(report, indent=2) + "\n")
        (job.out / "comparison.md").write_text(markdown(report))
        plot(report, runs, job.out)
        return report


def _measure(stage: TrainRec, job: Job, data: RankingData) -> ArmRun:
    """Predict the test split with an arm's bundle, store the predictions, compute the metrics from them."""
    from llmcf_cli.rec.bundle import load_bundle
    from llmcf_cli.rec.compare import ArmRun
    from llmcf_cli.rec.metrics import ranking_metrics
    from llmcf_cli.rec.predict import predict

    test = data.splits["test"]
    model = load_bundle(_bundle(job.inputs, stage)).model
    logit_N = predict(model, data, "test", batch_size=job.recipe.rec.fit.evaluation_batch_size)
    _write_predictions(test, logit_N, job.out / "predictions" / f"{stage.arm}-seed{stage.seed}.parquet")
    trained = read_manifest(job.inputs[stage.label] / MANIFEST).report
    return ArmRun(
        arm=stage.arm, meaning=trained["meaning"], seed=stage.seed, logit_N=logit_N,
        metrics=ranking_metrics(test.label_N, logit_N, test.user_row_N), validation=trained["best"],
        curve=[epoch["validation"]["auc"] for epoch in trained["epochs"]], epochs=len(trained["epochs"]),
        seconds_per_epoch=trained["seconds_per_epoch"], parameters=trained["num_parameters"],
    )  # fmt: skip


def _served(recipe: Recipe, stages: Sequence[TrainRec]) -> TrainRec:
    """The run whose bundle is named at the end: the recipe's own augmenter with its first seed."""
    return next(stage for stage in stages if stage.augment == recipe.rec.augment)


def _bundle(folders: Mapping[str, Path], stage: TrainRec) -> Path:
    return folders[stage.label] / BUNDLE


def _write_predictions(test: Samples, logit_N: np.ndarray[Any, Any], path: Path) -> None:
    columns = {
        "sample_id": test.sample_id_N, "user_row": test.user_row_N, "item_row": test.item_row_N,
        "label": test.label_N.astype(np.int8), "split": ["test"] * len(test), "logit": logit_N,
    }  # fmt: skip
    write_parquet(pa.table(columns), PREDICTION, path)


def _write_metrics(runs: Sequence[ArmRun], path: Path) -> None:
    rows = [
        {"arm": run.arm, "seed": run.seed, "split": split, "metric": metric, "value": value}
        for run in runs
        for split, metrics in (("validation", run.validation), ("test", run.metrics))
        for metric, value in metrics.items()
    ]
    write_parquet(pa.Table.from_pylist(rows, METRIC.schema), METRIC, path)
