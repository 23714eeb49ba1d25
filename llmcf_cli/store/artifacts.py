"""Results on disk: one immutable folder per stage key, described by a manifest that is written last.

    artifacts/<stage>/<key>/           the stage's files
    artifacts/<stage>/<key>/manifest.json
    artifacts/<stage>/.partial/<key>/  unfinished: out/ (becomes the folder above), work/ (checkpoints, survive a kill)

A folder without a manifest is incomplete and is never read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.hashing import digest_file, digest_json
from llmcf_cli.core.types import Config

KEY_LENGTH = 16
MANIFEST = "manifest.json"


class FileRecord(Config):
    """A file of an artifact."""

    sha256: str
    """Content digest."""
    size: int
    """Bytes."""


class Manifest(Config):
    """What an artifact is, what it was made from, and what it reports."""

    format: int = 1
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
    """Relative path → digest and size."""
    started: str
    """UTC time, ISO 8601."""
    seconds: float
    """Wall time over all the attempts' last run."""
    versions: dict[str, str]
    """Versions of llmcf and of the libraries that did the work."""


@dataclass(frozen=True)
class Partial:
    """An artifact in the making.

    Attributes:
        out: Folder that becomes the artifact; emptied at the start of every attempt.
        work: Folder for checkpoints; survives a kill, removed on commit.
    """

    out: Path
    work: Path


class ArtifactStore:
    """All artifacts under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str, key: str) -> Path:
        """Where the artifact of that key is or will be."""
        return self.root / stage / key[:KEY_LENGTH]

    def manifest(self, stage: str, key: str) -> Manifest | None:
        """The manifest of a complete artifact, or None.

        Raises:
            StoreError: A manifest is there but unreadable, or belongs to another key.
        """
        path = self.folder(stage, key) / MANIFEST
        if not path.is_file():
            return None
        found = read_manifest(path)
        if found.key != key:
            raise StoreError(f"manifest has key {found.key}, not {key}", where=str(path), hint=f"rm -r {path.parent}")
        return found

    def manifests(self, stage: str | None = None) -> list[Manifest]:
        """Manifests of all complete artifacts, oldest first; of one stage if given."""
        pattern = f"{stage or '*'}/*/{MANIFEST}"
        found = [read_manifest(path) for path in self.root.glob(pattern) if path.parent.parent.name != ".partial"]
        return sorted(found, key=lambda m: m.started)

    def latest(self, stage: str, variant: str, recipe: str) -> Manifest | None:
        """The newest complete artifact of a recipe's stage, whatever its key."""
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
        base = self.root / stage / ".partial" / key[:KEY_LENGTH]
        base.mkdir(parents=True, exist_ok=True)
        with _locked(base.with_suffix(".lock"), base.with_suffix(".pid"), what=f"{stage} {key[:KEY_LENGTH]}"):
            out, work = base / "out", base / "work"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            work.mkdir(exist_ok=True)
            yield Partial(out, work)

    def commit(self, partial: Partial, manifest: Manifest) -> Path:
        """Make a partial folder the artifact: fsync its files, rename, manifest last; then drop the checkpoints."""
        target = self.folder(manifest.stage, manifest.key)
        for path in partial.out.rglob("*"):
            _fsync(path)
        shutil.rmtree(target, ignore_errors=True)  # no manifest, or the caller replaces it
        partial.out.rename(target)
        write_atomic(target / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        _fsync(target)
        _fsync(target.parent)
        shutil.rmtree(partial.work.parent, ignore_errors=True)
        return target


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Digest and size of every file below a folder, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): FileRecord(sha256=digest_file(p), size=p.stat().st_size) for p in files}


def read_manifest(path: Path) -> Manifest:
    """Parse a manifest.

    Raises:
        StoreError: Not JSON, or not a manifest of this format.
    """
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (ValidationError, ValueError) as error:
        raise StoreError("is no manifest of this version", where=str(path), hint=f"rm -r {path.parent}") from error


def artifact_key(material: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of everything that determines an artifact."""
    return digest_json(material)


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What changed between two key materials, one `path old → new` per leaf."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
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


@contextmanager
def _locked(lock_path: Path, pid_path: Path, what: str) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        pid = pid_path.read_text().strip() if pid_path.is_file() else "unknown"
        raise StoreError(
            f"is being made by process {pid}",
            where=what,
            hint=f"wait for process {pid} or stop it, then run again",
        ) from error
    try:
        pid_path.write_text(str(os.getpid()))
        yield
    finally:
        pid_path.unlink(missing_ok=True)
        lock.release()


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _leaves(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
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
