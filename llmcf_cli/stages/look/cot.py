"""Looking at chains of thought before and after they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.core.progress import Progress
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.train_llm import recipe_words

if TYPE_CHECKING:
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
            f"the engine {recipe.cot.engine.type} sends no prompts: it writes from the data", code="engine-no-prompts",
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


def written(context: Context) -> Written:
    """The chains of thought of a recipe.

    Raises:
        StoreError: There are none yet.
    """
    from llmcf_cli.llm.writing.cots import Written

    step = plan(context, [GenCoT()])[-1]
    if step.runs:
        raise StoreError(
            f"the chains of thought of {context.recipe.name} are not written yet ({step.reason})",
            code="not-made", where="gen-cot",
            hint="llmcf gen-cot RECIPE",
        )  # fmt: skip
    for node in (step.node, step.node.needs[Ingest.name]):
        node.check()
    data = IngestOutput(step.node.needs[Ingest.name].folder).database
    return Written(data, step.node.folder, recipe_words(context.recipe))
