"""`gen-cot`: the tuned language model writes a chain of thought for a sample of the train interactions."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import Progress
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Context, Job, Node, Stage
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.stages.run import plan
from llmcf_cli.stages.train_llm import TrainLLM
from llmcf_cli.store.assets import ASSET_PREFIX

if TYPE_CHECKING:
    from llmcf_cli.llm.generate import CoTReport


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

        arguments = _arguments(job.context, job.inputs["ingest"], job.inputs["train-llm"], job.keys["train-llm"])
        if job.forced:
            retry_set_aside(**arguments)
        return asdict(generate_cots(**arguments, out=job.out, progress=job.progress))

    def cost(self, node: Node) -> Sequence[tuple[str, str]]:
        from llmcf_cli.llm.cost import estimate_rows
        from llmcf_cli.llm.generate import estimate_cots
        from llmcf_cli.llm.models import hf_folder

        ingest, tuned, context = node.needs["ingest"], node.needs["train-llm"], node.context
        if not _is_made(ingest):
            hint = f"llmcf ingest {context.recipe.name}"
            raise LlmcfError("what it costs is known once the samples are", where=self.name, hint=hint)
        arguments = _arguments(context, ingest.folder, tuned.folder, tuned.key)
        if not _is_made(tuned):  # it will have the tokenizer of the model that it starts from
            base = context.recipe.llm.model
            if not context.locate.is_here(base):
                hint = f"llmcf assets fetch {base.removeprefix(ASSET_PREFIX).partition('/')[0]}"
                raise LlmcfError("what it costs is known once the model is there", where=self.name, hint=hint)
            arguments["model"] = hf_folder(context.locate.path(base), context.models)
        return estimate_rows(estimate_cots(**arguments))


def help_generate(context: Context, progress: Progress) -> CoTReport:
    """Make calls that another process's `gen-cot` on the same cache has not made yet, until none is left.

    Raises:
        LlmcfError: The stages that `gen-cot` reads are not made.
    """
    from llmcf_cli.llm.generate import generate_cots

    node = plan(context, [GenCoT()])[-1].node
    for need in node.needs.values():
        if not _is_made(need):
            hint = f"llmcf {need.stage.name} {context.recipe.name}"
            raise LlmcfError(f"{need.label} is not made yet, so there is nothing to help with", where="work", hint=hint)
    tuned = node.needs["train-llm"]
    arguments = _arguments(context, node.needs["ingest"].folder, tuned.folder, tuned.key)
    with tempfile.TemporaryDirectory() as folder:  # the table is the other process's to write
        return generate_cots(**arguments, out=Path(folder), progress=progress)


def _arguments(context: Context, ingest: Path, tuned: Path, model_digest: str) -> dict[str, Any]:
    """What generating and its estimate share."""
    from llmcf_cli.recipe.prompt import load_prompt

    section = context.recipe.cot
    return {
        "section": section, "data": ingest / "data.duckdb", "model": tuned / "model", "model_digest": model_digest,
        "prompt": load_prompt(context.locate.path(section.prompt)), "cache": context.generations,
        "seed": context.recipe.seed, "history": context.recipe.dataset.history,
    }  # fmt: skip


def _is_made(node: Node) -> bool:
    return node.context.store.manifest(node.stage.name, node.key) is not None
