"""`llmcf work`: a further process that helps one that runs `gen-cot`, on the same cache."""

from __future__ import annotations

import typer

from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("work", help="Help a `gen-cot` that runs elsewhere on this artifact folder; no call is made twice.")(
        work
    )


def work(recipe: RecipeArgument, set_: SetOption = None, artifacts: ArtifactsOption = None) -> None:
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.gen_cot import help_generate
    from llmcf_cli.stages.pipeline import open_context

    progress = make_progress()
    made = help_generate(open_context(load_recipe(recipe, set_ or ()), artifacts, progress), progress)
    console().print(
        f"{made.generated:,} texts made here, {made.cached:,} by others or earlier; {made.new_tokens:,} tokens in "
        f"{made.seconds:,.0f} s"
    )
    console().print(f"next: llmcf gen-cot {recipe}", markup=False)
