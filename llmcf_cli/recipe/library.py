"""The recipes that come with llmcf, and with installed plugins, found by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmcf_cli.core.errors import UnknownNameError
from llmcf_cli.plugin import registry

_NO_RECIPES = {"prompts", "data", "accelerate"}
_CATALOGUE = "assets.yaml"


@dataclass(frozen=True)
class Installed:
    """A recipe that is found by its name.

    Attributes:
        path: Its file.
        origin: `llmcf`, or the plugin that it comes with.
    """

    path: Path
    origin: str


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
                               hint="or give a file written by `accelerate config`")  # fmt: skip
    return known[name]


def recipe_files(library: Path) -> dict[str, Path]:
    """Recipe name → file. Prompts, data, launcher settings and the asset catalogue are no recipes."""
    files = {}
    for path in sorted(library.rglob("*.yaml")):
        relative = path.relative_to(library)
        if not _NO_RECIPES.intersection(relative.parts[:-1]) and relative.as_posix() != _CATALOGUE:
            files[relative.with_suffix("").as_posix()] = path
    return files


def installed_recipes() -> dict[str, Installed]:
    """Recipe name → recipe, of llmcf's own and of plugins'; llmcf's own has a name that both have."""
    found = {
        f"{one.name}/{name}": Installed(path, one.origin)
        for one in registry().recipes() for name, path in recipe_files(one.folder).items()
    }  # fmt: skip
    return found | {name: Installed(path, "llmcf") for name, path in recipe_files(library_dir()).items()}


def plugin_folders() -> tuple[Path, ...]:
    """Folders of the recipes that come with plugins."""
    return tuple(one.folder for one in registry().recipes())


def comes_with_plugin(path: Path) -> bool:
    """Whether a file lies among the recipes of a plugin, where nobody's own files belong."""
    whole = path.resolve()
    return any(whole.is_relative_to(folder.resolve()) for folder in plugin_folders())


def is_installed(path: Path) -> bool:
    """Whether a file lies among the recipes of llmcf or of a plugin, where nobody's own files belong."""
    return path.resolve().is_relative_to(library_dir().resolve()) or comes_with_plugin(path)
