"""A recipe of one's own that begins from another: one that extends it, or a copy that stands alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.place import KeyPath
from llmcf_cli.core.tree import plain
from llmcf_cli.core.yamlfile import dump_yaml
from llmcf_cli.recipe.library import installed_recipes, is_installed, library_dir
from llmcf_cli.recipe.load import EXTENDS, WrittenRecipe
from llmcf_cli.recipe.references import Reference, references_of
from llmcf_cli.store.assets import ASSET_PREFIX, Locator

_SUFFIX = ".yaml"
_OWN = ("name", "description")


@dataclass(frozen=True)
class Copied:
    """A recipe that stands alone.

    Attributes:
        recipe: Its file.
        prompts: The prompts that were copied beside it.
        elsewhere: Files that only the original's place leads to, so that it does not name them right.
    """

    recipe: Path
    prompts: tuple[Path, ...]
    elsewhere: tuple[Reference, ...]


def extend_recipe(base: WrittenRecipe, file: Path) -> Path:
    """Write a recipe that extends another and changes nothing yet: all that it may change stands there as comments.

    Args:
        base: What to extend.
        file: Where to write; without a suffix, `.yaml` is added.

    Returns:
        The file.

    Raises:
        StoreError: Something is there already, or it cannot be written.
    """
    target = _target(file)
    values: dict[str, Any] = plain(base.root)
    own = {
        EXTENDS: extending(base, target),
        "name": target.stem,
        "description": f"{target.stem}, from {_called(base)}.",
    }
    commented = "".join(f"# {line}\n" for line in dump_yaml(_without_own(values)).splitlines())
    advice = f"# What {_called(base)} sets. Uncomment what you change, and the keys above it.\n"
    _write(target, f"# llmcf run {target.name}\n{dump_yaml(own)}\n{advice}{commented}")
    return target


def copy_recipe(recipe: WrittenRecipe, locate: Locator, file: Path) -> Copied:
    """Write a recipe with all that it extends as one file, and its prompts beside it.

    Data stay where they are: files beside the recipe are named by the path from the copy.

    Args:
        recipe: The recipe.
        locate: What its references mean.
        file: Where to write; without a suffix, `.yaml` is added. Prompts lie below its folder.

    Raises:
        StoreError: Something is there already, or it cannot be written.
        LlmcfError: A prompt is not there.
    """
    target = _target(file)
    folder = target.parent
    values: dict[str, Any] = plain(recipe.root)
    prompts: dict[Path, Path] = {}
    elsewhere = []
    for reference in references_of(recipe.root):
        name = reference.name
        if name.startswith(ASSET_PREFIX) or Path(name).expanduser().is_absolute():
            continue
        if reference.prompt is not None and ".." not in Path(name).parts:
            prompts[folder / name] = locate.path(name)
            continue
        beside = _beside(recipe, name)
        if beside is None or (folder / name).resolve() == beside.resolve():
            continue
        if not _renamed(values, reference.where.path, name, Path(os.path.relpath(beside, folder)).as_posix()):
            elsewhere.append(reference)
    prompts = {place: source for place, source in prompts.items() if place.resolve() != source.resolve()}
    for place in (target, *prompts):
        _refuse_existing(place)
    for place, source in prompts.items():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    own = {key: values[key] for key in _OWN if key in values} | {"name": target.stem}
    head = f"# llmcf run {target.name}\n# A copy of {_called(recipe)}.\n"
    _write(target, head + dump_yaml(own | _without_own(values)))
    return Copied(target, tuple(prompts), tuple(elsewhere))


def _target(file: Path) -> Path:
    target = file if file.suffix in (".yaml", ".yml") else file.with_name(file.name + _SUFFIX)
    _refuse_existing(target)
    return target


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("x", encoding="utf-8") as target:
        target.write(text)


def _refuse_existing(file: Path) -> None:
    if file.exists() or file.is_symlink():
        hint = "choose another name, or move the file away"
        raise StoreError("already exists; nothing was written", code="recipe-exists", where=str(file), hint=hint)


def _called(recipe: WrittenRecipe) -> str:
    """The name of a recipe that comes with llmcf or a plugin, else its file."""
    names = {one.path.resolve(): name for name, one in installed_recipes().items()}
    return names.get(recipe.path.resolve(), recipe.path.name)


def extending(base: WrittenRecipe, target: Path) -> str:
    """What `extends` says in a file that extends another recipe: the name of an installed one, or the path to it."""
    name = _called(base)
    if is_installed(base.path):
        return name
    return Path(os.path.relpath(base.path.resolve(), target.parent.resolve())).as_posix()


def _without_own(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in _OWN}


def _beside(recipe: WrittenRecipe, name: str) -> Path | None:
    """A file or folder that is found beside the recipe or what it extends, other than the library's."""
    library = library_dir().resolve()
    for folder in (file.parent for file in recipe.files):
        if not folder.resolve().is_relative_to(library) and (folder / name).exists():
            return (folder / name).absolute()
    return None


def _renamed(values: dict[str, Any], path: KeyPath, name: str, other: str) -> bool:
    """Put another name where `name` stands at a key path; whether it stands there."""
    at: Any = values
    try:
        for key in path[:-1]:
            at = at[key]
        if at[path[-1]] != name:
            return False
    except (KeyError, IndexError, TypeError):
        return False
    at[path[-1]] = other
    return True
