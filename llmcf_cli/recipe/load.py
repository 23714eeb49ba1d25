"""A recipe file, what it extends and `--set` → one validated `Recipe` that knows where each value came from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pydantic import ValidationError

from llmcf_cli.core.errors import LlmcfError, RecipeError, UnknownNameError, closest
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.permissions import Host, Permissions, Readable
from llmcf_cli.core.place import Place
from llmcf_cli.core.tree import Node, Origin, merge, origins, plain, shown
from llmcf_cli.core.yamlfile import read_yaml
from llmcf_cli.recipe.library import Installed, installed_recipes, library_dir, plugin_folders, recipe_files
from llmcf_cli.recipe.overrides import apply_overrides
from llmcf_cli.recipe.problems import in_order, problems_of
from llmcf_cli.recipe.references import addresses_of, references_of
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.variants import search_problems, unknown_settings, variant_problems

EXTENDS = "extends"
MAX_FILES = 16
"""Of a chain of `extends`."""
DATA_VARIABLE = "LLMCF_DATA"
"""Environment variable: a folder of the user's own that relative references may lie in."""


@dataclass(frozen=True)
class WrittenRecipe:
    """A recipe with everything it extends merged in, not yet validated.

    Attributes:
        root: Its values, each with its place.
        files: Every file read: its own first, then what it extends, nearest first.
    """

    root: Node
    files: tuple[Path, ...]

    @property
    def path(self) -> Path:
        """The file it was read from."""
        return self.files[0]

    @property
    def base(self) -> Path:
        """The folder that relative references resolve against first."""
        return self.path.parent

    @property
    def roots(self) -> tuple[Path, ...]:
        """Where relative references are looked for next: beside the extended files, in `LLMCF_DATA`, in the library."""
        folders = dict.fromkeys([*(file.parent for file in self.files[1:]), *_data_folder(), library_dir()])
        return tuple(folder for folder in folders if folder != self.base)

    @property
    def readable(self) -> Readable:
        """Where its files may lie: its folder, those of installed recipes, `LLMCF_DATA`, what the user allowed or gave.

        And the folder around its own, unless it sends prompts to another machine.
        """
        given = (reference.name for reference in references_of(self.root) if reference.given)
        named = (folder / name for name in map(_expanded, given) for folder in (self.base, *self.roots))
        allowed = Permissions().folders(self.base)
        places = (
            self.base,
            library_dir(),
            *plugin_folders(),
            *_data_folder(),
            *allowed,
            *(path for path in named if _is_there(path)),
        )
        sends = any(map(_is_elsewhere, addresses_of(self.root)))
        return Readable(places, None if sends else self.base.absolute().parent)


@dataclass(frozen=True)
class LibraryRecipe:
    """One recipe of a library.

    Attributes:
        name: Its path in the library without the suffix, e.g. `movielens_100k/din`.
        description: The recipe's own one-sentence description; a variant's own, else the one it inherits.
        path: The file.
        origin: `llmcf`, or the plugin that it comes with.
    """

    name: str
    description: str
    path: Path
    origin: str = "llmcf"


@dataclass(frozen=True)
class LoadedRecipe(WrittenRecipe):
    """A validated recipe and how it came about.

    Attributes:
        recipe: The resolved recipe, defaults included.
        origins: Key path (`rec.fit.epochs`) of every resolved value → default, file and line, or `--set`.
    """

    recipe: Recipe
    origins: Mapping[str, Origin]


@dataclass(frozen=True)
class CheckedRecipe(WrittenRecipe):
    """A recipe and all that is wrong with it as far as it goes by itself, without the files that it names.

    Attributes:
        recipe: The resolved recipe; None where it is none.
        problems: Each with its place; empty if there are none.
    """

    recipe: Recipe | None
    problems: tuple[LlmcfError, ...]


def library_recipes(library: Path | None = None) -> list[LibraryRecipe]:
    """Every recipe of a library, sorted by name; all that are installed, plugins' too, when none is given.

    Raises:
        RecipeError: One of them is no YAML, or extends something that does not exist.
    """
    found = []
    if library is None:
        known = installed_recipes()
    else:
        known = {name: Installed(path, "llmcf") for name, path in recipe_files(library).items()}
    for name, one in sorted(known.items()):
        description = plain(read_recipe(one.path).root).get("description", "")
        found.append(LibraryRecipe(name, str(description), one.path, one.origin))
    return found


def _data_folder() -> list[Path]:
    data = os.environ.get(DATA_VARIABLE)
    return [Path(data).expanduser().absolute()] if data else []


def _is_elsewhere(address: str) -> bool:
    try:
        return not Host.of(address).is_this_machine
    except LlmcfError:  # told by its own check
        return True


def _expanded(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user; told where the file is looked for
        return Path(name)


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # told where the file is looked for
        return False


def load_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Load and validate a recipe.

    Args:
        path_or_name: A YAML file, or the name of a library recipe, e.g. `quickstart`.
        overrides: `KEY=VALUE` each, applied in order on top of the files; VALUE is YAML.

    Raises:
        RecipeError: With every problem found, each with its file and line.
    """
    found = check_recipe(path_or_name, overrides)
    if found.recipe is None or found.problems:
        raise RecipeError(found.problems, hint="see docs/recipe-reference.md, or run: llmcf recipe schema")
    resolved = found.recipe.model_dump(mode="json")
    places = MappingProxyType(dict(origins(resolved, found.root)))
    return LoadedRecipe(found.root, found.files, found.recipe, places)


def check_recipe(path_or_name: str | Path, overrides: Sequence[str] = ()) -> CheckedRecipe:
    """Read and validate a recipe; what is wrong with it is returned, not raised. Arguments as of `load_recipe`.

    Raises:
        RecipeError: There is no such recipe, or a file of it is no YAML.
    """
    written = read_recipe(find_recipe(path_or_name))
    root, problems = apply_overrides(written.root, overrides)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(plain(root))
    except ValidationError as error:
        problems.extend(problems_of(error, root))
    variants = variant_problems(root, problems)
    problems.extend(variants)
    if recipe is None:
        problems.extend(unknown_settings(root))
    elif not variants:
        problems.extend(search_problems(recipe, root))
    return CheckedRecipe(root, written.files, recipe, tuple(in_order(problems)))


def find_recipe(path_or_name: str | Path) -> Path:
    """The file that a path or a library name means.

    Raises:
        RecipeError: There is neither such a file nor such a library recipe.
    """
    path = Path(path_or_name)
    kind = _kind(path)
    if kind == "file":
        return path
    known = installed_recipes()
    found = known.get(str(path_or_name))
    if found is not None:
        return found.path
    if path.suffix in (".yaml", ".yml") or kind == "folder":
        what = "is a folder" if kind == "folder" else f"no such file{_near(path)}"
        problem = LlmcfError(what, code="path-missing", where=shown(path))
        raise RecipeError([problem], hint="llmcf recipe list")
    written = Path(f"{path}.yaml")
    if _kind(written) == "file":
        raise RecipeError(
            [LlmcfError(f"no recipe {shown(path)}; did you mean {shown(written)}?", code="recipe-unknown")]
        )
    raise RecipeError([UnknownNameError("recipe", str(path_or_name), known)], hint="llmcf recipe list")


def _near(path: Path) -> str:
    """Words about the recipe of the same folder whose name is nearest; empty where there is none."""
    try:
        near = closest(path.name, [one.name for one in path.parent.iterdir() if one.suffix in (".yaml", ".yml")])
    except OSError:
        return ""
    return f'; did you mean "{shown(path.with_name(near))}"?' if near else ""


def read_recipe(path: Path) -> WrittenRecipe:
    """A recipe file merged onto what it extends, without validating it.

    Raises:
        RecipeError: A file is missing or no YAML, or the chain of `extends` has a cycle.
    """
    layers: list[Node] = []
    files: list[Path] = []
    while True:
        node = read_yaml(path)
        files.append(path)
        extends = node.value.get(EXTENDS)
        layers.append(Node({key: value for key, value in node.value.items() if key != EXTENDS}, node.origin))
        if extends is None:
            break
        path = _extended(path, extends)
        if len(files) >= MAX_FILES:
            what = f"extends more than {MAX_FILES} files, one another"
            raise RecipeError(
                [LlmcfError(what, code="recipe-extends", where=extends.origin.place(), hint="merge some of them")]
            )
        if path.resolve() in {file.resolve() for file in files}:
            chain = " → ".join(shown(file) for file in [*files, path])
            raise RecipeError(
                [
                    LlmcfError(
                        f"`extends` runs in a circle: {chain}", code="recipe-extends", where=extends.origin.place()
                    )
                ]
            )
    root = layers.pop()
    while layers:
        root = merge(root, layers.pop())
    return WrittenRecipe(root, tuple(files))


def _kind(path: Path, where: Place | None = None) -> str:
    """What a path leads to; a path that cannot be one is a problem at `where`."""
    try:
        return kind_of(path)
    except LlmcfError as error:
        problem = LlmcfError(f"{error.where} {error.what}", code="path-missing", where=where) if where else error
        raise RecipeError([problem]) from error


def _extended(file: Path, extends: Node) -> Path:
    """The file that `extends:` names: relative to its own file, or a library recipe."""
    where = extends.origin.place(EXTENDS)
    name = extends.value
    if not isinstance(name, str) or not name:
        raise RecipeError(
            [LlmcfError("must be a file or the name of a library recipe", code="recipe-extends", where=where)]
        )
    beside = file.parent / name
    if _kind(beside, where) == "file":
        return beside
    known = installed_recipes()
    if name in known:
        return known[name].path
    if Path(name).suffix in (".yaml", ".yml"):
        raise RecipeError([LlmcfError(f"no such file: {shown(beside)}", code="path-missing", where=where)])
    raise RecipeError([UnknownNameError("recipe", name, known, where=where)], hint="llmcf recipe list")
