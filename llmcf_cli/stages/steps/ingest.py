"""`ingest`: raw tables → users, items, interactions and labelled samples with their histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage


class Ingest(Stage):
    """Reads the data set and makes samples, as SQL in DuckDB."""

    name = "ingest"
    version = 3

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "dataset": recipe.dataset}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return ()

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.data.ingest import ingest

        report = ingest(
            job.recipe.dataset, locate=job.context.locate.path, seed=job.recipe.seed, out=job.out / "data.duckdb",
            progress=job.progress,
        )  # fmt: skip
        return asdict(report)
