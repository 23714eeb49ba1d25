"""`llmcf recipe lock`, `verify` and `diff`: what results rest on, whether they repeat, and how recipes differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.opening import AllowReadOption, allow, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument
from llmcf_cli.core.errors import LlmcfError, StoreError

if TYPE_CHECKING:
    from llmcf_cli.stages.share.compare import Difference
    from llmcf_cli.stages.share.lock import Now
    from llmcf_cli.stages.share.results import Checked

LockArgument = Annotated[Path, typer.Argument(metavar="LOCK", help="NAME.lock.yaml or NAME.lock.json.")]
_SHOWN = 8
"""Stages that are named of those that a difference reruns."""
_COLOURS = {"same": "green", "within": "green", "parts": "red", "missing": "yellow"}


def lock(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write; else NAME.lock.yaml beside the recipe."),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, max=1, help="How far the measures of another run may be from these.")
    ] = 0.005,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Write down what exactly a recipe's results rest on and, if its run has ended, what they are."""
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.recipe.library import library_dir
    from llmcf_cli.recipe.load import find_recipe
    from llmcf_cli.stages.share.lock import write_lock
    from llmcf_cli.stages.share.results import is_finished, made_by, with_results

    progress = make_progress()
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
        what = f"! {len(others)} of {len(now.steps)} stages were made by other versions than the lock names: "
        console().print(f"{what}{', '.join(others[:5])}", style="yellow", markup=False, soft_wrap=True)
    if not finished:
        what = "no results in it, as the run has not ended"
        said = f"{what}; next: llmcf run {recipe}, then lock again"
        console().print(said, style="yellow", markup=False, soft_wrap=True)
        return
    console().print(f"next: llmcf run --locked {target}", markup=False, soft_wrap=True)


def verify(lock: LockArgument, artifacts: ArtifactsOption = None, allow_read: AllowReadOption = None) -> None:
    """Compare a run of a locked recipe with the lock, and say where numbers part; exit 1 where a measure is off."""
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.stages.share.lock import locked_recipe, read_lock
    from llmcf_cli.stages.share.results import first_parting, reproduces
    from llmcf_cli.stages.share.results import verify as compare

    locked = read_lock(lock)
    recipe = locked_recipe(lock, locked)
    now = locked_now(recipe, artifacts, allow_read)
    if not any(step.node.made for step in now.steps):
        raise StoreError("nothing of it is made here yet", code="not-made", where=locked.name,
                         hint=f"llmcf run --locked {lock}")  # fmt: skip
    found = compare(locked, now.steps, make_progress())
    _print_checked(found)
    parting = first_parting(found)
    if parting is None and all(one.verdict == "same" for one in found):
        console().print("the same to the last digit", style="green")
    elif parting is not None:
        console().print(f"numbers part at: {parting.aspect} ({parting.name})", markup=False)
    if not reproduces(found):
        missing = any(one.verdict == "missing" for one in found if one.aspect == "measures")
        what = "not all measures are made here" if missing else "a measure is outside its tolerance"
        console().print(what, style="red", markup=False)
        raise typer.Exit(1)
    console().print("every measure is within its tolerance", style="green")


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="A recipe file, a library recipe's name, or a lock.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Show what differs between two recipes or locks, where each value was written, and what it reruns."""
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
        console().print("no stage runs again: none of this changes a result", style="green")


def check_locked(
    lock: Path,
    recipe: str | None,
    overrides: Sequence[str],
    artifacts: Path | None,
    allow_read: Sequence[Path] | None,
    other_versions: bool,
) -> str:
    """The recipe of a lock, once everything is as the lock says.

    Raises:
        RecipeError: With everything that is not.
    """
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.share.compare import lock_differences, refuse_differences, short
    from llmcf_cli.stages.share.lock import locked_recipe, read_lock

    if overrides:
        raise LlmcfError("changes what is locked", code="option-conflict", where="--set",
                         hint="leave it out, or run without --locked")  # fmt: skip
    locked = read_lock(lock)
    recipe = recipe or locked_recipe(lock, locked)
    now = locked_now(recipe, artifacts, allow_read)
    found = lock_differences(locked, now.lock)
    if other_versions:
        for one in found:
            if one.kind == "version":
                told = f"! {one.name} is {short(one.after)} here, and {short(one.before)} in the lock"
                console().print(told, style="yellow", markup=False)
        found = [one for one in found if one.kind != "version"]
    refuse_differences(found, lock)
    console().print(f"as locked: {len(now.steps)} stages, {len(locked.contents)} files and assets", style="green")
    return recipe


def locked_now(recipe: str, artifacts: Path | None, allow_read: Sequence[Path] | None) -> Now:
    """What a lock of a recipe would say now."""
    from datetime import UTC, datetime

    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.share.lock import lock_now

    context = opened(recipe, None, artifacts, allow_read)
    return lock_now(load_recipe(recipe), context, datetime.now(UTC).date().isoformat())


def _print_checked(found: Sequence[Checked]) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import escaped, plain_table

    table = plain_table("what", "of", "", "in the lock", "here", "largest difference")
    for one in found:
        number = (lambda value: f"{value:.6f}") if one.aspect == "measures" else (lambda value: f"{value:,.0f}")
        words = {
            "same": "same", "within": f"within {one.tolerance}", "missing": "not made",
            "parts": f"off by more than {one.tolerance}" if one.aspect == "measures" else f"{one.parts} of 16 parts",
        }  # fmt: skip
        here = "" if one.here is None else number(one.here)
        largest = "" if one.largest is None or one.verdict == "same" else f"{one.largest:.2g}"
        said = f"[{_COLOURS[one.verdict]}]{words[one.verdict]}[/]"
        table.add_row(one.aspect, escaped(one.name), said, number(one.locked), here, largest)
    console().print(table)


def _print_differences(found: Sequence[Difference]) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.share.compare import short

    for one in found:
        console().print(f"{one.kind} ", style="cyan", end="", markup=False)
        said = f"{one.name}: {short(one.before)} → {short(one.after)}"
        console().print(said, markup=False, soft_wrap=True)
        at = " → ".join(dict.fromkeys(filter(None, (one.origin_before, one.origin_after))))
        if at:
            console().print(f"  written at {at}", style="dim", markup=False, soft_wrap=True)
        if one.reruns:
            more = f" and {len(one.reruns) - _SHOWN} more" if len(one.reruns) > _SHOWN else ""
            told = f"  reruns {', '.join(one.reruns[:_SHOWN])}{more}"
            console().print(told, style="yellow", markup=False, soft_wrap=True)
