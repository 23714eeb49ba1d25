"""`gen-cot`: the tuned language model writes a chain of thought for a sample of the train interactions."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import Progress
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.llm.writing.reports import CoTReport
from llmcf_cli.llm.writing.travel import StepCalls
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.sections import TrainSampleSection
from llmcf_cli.stages.engine.base import Context, Job, Node, Stage
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.train_llm import recipe_words
from llmcf_cli.stages.steps.writing import (
    SPARED,
    WritingModel,
    places,
    texts_here,
    with_local_files,
    writing_model,
    writing_stages,
)
from llmcf_cli.store.assets import ASSET_PREFIX

_JUDGED = ("coherence", "completeness", "relevance", "consistency", "score", "kept")
_SCORES = f"""
SELECT prompt_hash, sample_index, {", ".join(f"any_value({name})" for name in _JUDGED[:-1])}, bool_or(kept)
FROM read_parquet($candidates) JOIN (
    SELECT sample_id, prompt_hash FROM read_parquet($cots)
    UNION SELECT sample_id, prompt_hash FROM read_parquet($dropped)
) USING (sample_id) GROUP BY prompt_hash, sample_index
"""


class GenCoT(Stage):
    """Makes the in-context CoT data set {(x_i, cot_i, y_i)}."""

    name = "gen-cot"
    version = 3
    report = CoTReport
    output = CoTOutput
    reads_texts = True
    sparing = SPARED

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        cot = recipe.cot
        if "data" in cot.engine.needs:  # it reads no prompt
            cot = cot.model_copy(update={"prompt": None})
        return {"seed": recipe.seed, "cot": cot}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), *writing_stages(recipe.cot.engine))

    def chosen(self, recipe: Recipe, database: Path) -> tuple[TrainSampleSection, int | None]:
        """Which train samples are written about.

        Args:
            recipe: The recipe.
            database: DuckDB file of ingest.

        Returns:
            How many of them; and the time from which on, in microseconds since 1970; None: all.
        """
        return recipe.cot.sample, None

    def run(self, job: Job) -> CoTReport:
        from llmcf_cli.llm.writing.generate import generate_cots, retry_set_aside, write_from_data

        recipe = job.recipe
        if "data" in recipe.cot.engine.needs:
            sample, since = self.chosen(recipe, job.database)
            return write_from_data(
                recipe.cot.model_copy(update={"sample": sample}),
                data=job.database,
                source=recipe.dataset.source,
                out=job.out,
                seed=recipe.seed,
                words=recipe_words(recipe),
                progress=job.progress,
                since=since,
            )
        model = writing_model(job.context, job.inputs, job.keys, recipe.cot.engine)
        arguments = _arguments(self, job.context, job.inputs, model)
        since = arguments.pop("since")
        if job.forced:
            retry_set_aside(**arguments)
        return generate_cots(
            **arguments, since=since, out=job.out, progress=job.progress,
            executor=model.executor(job.context.executor),
            blank_texts=job.recipe.dataset.limits.blank_texts,
        )  # fmt: skip

    def spared(self, node: Node) -> str:
        return texts_here(node)

    def cost(self, node: Node) -> Sequence[tuple[str, str]]:
        from llmcf_cli.llm.writing.cost import estimate_rows
        from llmcf_cli.llm.writing.generate import estimate_cots

        if "data" in node.context.recipe.cot.engine.needs:
            return [("calls", "none: the engine writes from the data")]
        ingest, tuned, context = node.needs["ingest"], node.needs.get("train-llm"), node.context
        if not ingest.made:
            hint = "run llmcf ingest with the same recipe and settings"
            raise LlmcfError("the cost is unknown until the samples exist", code="not-made", where=self.name, hint=hint)
        if tuned is not None and not tuned.made:
            base = context.recipe.language_model.model
            if not context.locate.is_here(base):
                hint = f"llmcf assets fetch {base.removeprefix(ASSET_PREFIX).partition('/')[0]}"
                raise LlmcfError(
                    "the cost is unknown until the model is fetched", code="not-made", where=self.name, hint=hint
                )
        return estimate_rows(estimate_cots(**_arguments_of(node)))


def help_generate(context: Context, progress: Progress) -> CoTReport | None:
    """Make calls that another process's `gen-cot` on the same cache has not made yet, until none is left.

    Returns:
        What was made; None if `gen-cot` has ended, so that none is left.

    Raises:
        LlmcfError: The stages that `gen-cot` reads are not made.
    """
    from llmcf_cli.llm.writing.generate import generate_cots

    node = plan(context, [GenCoT()])[-1].node
    for need in node.needs.values():
        if not need.made:
            raise LlmcfError(
                f"nothing to help with yet: gen-cot of {context.recipe.name!r} needs {need.label} first",
                code="not-made", where="work",
                hint="llmcf gen-cot RECIPE makes both; then run this again",
            )  # fmt: skip
        need.check()
    if node.made:
        return None
    engine = context.recipe.cot.engine
    if "data" in engine.needs:
        raise LlmcfError(
            f"nothing to help with: the engine {engine.type} writes in seconds, in one process",
            code="engine-no-prompts", where="work", hint="llmcf gen-cot RECIPE",
        )  # fmt: skip
    arguments = _arguments_of(node)
    with tempfile.TemporaryDirectory() as folder:  # the table is the other process's to write
        return generate_cots(**arguments, out=Path(folder), progress=progress)


def calls_of(node: Node, users: Collection[int] | None = None) -> list[StepCalls]:
    """What a recipe's `gen-cot` asks its model; nothing where the engine writes from the data.

    Args:
        node: The stage.
        users: Rows of the users whose samples are meant; None: of all.

    Raises:
        LlmcfError: The stages that it reads are not made.
    """
    from llmcf_cli.llm.writing.generate import list_calls

    if "data" in node.context.recipe.cot.engine.needs:
        return []
    node.require_needs()
    return list_calls(**_arguments_of(node), users=users)


def scores_of(node: Node) -> dict[tuple[str, int], dict[str, Any]]:
    """(Prompt's digest, index) → scores, and whether it is kept, of the texts that the judge has seen, if it has."""
    import duckdb

    if not node.made:
        return {}
    output = CoTOutput(node.folder)
    files = {"cots": str(output.cots), "dropped": str(output.dropped), "candidates": str(output.candidates)}
    with duckdb.connect() as connection:
        rows = connection.execute(_SCORES, files).fetchall()
    return {(prompt, index): dict(zip(_JUDGED, values, strict=True)) for prompt, index, *values in rows}


def _arguments_of(node: Node) -> dict[str, Any]:
    """What generating and its estimate share, outside a run."""
    assert isinstance(node.stage, GenCoT)
    folders, keys = places(node)
    model = writing_model(node.context, folders, keys, node.context.recipe.cot.engine)
    return _arguments(node.stage, node.context, folders, model)


def _arguments(stage: GenCoT, context: Context, inputs: Mapping[str, Path], model: WritingModel) -> dict[str, Any]:
    from llmcf_cli.recipe.prompt import load_prompt

    section, data = context.recipe.cot, IngestOutput(inputs["ingest"]).database
    sample, since = stage.chosen(context.recipe, data)
    changes = {"engine": with_local_files(section.engine, context.locate), "sample": sample}
    return {
        "section": section.model_copy(update=changes), "since": since, "data": data, "model": model.folder,
        "model_digest": model.name, "prompt": load_prompt(context.locate.path(section.prompt)),
        "cache": context.generations, "seed": context.recipe.seed, "history": context.recipe.dataset.history,
        "words": recipe_words(context.recipe),
    }  # fmt: skip
