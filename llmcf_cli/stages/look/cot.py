"""Looking at chains of thought before and after they are written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import DataError, LlmcfError, StoreError
from llmcf_cli.core.progress import Progress
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.look.made import run_of_folder
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.train_llm import recipe_words
from llmcf_cli.store.artifacts import MANIFEST, Manifest, differences, read_manifest

if TYPE_CHECKING:
    from llmcf_cli.llm.writing.contrast import Contrast
    from llmcf_cli.llm.writing.cots import Written
    from llmcf_cli.llm.writing.preview import Preview


def preview(context: Context, count: int, progress: Progress) -> Preview:
    """The prompts that `gen-cot` would send for a few samples. Runs `ingest` where it has not run yet.

    Args:
        context: Of the recipe.
        count: Samples.
        progress: Where to report.

    Raises:
        RecipeError: The prompt is wrong.
    """
    from llmcf_cli.llm.models.load import hf_folder
    from llmcf_cli.llm.writing.preview import preview_prompts
    from llmcf_cli.recipe.prompt import load_prompt

    recipe = context.recipe
    if "data" in recipe.cot.engine.needs:
        raise LlmcfError(
            f"the engine {recipe.cot.engine.type} writes from the data and sends no prompts", code="engine-no-prompts",
            where="cot preview", hint="llmcf gen-cot RECIPE, then llmcf cot show RECIPE",
        )  # fmt: skip
    prompt = load_prompt(context.locate.path(recipe.cot.prompt))
    steps = plan(context, [Ingest()])
    execute(steps, progress, on_start=lambda step: None, on_end=lambda step, manifest: None)
    # Tuning leaves the tokenizer as it is, so the prompts of the tuned model are those of the one it starts from.
    model = None
    if "model" in recipe.cot.engine.needs:
        model = hf_folder(context.locate.path(recipe.language_model.model), context.models, progress)
    return preview_prompts(
        recipe.cot, data=IngestOutput(steps[-1].node.folder).database, model=model, prompt=prompt, seed=recipe.seed,
        history=recipe.dataset.history, count=count, words=recipe_words(recipe),
        blank_texts=recipe.dataset.limits.blank_texts,
    )  # fmt: skip


@dataclass(frozen=True)
class Writing:
    """Chains of thought, and what determined them.

    Attributes:
        written: Where they are.
        manifest: Of `gen-cot`.
        samples: Key of the samples that they are about.
    """

    written: Written
    manifest: Manifest
    samples: str


def written(context: Context) -> Written:
    """The chains of thought of a recipe.

    Raises:
        StoreError: There are none yet.
    """
    return writing(context).written


def writing(context: Context) -> Writing:
    """The chains of thought of a recipe, and what determined them.

    Raises:
        StoreError: There are none yet.
    """
    from llmcf_cli.llm.writing.cots import Written

    step = plan(context, [GenCoT()])[-1]
    if step.runs:
        raise StoreError(
            f"the chains of thought of {context.recipe.name} have not been written yet ({step.reason})",
            code="not-made", where="gen-cot",
            hint="llmcf gen-cot RECIPE",
        )  # fmt: skip
    for node in (step.node, step.node.needs[Ingest.name]):
        node.check()
    node, ingest = step.node, step.node.needs[Ingest.name]
    manifest = read_manifest(node.folder / MANIFEST)
    words = recipe_words(context.recipe)
    return Writing(Written(IngestOutput(ingest.folder).database, node.folder, words), manifest, ingest.key)


def writing_of_folder(folder: Path) -> Writing:
    """The chains of thought of an artifact; the words for labels are those of no recipe.

    Raises:
        StoreError: The folder is no artifact of `gen-cot`, or is damaged.
    """
    from llmcf_cli.llm.writing.cots import Written

    last = run_of_folder(folder).last
    if last is None or last.manifest.stage != GenCoT.name:
        found = "no artifact" if last is None else f"a result of {last.manifest.stage}"
        raise StoreError(f"is {found}, not of gen-cot", code="artifact-unusable", where=str(folder),
                         hint="give a recipe, or a folder in artifacts/gen-cot")  # fmt: skip
    ingest = last.need(Ingest.name)
    return Writing(Written(IngestOutput(ingest.folder).database, last.folder), last.manifest, ingest.manifest.key)


def contrasted(first: Writing, second: Writing, most: int) -> tuple[Contrast, tuple[str, ...]]:
    """Two sets of chains of thought side by side, and what makes their comparison doubtful.

    Args:
        first, second: The two, about the same samples.
        most: How many samples to show, those that differ most.

    Raises:
        DataError: They are about other samples, or have none in common.
    """
    from llmcf_cli.llm.writing.contrast import contrast
    from llmcf_cli.llm.writing.reviews import to_review

    if first.samples != second.samples:
        raise DataError(
            "are about samples of two different ingests", code="cot-unpaired", where="cot diff",
            hint="give both recipes the same `dataset` and `seed`",
        )  # fmt: skip
    found = contrast(to_review(first.written), to_review(second.written), most)
    if not found.both:
        raise DataError("have no sample in common", code="cot-unpaired", where="cot diff",
                        hint="give both recipes the same `cot.sample`")  # fmt: skip
    notes = []
    changed = sorted({line.split(" ")[0] for line in differences(*_judged(first, second))})
    if changed:
        notes.append(f"the two were judged differently ({', '.join(changed)}): do not compare their scores")
    if first.manifest.key == second.manifest.key:
        notes.append("both are the same result")
    return found, tuple(notes)


def _judged(*sides: Writing) -> list[dict[str, Any]]:
    """How texts of each were judged."""
    return [{"cot.judge": one.manifest.material.get("cot", {}).get("judge")} for one in sides]
