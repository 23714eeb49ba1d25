"""`llmcf match`: the stage, and commands about what it finds."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcf_cli.cli import match_show
from llmcf_cli.cli.groups import FallThroughGroup
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption, scaled_command

app = typer.Typer(no_args_is_help=True, cls=FallThroughGroup, subcommand_metavar="RECIPE | COMMAND ...")

app.command("run", help="Run the stage; `llmcf match RECIPE` is short for it.")(scaled_command("match"))
match_show.add_to(app)


@app.command("tune")
def tune(
    recipe: RecipeArgument,
    recall: Annotated[
        float, typer.Option("--recall", min=0, max=1, help="Share of the exact result that the search must find.")
    ] = 0.95,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Find the cheapest approximate search (`match.search: ann`) with enough recall; print it for the recipe."""
    from llmcf_cli.cli import report
    from llmcf_cli.cli.console import make_progress
    from llmcf_cli.stages.engine.run import plan
    from llmcf_cli.stages.pipeline import run_steps
    from llmcf_cli.stages.steps.match import Match
    from llmcf_cli.stages.steps.match import tune as tune_match

    progress = make_progress()
    context = opened(recipe, set_, artifacts, allow_read, progress)
    steps = plan(context, Match().needs(context.recipe))
    steps = run_steps(
        context, steps, progress, on_start=report.start_step, on_end=report.end_step, on_failure=report.failed_step
    )
    found = tune_match(context, [step.node for step in steps], recall, progress)
    if found.best is None:
        report.nothing_to_tune(found.pools, context.recipe.match.search, recipe)
    else:
        report.tuned(found.measured, found.best, recall)
