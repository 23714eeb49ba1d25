"""`gen-cot`: the tuned language model writes a chain of thought for a sample of the train interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.train_llm import with_local_files, writing_model, writing_stages


class GenCoT(Stage):
    """Makes the in-context CoT data set {(x_i, cot_i, y_i)}."""

    name = "gen-cot"
    version = 1

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"seed": recipe.seed, "cot": recipe.cot}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), *writing_stages(recipe.cot.engine))

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.llm.generate import generate_cots
        from llmcf_cli.recipe.prompt import load_prompt

        section, locate = job.recipe.cot, job.context.locate
        model, digest = writing_model(job, section.engine)
        section = section.model_copy(update={"engine": with_local_files(section.engine, locate)})
        report = generate_cots(
            section, data=job.database, model=model, model_digest=digest,
            prompt=load_prompt(locate.path(section.prompt)), cache=job.context.generations,
            out=job.out / "cot.parquet", seed=job.recipe.seed, progress=job.progress,
        )  # fmt: skip
        return asdict(report)
