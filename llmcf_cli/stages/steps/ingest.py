"""`ingest`: raw tables → users, items, interactions and labelled samples with their histories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcf_cli.data.output import IngestOutput
from llmcf_cli.data.report import IngestReport
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.engine.report import from_json


class Ingest(Stage):
    """Reads the data set and makes samples, as SQL in DuckDB."""

    name = "ingest"
    version = 3
    report = IngestReport
    output = IngestOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "dataset": recipe.dataset}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return ()

    def run(self, job: Job) -> IngestReport:
        from llmcf_cli.data.ingest import ingest

        return ingest(
            job.recipe.dataset, locate=job.context.locate.path, seed=job.recipe.seed,
            out=IngestOutput(job.out).database, progress=job.progress,
        )  # fmt: skip

    def judge(self, recipe: Recipe, report: Mapping[str, Any]) -> None:
        from llmcf_cli.data.alarms import stop_at_limits

        stop_at_limits(from_json(IngestReport, report, self.label), recipe.dataset)
