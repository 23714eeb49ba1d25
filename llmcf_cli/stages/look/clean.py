"""What lies in an artifact folder and is needed by nobody who is named."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.plugin import registry
from llmcf_cli.stages.engine.base import ComparingStage, Context, Stage, labelled
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.store.artifacts import KEY_LENGTH, MANIFEST, ArtifactStore, Manifest, read_manifest
from llmcf_cli.store.locks import in_use

PARTIAL = ".partial"
_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")
_ABSENT = ("section-missing", "llm-missing")

Kind = Literal["artifact", "unreadable", "unfinished"]
"""An `artifact`; a folder that no manifest of this version describes; checkpoints and leftovers of a stopped run."""


@dataclass(frozen=True)
class Unneeded:
    """A result that nobody who is named needs.

    Attributes:
        stage: Its stage.
        key: Its key, the first `KEY_LENGTH` digits.
        kind: What there is.
        label: Stage and variant.
        recipe: Name of the recipe that it was made for; empty where it does not say.
        changed: When it was made, or last changed.
        bytes: Of all its files, but for those that it shares with what stays; what is shared with others of the list
            counts for the first of them.
        busy: Why it stays all the same; empty: nobody uses it.
    """

    stage: str
    key: str
    kind: Kind
    label: str
    recipe: str
    changed: datetime
    bytes: int
    busy: Literal["", "is being made", "is being read"]


@dataclass(frozen=True)
class Needs:
    """What is kept.

    Attributes:
        keys: Keys, the first `KEY_LENGTH` digits.
        bytes: Of the results with these keys that are there; what they share counts once.
    """

    keys: frozenset[str]
    bytes: int


def needs(store: ArtifactStore, recipes: Sequence[Context], folders: Sequence[Path]) -> Needs:
    """What recipes and results need.

    A recipe needs all that its stages make, those included that are in no comparison; results that were made while some
    of its arms failed, too. A result needs all that it was made from.

    Args:
        store: Where results are.
        recipes: Recipes.
        folders: Results, or folders in them, such as a bundle.

    Raises:
        StoreError: A folder lies in no result of the store.
    """
    made = {manifest.key[:KEY_LENGTH]: manifest for manifest in store.manifests()}
    kept = {key for context in recipes for key in planned_keys(context)}
    comparing = {stage.name for stage in _stages() if issubclass(stage, ComparingStage)}
    for key, manifest in made.items():
        inputs = _inputs(manifest)
        if manifest.stage in comparing and inputs and inputs <= kept:
            kept.add(key)
    left = [_key_of(store, folder) for folder in folders]
    while left:
        key = left.pop()
        kept.add(key)
        left += _inputs(made[key]) - kept if key in made else ()
    return Needs(frozenset(kept), size_of(*(store.folder(made[key].stage, key) for key in kept if key in made)))


def unneeded(store: ArtifactStore, kept: Collection[str], before: datetime | None = None) -> list[Unneeded]:
    """What has none of some keys, largest first. Only folders named as results are looked at.

    Args:
        store: Where results are.
        kept: Keys, the first `KEY_LENGTH` digits.
        before: Only what was made or last changed before.
    """
    found = (one for stage, key in present(store.root) if key not in kept if (one := _described(store, stage, key)))
    listed = [one for one in found if before is None or one.changed < before]
    free = [one for one in listed if not one.busy]
    sizes = _freed([_places(store, one.stage, one.key) for one in free])
    listed = [one for one in listed if one.busy] + [replace(one, bytes=n) for one, n in zip(free, sizes, strict=True)]
    return sorted(listed, key=lambda one: -one.bytes)


def size_of(*folders: Path) -> int:
    """Bytes of all files below some folders; links are not followed, and a file with several names counts once."""
    return sum({(found.st_dev, found.st_ino): found.st_size for found in _files(folders)}.values())


def _freed(results: Sequence[Sequence[Path]]) -> list[int]:
    """Bytes that go with each of some results' folders if all go: a file goes with its last name."""
    files = [{(found.st_dev, found.st_ino): found for found in _files(folders)} for folders in results]
    names = Counter((found.st_dev, found.st_ino) for folders in results for found in _files(folders))
    counted: set[tuple[int, int]] = set()
    free = []
    for one in files:
        gone = {at: found.st_size for at, found in one.items() if at not in counted and names[at] >= found.st_nlink}
        counted |= gone.keys()
        free.append(sum(gone.values()))
    return free


def _files(folders: Iterable[Path]) -> Iterator[os.stat_result]:
    """All names of files below some folders."""
    for folder in folders:
        for path, _, names in os.walk(folder):
            for name in names:
                with suppress(FileNotFoundError):  # its maker works on
                    yield Path(path, name).lstat()


def _places(store: ArtifactStore, stage: str, key: str) -> tuple[Path, Path]:
    """Where a result is, and where it is made."""
    return store.folder(stage, key), store.root / stage / PARTIAL / key


def _stages() -> list[type[Stage]]:
    return [component.load() for component in registry().stages()]


def planned_keys(context: Context) -> Iterator[str]:
    """Keys of all that a recipe's stages make, the first `KEY_LENGTH` digits."""
    for stage in _stages():
        try:
            steps = plan(context, stage.of(context.recipe))
        except LlmcfError as error:
            if error.code not in _ABSENT:
                raise
            continue  # a stage that the recipe does not have
        yield from (step.node.key[:KEY_LENGTH] for step in steps)


def _inputs(manifest: Manifest) -> set[str]:
    inputs: Mapping[str, str] = manifest.material.get("inputs", {})
    return {key[:KEY_LENGTH] for key in inputs.values()}


def _key_of(store: ArtifactStore, folder: Path) -> str:
    """The key of the result that a folder is, or is part of."""
    root, whole = store.root.resolve(), folder.resolve()
    parts = whole.relative_to(root).parts if whole.is_relative_to(root) else ()
    if len(parts) < 2 or not (root / parts[0] / parts[1] / MANIFEST).is_file():
        raise StoreError("not a result in this artifact folder", code="artifact-unusable", where=str(folder),
                         hint="llmcf status")  # fmt: skip
    return parts[1]


def present(root: Path) -> Iterator[tuple[str, str]]:
    """(stage, key) of every result, of every one in the making, and of what is left of one.

    Other folders may be named by a key, too, as those of audits are: a result is of a stage, or has a manifest.
    """
    stages = {stage.name for stage in _stages()}
    places = {
        (path.relative_to(root).parts[0], path.name)
        for pattern in ("*/*", f"*/{PARTIAL}/*") for path in root.glob(pattern)
        if _KEY.fullmatch(path.name) and path.is_dir()
        and (path.parent.name in {*stages, PARTIAL} or (path / MANIFEST).is_file())
    }  # fmt: skip
    yield from sorted(places)


def _described(store: ArtifactStore, stage: str, key: str) -> Unneeded | None:
    folder, partial = _places(store, stage, key)
    manifest: Manifest | None = None
    kind: Kind = "unfinished"
    if folder.exists():
        try:
            manifest, kind = read_manifest(folder / MANIFEST), "artifact"
        except StoreError:
            kind = "unreadable" if (folder / MANIFEST).exists() else "unfinished"
    try:
        changed = max(path.stat().st_mtime for path in (folder, partial) if path.exists())
    except (ValueError, FileNotFoundError):  # removed meanwhile
        return None
    busy: Literal["", "is being made", "is being read"] = ""
    if store.making(stage, key):
        busy = "is being made"
    elif in_use(folder / MANIFEST):
        busy = "is being read"
    return Unneeded(
        stage, key, kind, labelled(stage, manifest.variant if manifest else ""), manifest.recipe if manifest else "",
        datetime.fromtimestamp(changed, UTC), size_of(folder, partial), busy,
    )  # fmt: skip
