"""A recipe that runs only as a lock says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmcf_cli.cli.opening import opened
from llmcf_cli.core.errors import LlmcfError

if TYPE_CHECKING:
    from llmcf_cli.stages.share.lock import Now


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
        raise LlmcfError("would change the locked recipe", code="option-conflict", where="--set",
                         hint="leave it out, or run without --locked")  # fmt: skip
    locked = read_lock(lock)
    recipe = recipe or locked_recipe(lock, locked)
    now = locked_now(recipe, artifacts, allow_read)
    found = lock_differences(locked, now.lock)
    if other_versions:
        for one in found:
            if one.kind == "version":
                told = f"! {one.name} is {short(one.after)} here, but {short(one.before)} in the lock"
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
