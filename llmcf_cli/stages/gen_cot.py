"""`gen-cot`: the tuned language model writes a chain of thought for a sample of the train interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Node, Stage
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
        from llmcf_cli.llm.generate import generate_cots, retry_set_aside
        from llmcf_cli.recipe.prompt import load_prompt

        section = job.recipe.cot
        model, model_digest = job.inputs["train-llm"] / "model", job.keys["train-llm"]
        cache, seed = job.context.generations, job.recipe.seed
        if job.forced:
            retry_set_aside(section, model=model, model_digest=model_digest, cache=cache, seed=seed)
        report = generate_cots(
            section, data=job.database, model=model, model_digest=model_digest,
            prompt=load_prompt(job.context.locate.path(section.prompt)), cache=cache, out=job.out / "cot.parquet",
            seed=seed, progress=job.progress,
        )  # fmt: skip
        return asdict(report)

    def cost(self, node: Node) -> Sequence[tuple[str, str]]:
        from llmcf_cli.llm.cost import estimate_rows
        from llmcf_cli.llm.generate import estimate_cots
        from llmcf_cli.llm.models import hf_folder
        from llmcf_cli.recipe.prompt import load_prompt

        ingest, tuned, context = node.needs["ingest"], node.needs["train-llm"], node.context
        if not _is_made(ingest):
            hint = f"llmcf ingest {context.recipe.name}"
            raise LlmcfError("what it costs is known once the samples are", where=self.name, hint=hint)
        # A model that is still to be tuned has the tokenizer of the one it starts from.
        model = tuned.folder / "model"
        if not _is_made(tuned):
            model = hf_folder(context.locate.path(context.recipe.llm.model), context.models)
        section = context.recipe.cot
        found = estimate_cots(
            section, data=ingest.folder / "data.duckdb", model=model, model_digest=tuned.key,
            prompt=load_prompt(context.locate.path(section.prompt)), cache=context.generations,
            seed=context.recipe.seed,
        )  # fmt: skip
        return estimate_rows(found)


def _is_made(node: Node) -> bool:
    return node.context.store.manifest(node.stage.name, node.key) is not None
