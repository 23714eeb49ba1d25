"""`llmcf refresh`: a trained model with later rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmcf_cli.cli.groups import same_run
from llmcf_cli.cli.opening import AllowReadOption, allow
from llmcf_cli.cli.stages import ArtifactsOption, DryRunOption, RecipeArgument, SetOption
from llmcf_cli.core.errors import LlmcfError

if TYPE_CHECKING:
    from llmcf_cli.cli.report import Ended
    from llmcf_cli.stages.deriving import Addition, Derived
    from llmcf_cli.stages.engine.base import Context


def refresh(
    recipe: RecipeArgument,
    add: Annotated[
        list[Path] | None,
        typer.Option(
            "--add", metavar="FILE", help="Later interactions, in the same format as the recipe's. Repeatable."
        ),
    ] = None,
    items: Annotated[
        Path | None, typer.Option("--items", metavar="FILE", help="New items, and known items that changed.")
    ] = None,
    users: Annotated[
        Path | None, typer.Option("--users", metavar="FILE", help="New users, and known users that changed.")
    ] = None,
    level: Annotated[
        Literal["items", "examples", "finetune", "full"],
        typer.Option(
            "--level",
            help="What to update. items: vectors, catalogue and histories, without training; examples: the language "
            "model also writes about some of the new rows; finetune: also train on from the new rows; full: "
            "everything, on all rows.",
        ),
    ] = "items",
    arm: Annotated[
        str | None,
        typer.Option(
            "--arm", metavar="NAME", help="Arm to refresh; by default the one that the comparison says to serve."
        ),
    ] = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    dry_run: DryRunOption = False,
    allow_read: AllowReadOption = None,
) -> None:
    from llmcf_cli.cli import report
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages import deriving, refreshing
    from llmcf_cli.stages.pipeline import open_context, run_steps

    allow(recipe, allow_read)
    progress, changes, given = make_progress(), set_ or (), _additions(add or [], items, users)
    loaded = load_recipe(recipe, changes)
    base = open_context(loaded, artifacts, progress)
    with refreshing.alone(base):
        derived = deriving.derive(loaded, base, given, level, arm, changes)
        if derived is None:
            console().print(f"nothing to do: nothing has been added to {recipe}; next: --add FILE", markup=False)
            return
        for file in derived.known:
            console().print(f"{file} was added earlier", markup=False, soft_wrap=True)
        for file in deriving.allow(derived, given):
            console().print(f"from now on, recipes in {derived.file.parent} may read {file}", markup=False)
        with refreshing.drafted(derived) as draft:
            context = open_context(load_recipe(draft, changes), artifacts, progress)
            steps = refreshing.steps_of(context)
            report.plan(steps)
            _frozen(context, derived)
            report.costs(steps)
            if dry_run:
                return
        kept, known = refreshing.settle(
            derived, loaded, lambda file: open_context(load_recipe(file, changes), artifacts, progress), progress,
            on_start=report.start_step, on_end=report.end_step, overrides=changes,
        )  # fmt: skip
        if not kept:
            console().print(f"nothing to do: {known:,} rows are already there, and no new ones")
            return
        console().print(f"recipe of this refresh: {derived.file}", markup=False, soft_wrap=True)
        context = open_context(load_recipe(derived.file, changes), artifacts, progress)
        steps = run_steps(
            context, refreshing.steps_of(context), progress, on_start=report.start_step, on_end=report.end_step,
            on_failure=report.failed_step,
        )  # fmt: skip
        report.finish("refresh", same_run(str(derived.file), changes, artifacts), steps)


def ended(ended: Ended) -> None:
    """Where the new model is, and what to do with it."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.steps.refresh import RefreshOutput

    bundle = RefreshOutput(ended.folder).bundle
    if all(not step.runs for step in ended.steps):
        console().print("nothing to do: the model is up to date", style="green")
    console().print(f"model to serve: {bundle}", markup=False, soft_wrap=True)
    console().print(f"next: llmcf serve {bundle}", markup=False, soft_wrap=True)


def _additions(add: list[Path], items: Path | None, users: Path | None) -> list[Addition]:
    """Tables of items and users belong to the last of the given files."""
    from llmcf_cli.stages.deriving import Addition

    if (items or users) and not add:
        raise LlmcfError(
            "need --add: they describe the rows it adds",
            code="option-conflict",
            where="--items and --users",
            hint="add --add FILE",
        )
    return [*map(Addition, add[:-1]), *(Addition(file, items, users) for file in add[-1:])]


def _frozen(context: Context, derived: Derived) -> None:
    """Say what stays as it is, and by which rows the model learns."""
    from llmcf_cli.cli.console import console

    wanted = context.recipe.refresh
    assert wanted is not None
    model = f"arm {wanted.arm}, seed {wanted.seed}"
    if wanted.level == "items":
        console().print(
            f"unchanged: weights, vocabularies, examples and texts of {model}; language model calls: 0",
            markup=False, soft_wrap=True,
        )  # fmt: skip
        return
    stays = "only what is cached"
    if wanted.level == "finetune":
        stays = "examples and texts; language model calls: 0"
    if wanted.level == "examples":
        stays = "weights, vocabularies, the language model, and the earlier examples with their texts"
    console().print(f"unchanged in {model}: {stays}", markup=False, soft_wrap=True)
    cuts = wanted.learned[-1].recut
    if derived.undecided:
        said = (f"of the rows that no model has seen, the newest {wanted.test:.0%} are test, the "
                f"{wanted.validation:.0%} before them validation, the others train")  # fmt: skip
    else:
        assert cuts is not None
        said = f"train: all before {cuts.validation_from}; validation from there, test from {cuts.test_from}"
    console().print(said, markup=False, soft_wrap=True)
