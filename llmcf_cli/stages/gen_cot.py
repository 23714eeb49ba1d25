"""`gen-cot`: the tuned language model writes a chain of thought for a sample of the train interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.train_llm import TrainLLM


class GenCoT(Stage):
    """Makes the in-context CoT data set {(x_i, cot_i, y_i)}."""

    name = "gen-cot"
    version = 2

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "cot": recipe.cot}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), TrainLLM())

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.llm.generate import generate_cots
        from llmcf_cli.recipe.prompt import load_prompt

        section = job.recipe.cot
        report = generate_cots(
            section, data=job.database, model=job.inputs["train-llm"] / "model", model_digest=job.keys["train-llm"],
            prompt=load_prompt(job.context.locate.path(section.prompt)), cache=job.context.generations,
            out=job.out, seed=job.recipe.seed, history=job.recipe.dataset.history, progress=job.progress,
        )  # fmt: skip
        return asdict(report)
