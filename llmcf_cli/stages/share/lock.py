"""`NAME.lock.yaml`: what exactly a recipe's results rest on, and what they were; small enough to lie beside the recipe.

Everything in it comes from whoever made it. It is compared, never followed: a lock makes no file readable, names no
value that is set, and no module that is imported.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from llmcf_cli.core.errors import DataError, LlmcfError, RecipeError, StoreError
from llmcf_cli.core.hashing import digest_file, digest_json
from llmcf_cli.core.place import Place
from llmcf_cli.core.tree import plain, shown
from llmcf_cli.core.types import Config
from llmcf_cli.core.yamlfile import dump_yaml, read_yaml
from llmcf_cli.recipe.library import library_dir, recipe_files
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.origins import plugins_of, versions
from llmcf_cli.stages.engine.run import Step, plan
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.store.artifacts import ArtifactStore, write_atomic
from llmcf_cli.store.assets import ASSET_PREFIX, Locator
from llmcf_cli.store.catalogue import Sha256

LIBRARY_PREFIX = "library:"
"""Begins the name of a recipe file that comes with llmcf."""
ENDINGS = (".lock.yaml", ".lock.json")
TOLERANCE = 0.005
"""How far a measure may be from the locked one, where nobody says otherwise."""
_NAME = Annotated[str, Field(max_length=1000)]


class LockedAsset(Config):
    """An asset that the recipe names."""

    digest: Sha256
    """Of its content."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    licence: _NAME
    """Licence or terms of use, as its catalogue says."""
    sources: dict[_NAME, _NAME]
    """File → where it comes from and the SHA-256 that it must have, `SOURCE sha256:DIGEST`; sources are pinned to a
    version or revision wherever there are such."""


class Trace(Config):
    """What a stage made, small enough to be compared elsewhere."""

    aspect: Literal["data", "texts", "vectors", "matches", "weights", "predictions"]
    """What it is."""
    rows: Annotated[int, Field(ge=0)]
    """Rows; of weights, numbers."""
    parts: Annotated[str, Field(pattern=r"^([0-9a-f]{16})*$", max_length=1024)]
    """A digest of 16 hexadecimal digits for each of some parts that the rows are divided into."""
    numbers: Annotated[tuple[float, ...], Field(max_length=64)] = ()
    """Some of the numbers, in a fixed order: what differs by rounding alone differs little here."""


class Expected(Config):
    """A measure on the test split."""

    value: float
    """Mean over the seeds."""
    tolerance: Annotated[float, Field(ge=0)]
    """How far another run's may be from it."""


class Lock(Config):
    """All of it."""

    format: Literal[1] = 1
    """Version of this file's layout."""
    name: _NAME
    """The recipe's name."""
    recipe: _NAME
    """Its file, beside the lock; or the name of a recipe that comes with llmcf."""
    digest: Sha256
    """Of `resolved`."""
    made: str
    """Date, UTC."""
    machine: _NAME
    """Where the lock was made: system, processor, cores."""
    versions: dict[_NAME, _NAME]
    """Of llmcf, Python and the libraries that do the work."""
    files: dict[_NAME, Sha256]
    """Recipe file and what it extends → digest of its bytes."""
    contents: dict[_NAME, Sha256]
    """Data file, folder, prompt or asset, as the recipe names it → digest of its content."""
    assets: dict[_NAME, LockedAsset]
    """What of these are assets."""
    plugins: dict[_NAME, _NAME]
    """Component or stage that is not built in → where its code comes from."""
    stages: dict[_NAME, Sha256]
    """Stage → its key, of which every setting, input and version of code that determines the result is a part."""
    measures: dict[_NAME, dict[_NAME, Expected]] = {}  # noqa: RUF012  (pydantic copies defaults)
    """Arm → measure → what a finished run got."""
    traces: dict[_NAME, Trace] = {}  # noqa: RUF012
    """Stage → what a finished run made."""
    resolved: dict[str, Any]
    """The recipe as it resolves, defaults included."""


@dataclass(frozen=True)
class Now:
    """A recipe on this machine, as a lock sees it.

    Attributes:
        lock: What a lock of it would say, without results.
        steps: Its comparison, as planned.
    """

    lock: Lock
    steps: Sequence[Step]


class _Noting(Locator):
    """A locator that keeps the digest of everything that keys are made of."""

    def __init__(self, locate: Locator) -> None:
        vars(self).update(vars(locate))
        self.seen: dict[str, str] = {}

    def digest(self, ref: str) -> str:
        self.seen[ref] = found = super().digest(ref)
        return found


class LockedContents(Locator):
    """Stands in for the files behind a lock: their digests are known, they themselves are not here."""

    def __init__(self, lock: Lock) -> None:
        self._contents = lock.contents

    def digest(self, ref: str) -> str:
        if ref not in self._contents:
            raise DataError(f"is not in the lock: {ref}", code="path-missing")
        return self._contents[ref]


def lock_now(loaded: LoadedRecipe, context: Context, made: str) -> Now:
    """What a lock of a recipe says on this machine. Nothing is fetched or run.

    Args:
        loaded: The recipe.
        context: What it runs in.
        made: Date, UTC.
    """
    noting = _Noting(context.locate)
    steps = plan(replace(context, locate=noting), [Evaluate()])
    for reference in sorted(set(_named(loaded)) - noting.seen.keys()):
        noting.digest(reference)  # prompts and the like that only a variant's, or another command's, stage reads
    resolved = loaded.recipe.model_dump(mode="json")
    plugins = dict(plugins_of([loaded.recipe, *loaded.recipe.arms.values()]))
    for step in steps:
        plugins |= step.node.material["plugins"]
    refs = sorted(noting.seen)
    lock = Lock(
        name=loaded.recipe.name, recipe=_recipe_name(loaded), digest=digest_json(resolved), made=made,
        machine=machine(), versions=versions(),
        files={_file_name(file, loaded.base): digest_file(file) for file in loaded.files},
        contents={ref: noting.seen[ref] for ref in refs},
        assets={name: asset for ref in refs if ref.startswith(ASSET_PREFIX)
                for name, asset in [_asset(ref, context.locate)]},
        plugins=plugins, stages={step.node.label: step.node.key for step in steps}, resolved=resolved,
    )  # fmt: skip
    return Now(lock, steps)


def steps_of(lock: Lock) -> list[Step]:
    """The plan of a locked recipe, from the lock alone. None of it can be run: there are no files.

    Raises:
        LlmcfError: The lock's recipe is none of this version of llmcf and these plugins.
    """
    try:
        recipe = Recipe.model_validate(lock.resolved)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"its recipe is not of this version: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise StoreError(what, code="lock-invalid", where=lock.name, hint=_versions_hint(lock)) from error
    nowhere = Path(os.devnull) / "lock"
    return plan(Context(recipe, ArtifactStore(nowhere), LockedContents(lock), nowhere), [Evaluate()])


def write_lock(lock: Lock, file: Path) -> None:
    """Write a lock, as YAML or, by its ending, as JSON.

    Raises:
        StoreError: It cannot be written.
    """
    data = lock.model_dump(mode="json")
    text = json.dumps(data, indent=1, ensure_ascii=False) + "\n" if file.suffix == ".json" else dump_yaml(data)
    try:
        write_atomic(file, text)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", code="store-unwritable", where=shown(file)) from error


def read_lock(file: Path) -> Lock:
    """Read a lock.

    Raises:
        RecipeError: It cannot be read, is none of this version, or was changed by hand.
    """
    node = read_yaml(file)
    try:
        lock = Lock.model_validate(plain(node))
    except ValidationError as error:
        problems = [
            LlmcfError(str(item["msg"]), code="lock-invalid", where=Place(file=shown(file), path=tuple(item["loc"])))
            for item in error.errors(include_url=False)
        ]
        raise RecipeError(problems, hint="make a lock of this version with: llmcf recipe lock RECIPE") from error
    if lock.digest != digest_json(lock.resolved):
        what = "`resolved` does not match `digest`: the lock was changed after it was made"
        problem = LlmcfError(what, code="lock-invalid", where=Place(file=shown(file), path=("resolved",)))
        raise RecipeError([problem], hint="get the lock again, or make one: llmcf recipe lock RECIPE")
    return lock


def is_lock(name: str) -> bool:
    """Whether a file's name is that of a lock."""
    return name.endswith(ENDINGS)


def locked_recipe(file: Path, lock: Lock) -> str:
    """The recipe that a lock is of, as the command line names it.

    Raises:
        RecipeError: It is not there.
    """
    name = lock.recipe
    if name.startswith(LIBRARY_PREFIX):
        known = name.removeprefix(LIBRARY_PREFIX)
        if known in recipe_files(library_dir()):
            return known
    elif "/" not in name and "\\" not in name and (file.parent / name).is_file():
        return str(file.parent / name)
    problem = LlmcfError(f"is of the recipe {name}, which is missing", code="path-missing", where=shown(file),
                         hint="put the recipe beside the lock")  # fmt: skip
    raise RecipeError([problem])


def machine() -> str:
    """System, processor and cores of this machine."""
    return f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "processor unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "processor unknown")


def _named(loaded: LoadedRecipe) -> Sequence[str]:
    from llmcf_cli.recipe.references import references_of

    return [reference.name for reference in references_of(loaded.root)]


def _recipe_name(loaded: LoadedRecipe) -> str:
    library = {path: name for name, path in recipe_files(library_dir()).items()}
    return f"{LIBRARY_PREFIX}{library[loaded.path]}" if loaded.path in library else loaded.path.name


def _file_name(file: Path, base: Path) -> str:
    library = library_dir()
    if file.absolute().is_relative_to(library) and not base.absolute().is_relative_to(library):
        return f"{LIBRARY_PREFIX}{file.absolute().relative_to(library).as_posix()}"
    return Path(os.path.relpath(file, base)).as_posix()


def _asset(ref: str, locate: Locator) -> tuple[str, LockedAsset]:
    asset = locate.asset(ref)
    sources = {file.path: f"{_public(file.source)} sha256:{file.sha256}" for file in asset.files}
    return asset.name, LockedAsset(digest=asset.digest, size=asset.size, licence=asset.licence, sources=sources)


def _public(source: str) -> str:
    """A source without the place of a folder on this machine."""
    return f"file:{Path(source).name}" if source.startswith("file:") else source


def _versions_hint(lock: Lock) -> str:
    return f"it was made by llmcf {lock.versions.get('llmcf', 'of an unknown version')}"


def flat(value: Mapping[str, Any] | Sequence[Any] | Any, path: str = "") -> dict[str, Any]:
    """Leaves of plain data by key path, `llm.mix.0.share`; empty mappings and lists are leaves."""
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list | tuple) else ()
    if not isinstance(value, Mapping | list | tuple) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, below in items:
        found |= flat(below, f"{path}.{key}" if path else str(key))
    return found
