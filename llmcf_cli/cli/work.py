"""`llmcf work`: a further process that helps one that runs `gen-cot`, on the same cache."""

from __future__ import annotations

from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption


def work(
    recipe: RecipeArgument,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.stages.steps.gen_cot import help_generate

    progress = make_progress()
    context = opened(recipe, set_, artifacts, allow_read, progress)
    made = help_generate(context, progress)
    where = f"gen-cot of {context.recipe.name!r} in {context.store.root}"
    if made is None:
        console().print(f"nothing to do: {where} is already made", markup=False, soft_wrap=True)
        console().print(f"next: llmcf run {recipe}", markup=False, soft_wrap=True)
        return
    if not made.generated and not made.failed:
        console().print(f"nothing to do: all texts of {where} are generated or set aside", markup=False, soft_wrap=True)
    else:
        console().print(
            f"{made.generated:,} texts written here, {made.cached:,} by others or earlier; {made.new_tokens:,} tokens "
            f"in {made.seconds:,.0f} s"
        )
    console().print(f"next: llmcf gen-cot {recipe}", markup=False, soft_wrap=True)
