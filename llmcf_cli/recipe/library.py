"""The recipes that come with llmcf, found by name."""

from __future__ import annotations

from pathlib import Path

from llmcf_cli.core.errors import UnknownNameError

_NO_RECIPES = {"prompts", "data", "accelerate"}
_CATALOGUE = "assets.yaml"


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
