"""Results on disk: one immutable folder per stage key, described by a manifest.

    artifacts/<stage>/<key>/           the stage's files
    artifacts/<stage>/<key>/manifest.json
    artifacts/<stage>/.partial/<key>/  unfinished: out/ (becomes the folder above), work/ (checkpoints, survive a kill),
                                       old/ (what the folder above held, while it is being replaced),
                                       gone/ (what the folder above held, while it is being removed)

A folder without a manifest is incomplete and is never read. A folder is renamed into its place as a whole, manifest
included, and what it replaces is put aside first and removed last. So a kill at any moment leaves the old artifact or
the new one; where it struck between the two renames, the next look puts the old one back.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.types import Config
from llmcf_cli.store.integrity import CHANGED, Fault, FileRecord, glance, scrutinise
from llmcf_cli.store.locks import held, in_use, replacing, sharing

KEY_LENGTH = 16
MANIFEST = "manifest.json"
_DIGEST = "digest"
"""Key of the manifest's own digest in its file."""


class Manifest(Config):
    """What an artifact is, what it was made from, and what it reports."""

    format: Literal[2] = 2
    """Version of this file's layout."""
    stage: str
    """Stage that made it."""
    variant: str
    """Which of the stage's results, e.g. `ict-seed2024`; empty where a stage has one."""
    recipe: str
    """Name of the recipe it was made for (others with the same key share it)."""
    key: str
    """SHA-256 of `material`."""
    material: dict[str, Any]
    """Everything that determines the result."""
    report: dict[str, Any]
    """Counts and metrics for people."""
    files: dict[str, FileRecord]
    """Relative path → digest, size and time."""
    started: str
    """UTC time, ISO 8601 with microseconds, so that no two makings of an artifact have the same."""
    seconds: float
    """Wall time over all the attempts' last run."""
    versions: dict[str, str]
    """Versions of llmcf and of the libraries that did the work."""

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest; tells one making of an artifact from another."""
        return digest_json(json.loads(self.model_dump_json()))


@dataclass(frozen=True)
class Partial:
    """An artifact in the making.

    Attributes:
        out: Folder that becomes the artifact; emptied at the start of every attempt.
        work: Folder for checkpoints; survives a kill, removed on commit.
    """

    out: Path
    work: Path


@dataclass(frozen=True)
class Found:
    """What there is of an artifact.

    Attributes:
        folder: Where it is or will be.
        manifest: What it says of itself; None where there is none that can be read.
        faults: What is wrong with it.
    """

    folder: Path
    manifest: Manifest | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def whole(self) -> Manifest | None:
        """The manifest of an artifact that is there and without faults."""
        return None if self.faults else self.manifest

    @property
    def damage(self) -> str:
        """The faults in a sentence; empty where there are none."""
        more = f" and {len(self.faults) - 1} more" if len(self.faults) > 1 else ""
        return f"{self.faults[0]}{more}" if self.faults else ""


class ArtifactStore:
    """All artifacts under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Where the artifact of that key is or will be."""
        return self.root / stage / key[:KEY_LENGTH]

    def look(self, stage: str, key: str) -> Found:
        """What there is of an artifact, by the sizes and times of its files."""
        return self._found(stage, key, glance)

    def examine(self, stage: str, key: str) -> Found:
        """What there is of an artifact, by the digests of its files; each is read once in a process."""
        return self._found(stage, key, scrutinise)

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a whole artifact, examined; None where there is no artifact.

        Raises:
            StoreError: It is damaged.
        """
        found = self.examine(stage, key)
        if found.faults:
            raise damaged(found)
        return found.manifest

    @contextmanager
    def reading(self, stage: str, key: str) -> Iterator[Found]:
        """An artifact, examined, that no other process replaces while the block reads it."""
        with sharing(self.folder(stage, key) / MANIFEST):
            yield self.examine(stage, key)

    def folders(self, stage: str | None = None) -> list[Path]:
        """Where there are artifacts, of one stage if given, by stage and key."""
        return sorted(path.parent for path in self.root.glob(f"{stage or '*'}/*/{MANIFEST}"))

    def all(self) -> Iterator[Found]:
        """Every artifact by stage and key, examined."""
        for folder in self.folders():
            manifest, faults = _parsed(folder)
            if manifest is not None and self.folder(manifest.stage, manifest.key) != folder:
                faults = [_misplaced(manifest)]
            elif manifest is not None:
                faults = scrutinise(folder, manifest.files, apart=MANIFEST)
            yield Found(folder, manifest, tuple(faults))

    def stage_of(self, key: str) -> str | None:
        """The stage that has an artifact of that key; None where there is none."""
        short = key[:KEY_LENGTH]
        aside = f"*/.partial/{short}/old/{MANIFEST}"  # by a process that was killed as it replaced it
        for place in (f"*/{short}/{MANIFEST}", aside):
            for file in self.root.glob(place):
                return file.relative_to(self.root).parts[0]
        return None

    def manifests(self, stage: str | None = None) -> list[Manifest]:
        """Manifests of all artifacts, oldest first, of one stage if given; those that cannot be read are left out."""
        found = [manifest for folder in self.folders(stage) if (manifest := _parsed(folder)[0])]
        return sorted(found, key=lambda m: m.started)

    def latest(self, stage: str, variant: str, recipe: str) -> Manifest | None:
        """The newest artifact of a recipe's stage, whatever its key."""
        for found in reversed(self.manifests(stage)):
            if (found.variant, found.recipe) == (variant, recipe):
                return found
        return None

    @contextmanager
    def begin(self, stage: str, key: str) -> Iterator[Partial]:
        """Lock a key and open its partial folders; they stay if the body fails, so that the next attempt can resume.

        Raises:
            StoreError: Another process (named by pid) is making the same artifact.
        """
        base = self._base(stage, key)
        base.mkdir(parents=True, exist_ok=True)
        with held(base.with_suffix(".lock"), what=f"{stage} {key[:KEY_LENGTH]}"):
            self._settle(stage, key)
            out, work = base / "out", base / "work"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            work.mkdir(exist_ok=True)
            yield Partial(out, work)

    def check_free(self, stage: str, key: str) -> None:
        """Check that nobody reads an artifact, before work that is to replace it.

        Raises:
            StoreError: Somebody does.
        """
        folder = self.folder(stage, key)
        if in_use(folder / MANIFEST):
            hint = "wait until it finishes, then run again"
            raise StoreError(
                "another process is reading what this would replace", code="store-in-use", where=str(folder), hint=hint
            )

    def commit(self, partial: Partial, manifest: Manifest) -> Path:
        """Make a partial folder the artifact, in the place of one that is there, and drop the checkpoints.

        Waits while another process reads the one that is there.
        """
        target, old = self.folder(manifest.stage, manifest.key), partial.out.with_name("old")
        write_manifest(manifest, partial.out / MANIFEST)
        mode = 0o666 & ~_umask()  # some libraries write by way of a private temporary file
        for path in (partial.out, *partial.out.rglob("*")):
            if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
                path.chmod(mode)
            _fsync(path)
        with replacing(target / MANIFEST):
            if target.exists():
                target.rename(old)
            try:
                partial.out.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
        _fsync(target.parent)
        _remove(old)
        self.discard(partial)
        return target

    def discard(self, partial: Partial) -> None:
        """Drop a partial folder and its checkpoints."""
        shutil.rmtree(partial.out.parent, ignore_errors=True)

    def making(self, stage: str, key: str) -> bool:
        """Whether another process makes an artifact."""
        lock = self._base(stage, key).with_suffix(".lock")
        try:
            with held(lock, what=stage) if lock.is_file() else nullcontext():
                return False
        except StoreError:
            return True

    def remove(self, stage: str, key: str) -> None:
        """Remove an artifact, what is unfinished of it, and what a killed process left.

        A kill leaves the artifact whole, or parts that are none and that the next call removes.

        Raises:
            StoreError: Another process makes or reads it, or it cannot be removed.
        """
        base, folder = self._base(stage, key), self.folder(stage, key)
        try:
            base.parent.mkdir(parents=True, exist_ok=True)
            with held(base.with_suffix(".lock"), what=f"{stage} {key[:KEY_LENGTH]}"):
                self._settle(stage, key)
                self.check_free(stage, key)
                if base.exists():
                    shutil.rmtree(base)
                if folder.exists():
                    base.mkdir()
                    with replacing(folder / MANIFEST):
                        folder.rename(base / "gone")  # at once: nobody ever sees a part of it
                    shutil.rmtree(base)
        except OSError as error:
            raise StoreError(
                f"cannot be removed: {error.strerror}", code="store-unwritable", where=str(folder),
                hint="ask the owner of the files to remove it",
            ) from error  # fmt: skip

    def _base(self, stage: str, key: str) -> Path:
        return self.root / stage / ".partial" / key[:KEY_LENGTH]

    def _found(self, stage: str, key: str, compare: Any) -> Found:
        self._recover(stage, key)
        folder = self.folder(stage, key)
        if not (folder / MANIFEST).is_file():
            return Found(folder)
        manifest, faults = _parsed(folder)
        if manifest is not None and manifest.key != key:
            faults = [_misplaced(manifest)]
        if manifest is None or faults:
            return Found(folder, None, tuple(faults))
        return Found(folder, manifest, tuple(compare(folder, manifest.files, apart=MANIFEST)))

    def _recover(self, stage: str, key: str) -> None:
        """Put back what a killed process had put aside, unless somebody else is at it or nothing can be written."""
        base = self._base(stage, key)
        if (base / "old").is_dir() and not self.folder(stage, key).exists():
            with suppress(StoreError, OSError), held(base.with_suffix(".lock"), what=stage):
                self._settle(stage, key)

    def _settle(self, stage: str, key: str) -> None:
        """End what a killed process began: the old artifact goes back to its place, or away if the new one is there."""
        target, old = self.folder(stage, key), self._base(stage, key) / "old"
        if (old / MANIFEST).is_file() and not target.exists():
            old.rename(target)
        _remove(old)


def damaged(found: Found) -> StoreError:
    """The error about an artifact with faults."""
    return StoreError(found.damage, code="artifact-damaged", where=str(found.folder), hint="llmcf run RECIPE")


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest.

    Raises:
        StoreError: It is damaged, or of another version.
    """
    manifest, faults = _parsed(path.parent)
    if manifest is None:
        raise damaged(Found(path.parent, None, tuple(faults)))
    return manifest


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write a manifest with its digest."""
    data = json.loads(manifest.model_dump_json())
    write_atomic(path, json.dumps({**data, _DIGEST: manifest.digest}, indent=2, ensure_ascii=False) + "\n")


def _parsed(folder: Path) -> tuple[Manifest | None, list[Fault]]:
    """A folder's manifest, or what is wrong with it."""
    try:
        data = json.loads((folder / MANIFEST).read_bytes())
        if isinstance(data, dict) and data.get("format") == 1:
            return None, [Fault(MANIFEST, "is of an earlier version of llmcf")]
        digest = data.pop(_DIGEST)
        if digest != digest_json(data):
            return None, [Fault(MANIFEST, CHANGED)]
        return Manifest.model_validate(data), []
    except (ValidationError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None, [Fault(MANIFEST, "is not a manifest of this version")]
    except OSError as error:
        return None, [Fault(MANIFEST, f"cannot be read ({error.strerror})")]


def _misplaced(manifest: Manifest) -> Fault:
    return Fault(MANIFEST, f"is of {manifest.stage} {manifest.key[:KEY_LENGTH]}")


def _remove(folder: Path) -> None:
    """Remove an artifact, its manifest first: what a kill leaves of it is none."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def artifact_key(material: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that determines an artifact."""
    return digest_json(material)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What changed between two key materials, one `path old → new` per leaf."""
    old, new = dict(leaves(before)), dict(leaves(after))
    lines = []
    for path in sorted(old.keys() | new.keys()):
        a, b = old.get(path), new.get(path)
        if a != b:
            lines.append(f"{path} {_short(a)} → {_short(b)}")
    return lines


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a crash leaves the old one or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with temporary.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, value) of every value in a key material, as text."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, json.dumps(value)


def _short(text: str | None) -> str:
    if text is None:
        return "(none)"
    return text if len(text) <= 40 else f"{text[:12]}…"


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    """The process's mask of file modes, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
