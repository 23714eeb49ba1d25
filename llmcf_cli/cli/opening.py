"""A recipe as a command line names it: what is allowed it, the recipe itself, and the context that it runs in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.text import visible

if TYPE_CHECKING:
    from llmcf_cli.stages.engine.base import Context
    from llmcf_cli.stages.look.made import Run

_KEY = re.compile(r"[0-9a-f]{6,64}")
_TOLD = 10
"""Artifacts of an ambiguous key that are named."""

AllowReadOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--allow-read",
        metavar="PATH",
        help="From now on, let recipes in this recipe's folder read this file or folder outside it. Repeatable.",
    ),
]


def allow(recipe: str, paths: Sequence[Path] | None) -> None:
    """Note what recipes beside this one may read from now on, and say so."""
    from llmcf_cli.core.permissions import Permissions
    from llmcf_cli.recipe.load import find_recipe

    if not paths:
        return
    folder = find_recipe(recipe).parent.resolve()
    for path in paths:
        Permissions().allow_read(folder, path)
        typer.echo(visible(f"from now on, recipes in {folder} may read {path.expanduser().resolve()}"), err=True)


def opened(
    recipe: str,
    overrides: Sequence[str] | None = None,
    artifacts: Path | None = None,
    allow_read: Sequence[Path] | None = None,
    progress: Progress = SILENT,
) -> Context:
    """The context that a recipe runs in.

    Raises:
        RecipeError: With everything that is wrong with it or missing.
    """
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.pipeline import open_context

    allow(recipe, allow_read)
    return open_context(load_recipe(recipe, overrides or ()), artifacts, progress)


def find_run(
    run: str, overrides: Sequence[str] | None, artifacts: Path | None, allow_read: Sequence[Path] | None
) -> Run:
    """The run that a command line names: a recipe, the folder of an artifact, or the beginning of its key.

    Raises:
        LlmcfError: Several artifacts have keys that begin so.
    """
    from llmcf_cli.stages.look.made import run_of_folder, run_of_recipe

    if Path(run).is_dir():
        return run_of_folder(Path(run))
    if _KEY.fullmatch(run) and not Path(run).is_file() and (folder := _folder_of(run, artifacts)):
        return run_of_folder(folder)
    return run_of_recipe(opened(run, overrides, artifacts, allow_read))


def _folder_of(key: str, artifacts: Path | None) -> Path | None:
    """The artifact whose key begins so; None where there is none."""
    from llmcf_cli.stages.pipeline import artifact_root
    from llmcf_cli.store.artifacts import KEY_LENGTH, MANIFEST

    found = sorted(file.parent for file in artifact_root(artifacts).glob(f"*/{key[:KEY_LENGTH]}*/{MANIFEST}"))
    if len(found) > 1:
        raise LlmcfError(f"is the start of {len(found)} keys", code="key-ambiguous", where=key,
                         allowed=[f"{folder.parent.name}/{folder.name}" for folder in found[:_TOLD]],
                         hint="give more characters of the key, or the folder")  # fmt: skip
    return found[0] if found else None
