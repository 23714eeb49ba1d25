"""`llmcf recipe lock`, `verify` and `diff`: what results rest on, whether they repeat, and how recipes differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.locked import locked_now
from llmcf_cli.cli.opening import AllowReadOption, allow
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument
from llmcf_cli.core.errors import StoreError

if TYPE_CHECKING:
    from llmcf_cli.stages.share.compare import Difference
    from llmcf_cli.stages.share.results import Checked

LockArgument = Annotated[Path, typer.Argument(metavar="LOCK", help="NAME.lock.yaml or NAME.lock.json.")]
_SHOWN = 8
"""Stages that are named of those that a difference reruns."""
_COLOURS = {"same": "green", "within": "green", "parts": "red", "missing": "yellow"}


def lock(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write; by default NAME.lock.yaml beside the recipe."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, max=1, help="How far another run's measures may be from these.")
    ] = 0.005,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Record exactly what a recipe's results depend on and, once its run has finished, the results."""
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.core.errors import StoreError
    from llmcf_cli.recipe.library import comes_with_plugin, library_dir
    from llmcf_cli.recipe.load import find_recipe
    from llmcf_cli.stages.share.lock import write_lock
    from llmcf_cli.stages.share.results import is_finished, made_by, with_results

    progress = make_progress()
    if comes_with_plugin(find_recipe(recipe)):
        raise StoreError(
            "comes with a plugin; locks are written beside their recipe", code="recipe-installed", where=recipe,
            hint=f"llmcf recipe copy {recipe} mine.yaml, then llmcf recipe lock mine.yaml",
        )  # fmt: skip
    now = locked_now(recipe, artifacts, allow_read)
    finished = is_finished(now.steps)
    found = with_results(now, progress, tolerance) if finished else now.lock
    path = find_recipe(recipe)
    folder = Path() if path.is_relative_to(library_dir()) else path.parent
    target = out or folder / f"{Path(recipe).stem if folder == Path() else path.stem}.lock.yaml"
    write_lock(found, target)
    console().print(
        f"{len(found.stages)} stages, {len(found.contents)} files and assets, {len(found.files)} recipe files, "
        f"{sum(map(len, found.measures.values()))} measures in {target}",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    others = [label for label, versions in made_by(now.steps).items() if versions != found.versions]
    if finished and others:
        what = f"! {len(others)} of {len(now.steps)} stages were made with other versions than those in the lock: "
        console().print(f"{what}{', '.join(others[:5])}", style="yellow", markup=False, soft_wrap=True)
    if not finished:
        what = "without results, because the run has not finished"
        said = f"{what}; next: llmcf run {recipe}, then lock again"
        console().print(said, style="yellow", markup=False, soft_wrap=True)
        return
    console().print(f"next: llmcf run --locked {target}", markup=False, soft_wrap=True)


def verify(lock: LockArgument, artifacts: ArtifactsOption = None, allow_read: AllowReadOption = None) -> None:
    """Compare a run of a locked recipe with the lock; show where numbers diverge; exit 1 if a measure is off."""
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.stages.share.lock import locked_recipe, read_lock
    from llmcf_cli.stages.share.results import first_parting, reproduces
    from llmcf_cli.stages.share.results import verify as compare

    locked = read_lock(lock)
    recipe = locked_recipe(lock, locked)
    now = locked_now(recipe, artifacts, allow_read)
    if not any(step.node.made for step in now.steps):
        raise StoreError("no results here yet", code="not-made", where=locked.name,
                         hint=f"llmcf run --locked {lock}")  # fmt: skip
    found = compare(locked, now.steps, make_progress())
    _print_checked(found)
    parting = first_parting(found)
    if parting is None and all(one.verdict == "same" for one in found):
        console().print("the same to the last digit", style="green")
    elif parting is not None:
        console().print(f"numbers diverge at: {parting.aspect} ({parting.name})", markup=False)
    if not reproduces(found):
        missing = any(one.verdict == "missing" for one in found if one.aspect == "measures")
        what = "not all measures have been computed here" if missing else "a measure is outside its tolerance"
        console().print(what, style="red", markup=False)
        raise typer.Exit(1)
    console().print("every measure is within its tolerance", style="green")


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A recipe file, the name of a library recipe, or a lock.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The recipe or lock to compare it with.")],
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Show how two recipes or locks differ: where each value is set, and which stages it reruns."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.share.compare import side_differences, side_of, stage_changes
    from llmcf_cli.stages.share.lock import is_lock

    for name in (first, second):
        if not is_lock(name):
            allow(name, allow_read)
    one, other = side_of(first, artifacts), side_of(second, artifacts)
    found = side_differences(one, other)
    if not found:
        console().print("no difference", style="green")
        return
    _print_differences(found)
    changed, new, gone = stage_changes(one, other)
    for what, labels in (("to run again", changed), ("new", new), ("gone", gone)):
        if labels:
            console().print(f"{len(labels)} stages {what}: {', '.join(labels)}", markup=False, soft_wrap=True)
    if not (changed or new or gone):
        console().print("no stage reruns: none of this changes a result", style="green")


def _print_checked(found: Sequence[Checked]) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import escaped, plain_table

    table = plain_table("what", "of", "", "in the lock", "here", "largest difference")
    for one in found:
        form = ".6f" if one.aspect == "measures" else ",.0f"
        words = {
            "same": "same", "within": f"within {one.tolerance}", "missing": "not made",
            "parts": f"off by more than {one.tolerance}" if one.aspect == "measures" else f"{one.parts} of 16 parts",
        }  # fmt: skip
        here = "" if one.here is None else format(one.here, form)
        largest = "" if one.largest is None or one.verdict == "same" else f"{one.largest:.2g}"
        said = f"[{_COLOURS[one.verdict]}]{words[one.verdict]}[/]"
        table.add_row(one.aspect, escaped(one.name), said, format(one.locked, form), here, largest)
    console().print(table, markup=True)


def _print_differences(found: Sequence[Difference]) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.share.compare import short

    for one in found:
        console().print(f"{one.kind} ", style="cyan", end="", markup=False)
        said = f"{one.name}: {short(one.before)} → {short(one.after)}"
        console().print(said, markup=False, soft_wrap=True)
        at = " → ".join(dict.fromkeys(filter(None, (one.origin_before, one.origin_after))))
        if at:
            console().print(f"  set at {at}", style="dim", markup=False, soft_wrap=True)
        if one.reruns:
            more = f" and {len(one.reruns) - _SHOWN} more" if len(one.reruns) > _SHOWN else ""
            told = f"  reruns {', '.join(one.reruns[:_SHOWN])}{more}"
            console().print(told, style="yellow", markup=False, soft_wrap=True)
