"""`evaluate`: every arm on the test split, once, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.train_rec import train_rec_runs


class Evaluate(Stage):
    """Reads the test split for the first and only time; writes predictions, metrics, tables and plots."""

    name = "evaluate"
    version = 1
    summary = "measure every arm on the test split and compare them"

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"rec.task": recipe.rec.task}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), *train_rec_runs(recipe))

    def run(self, job: Job) -> dict[str, Any]:
        raise NotImplementedError
