"""The recipes that come with llmcf, found by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmcf_cli.core.errors import UnknownNameError

_NO_RECIPES = {"prompts", "data", "accelerate"}
_CATALOGUE = "assets.yaml"


@dataclass(frozen=True)
class LibraryRecipe:
    """One recipe of a library.

    Attributes:
        name: Its path in the library without the suffix, e.g. `movielens_100k/din`.
        description: The recipe's own one-sentence description; a variant's own, else the one it inherits.
        path: The file.
    """

    name: str
    description: str
    path: Path


def library_dir() -> Path:
    """The folder of bundled recipes: inside an installed package, or `recipes/` of a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_recipes"
    return packaged if packaged.is_dir() else package.parent / "recipes"


def launch_file(name: str) -> Path:
    """A configuration of `accelerate launch`: a file, or one of the library's by its name, e.g. `ddp`.

    Raises:
        UnknownNameError: It is neither.
    """
    if Path(name).is_file():
        return Path(name).absolute()
    known = {path.stem: path for path in (library_dir() / "accelerate").glob("*.yaml")}
    if name not in known:
        raise UnknownNameError("configuration of accelerate", name, known, where="--launch",
                               hint="or give a file as `accelerate config` writes it")  # fmt: skip
    return known[name]


def recipe_files(library: Path) -> dict[str, Path]:
    """Recipe name → file. Prompts, data, launcher settings and the asset catalogue are no recipes."""
    files = {}
    for path in sorted(library.rglob("*.yaml")):
        relative = path.relative_to(library)
        if relative.parts[0] not in _NO_RECIPES and relative.as_posix() != _CATALOGUE:
            files[relative.with_suffix("").as_posix()] = path
    return files


def library_recipes(library: Path | None = None) -> list[LibraryRecipe]:
    """Every recipe of a library, sorted by name; the bundled library when none is given.

    Raises:
        RecipeError: One of them is no YAML, or extends something that does not exist.
    """
    from llmcf_cli.recipe.load import read_recipe
    from llmcf_cli.recipe.tree import plain

    found = []
    for name, path in recipe_files(library or library_dir()).items():
        description = plain(read_recipe(path).root).get("description", "")
        found.append(LibraryRecipe(name, str(description), path))
    return found
