"""What the shell may offer where a recipe, a setting or a stage is named. Completion never fails: it offers less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.place import dotted

_ENDINGS = (".yaml", ".yml")


def recipe_names(incomplete: str) -> list[str]:
    """Recipe files and folders that begin so, then recipes that come with llmcf and plugins."""
    from llmcf_cli.recipe.library import installed_recipes, library_dir, recipe_files

    known = [*recipe_files(library_dir())]
    with suppress(LlmcfError):  # of a plugin
        known = [*installed_recipes()]
    return [*_files(incomplete), *sorted(name for name in known if name.startswith(incomplete))]


def settings(ctx: typer.Context, incomplete: str) -> list[str]:
    """Key paths of the recipe that the command line names: `rec.f` → `rec.fit.`; with `=` where a value stands."""
    from llmcf_cli.core.tree import plain
    from llmcf_cli.recipe.load import check_recipe
    from llmcf_cli.recipe.overrides import key_path
    from llmcf_cli.recipe.walk import known_keys, value_at

    if "=" in incomplete:
        return []
    data: Any = {}
    with suppress(LlmcfError):
        data = plain(check_recipe(ctx.params.get("recipe") or ctx.params.get("run") or "quickstart").root)
    above, dot, begun = incomplete.rpartition(".")
    path = key_path(above) if dot else ()
    value = value_at(path, data)
    found = []
    with suppress(LlmcfError):
        for key in range(len(value)) if isinstance(value, list) else known_keys(path, data):
            if str(key).startswith(begun):
                whole = (*path, key)
                more = known_keys(whole, data) or isinstance(value_at(whole, data), list)
                found.append(dotted(whole) + ("." if more else "="))
    return found


def stage_names(incomplete: str) -> list[str]:
    """The stages that begin so."""
    from llmcf_cli.plugin import registry

    with suppress(LlmcfError):
        return [found.name for found in registry().stages() if found.name.startswith(incomplete)]
    return []


def _files(incomplete: str) -> Iterator[str]:
    folder, slash, begun = incomplete.rpartition("/")
    with suppress(OSError, RuntimeError):
        for path in sorted(Path(folder + slash or ".").expanduser().iterdir()):
            if path.name.startswith(begun) and (begun or not path.name.startswith(".")):
                if path.is_dir():
                    yield f"{folder}{slash}{path.name}/"
                elif path.suffix in _ENDINGS:
                    yield f"{folder}{slash}{path.name}"
