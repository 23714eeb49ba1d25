"""A folder or zip of files with a manifest, as it is packed. The manifest lists every file's digest."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.core.hashing import CHUNK_BYTES, digest_file, digest_json
from llmcf_cli.core.progress import Progress, Task
from llmcf_cli.core.types import Broken, Config, rule
from llmcf_cli.store.catalogue import AssetFile, Sha256, checked_member
from llmcf_cli.store.fetch import copy_verified

MANIFEST = "MANIFEST.json"
MAX_FILES = 5_000
MAX_MANIFEST = 4 << 20
"""Bytes of a manifest."""
MAX_PATH = 240
"""Characters of a path."""
AGAIN = "get the parcel again"
END = struct.Struct("<4s4H2LH")
"""The end of a zip's list of members; the last number is the length of the comment that follows."""
_DIGEST = "digest"
"""Key of the manifest's own digest in its file."""
_WORDS = Annotated[str, Field(max_length=4000)]
_EPOCH = (1980, 1, 1, 0, 0, 0)

Part = Literal["recipe", "texts", "data", "results", "bundle", "card"]


class PackedFile(Config):
    """A file of a parcel."""

    part: Part
    """What it belongs to."""
    sha256: Sha256
    """Digest of its bytes."""
    size: Annotated[int, Field(ge=0, le=1 << 44)]
    """Bytes."""


class ParcelManifest(Config):
    """What a parcel says of itself."""

    MOST: ClassVar[int] = MAX_FILES

    format: Literal[1] = 1
    """Version of this file's layout."""
    name: Annotated[str, Field(max_length=200)]
    """The recipe's."""
    description: _WORDS = ""
    """The recipe's."""
    licence: _WORDS = ""
    """Of what is in the parcel, by whoever packed it; empty: nothing is stated."""
    llmcf: Annotated[str, Field(max_length=100)]
    """Version that packed it."""
    lock: Annotated[str, Field(max_length=MAX_PATH)]
    """The lock among the files."""
    files: dict[str, PackedFile]
    """Path, `/` between its parts → file."""

    @rule("files", "lock")
    def _files_lie_inside(self) -> Iterator[Broken]:
        if len(self.files) > self.MOST:
            yield Broken(f"lists {len(self.files):,} files; at most {self.MOST:,} are allowed", ("files",))
            return
        seen: dict[str, str] = {}
        folders = {parent.casefold() for path in self.files for parent in _parents(path)}
        for path in self.files:
            folded = path.casefold()
            try:
                checked_member(path)
            except ValueError as error:
                yield Broken(str(error), ("files", path[:80]))
                continue
            if len(path) > MAX_PATH or folded == MANIFEST.casefold() or folded in folders or folded in seen:
                yield Broken(f"{path[:80]!r} is too long, or collides with another file", ("files", path[:80]))
            seen[folded] = path
        if self.lock not in self.files:
            yield Broken(f"{self.lock[:80]!r} is not one of its files", ("lock",))

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def text(self) -> str:
        """The one way that it is written, so that whatever else is in the file's place is none."""
        data = self.model_dump(mode="json")
        return json.dumps({**data, _DIGEST: digest_json(data)}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of the file; by it a parcel is named, wherever it lies."""
        return hashlib.sha256(self.text().encode()).hexdigest()


def read_parcel_manifest(content: bytes, where: str) -> ParcelManifest:
    """Parse a manifest.

    Raises:
        DataError: It is none of this version, lists what no parcel may have, or was changed.
    """
    if len(content) > MAX_MANIFEST:
        raise DataError(f"its manifest is larger than {MAX_MANIFEST:,} bytes", code="file-limit", where=where)
    try:
        data: Any = json.loads(content)
        if isinstance(data, dict) and data.pop(_DIGEST, None) != digest_json(data):
            raise DataError("was changed after it was made", code="parcel-changed", where=f"{where}: {MANIFEST}",
                            hint=AGAIN)  # fmt: skip
        manifest = ParcelManifest.model_validate(data)
    except (ValidationError, ValueError, RecursionError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{MANIFEST} is not a manifest of this version: {first}", code="parcel-invalid", where=where,
                        hint=AGAIN) from error  # fmt: skip
    if manifest.text().encode() != content:
        raise DataError("was changed after it was made", code="parcel-changed", where=f"{where}: {MANIFEST}",
                        hint=AGAIN)  # fmt: skip
    return manifest


def pack(target: Path, files: Mapping[str, tuple[Part, Path]], progress: Progress, **said: str) -> ParcelManifest:
    """Write a parcel, a zip where the target's name says so, else a folder. It appears only complete.

    Args:
        target: Where to; nothing may be there.
        files: Path in the parcel → part, and the file.
        progress: Where to report.
        said: `name`, `description`, `licence`, `llmcf` and `lock` of the manifest.

    Raises:
        StoreError: Something is there, or it cannot be written.
        LlmcfError: A path is none that a parcel may have.
    """
    check_free(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with progress.task("pack", sum(file.stat().st_size for _, file in files.values()), "B") as task:
            listed = {}
            for path, (part, file) in sorted(files.items()):
                listed[path] = PackedFile(part=part, sha256=digest_file(file), size=file.stat().st_size)
            manifest = ParcelManifest.model_validate({**said, "files": listed})
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.suffix == ".zip":
                _write_zip(partial, manifest, files, task)
            else:
                _write_folder(partial, manifest, files, task)
            if target.is_dir():  # empty
                target.rmdir()
            partial.replace(target)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror or error}", code="store-unwritable",
                         where=str(target)) from error  # fmt: skip
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)
    return manifest


def check_free(target: Path) -> None:
    """Check that nothing is where something is to be written; an empty folder is nothing.

    Raises:
        StoreError: Something is.
    """
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise StoreError("already exists, and nothing is overwritten", code="target-taken", where=str(target),
                         hint="name another place, or remove it first")  # fmt: skip


def seal_of(file: Path, size: int) -> bytes:
    """What a zip's comment says of all that stands before the end of its list.

    Args:
        file: The zip.
        size: Bytes that stand there.
    """
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while size > 0 and (chunk := stream.read(min(size, CHUNK_BYTES))):
            size -= len(chunk)
            digest.update(chunk)
    return b"sha256:" + digest.hexdigest().encode()


def _write_folder(folder: Path, manifest: ParcelManifest, files: Mapping[str, tuple[Part, Path]], task: Task) -> None:
    for path, (_, file) in sorted(files.items()):
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        listed = AssetFile(path=path, source=f"file:{file}", **manifest.files[path].model_dump(exclude={"part"}))
        with file.open("rb") as stream:
            copy_verified(stream, listed, place, task)
    (folder / MANIFEST).write_text(manifest.text(), encoding="utf-8")


def _write_zip(target: Path, manifest: ParcelManifest, files: Mapping[str, tuple[Part, Path]], task: Task) -> None:
    """A zip whose bytes depend on the files alone, sealed by a digest of all that stands before its end."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(_info(MANIFEST), manifest.text())
        for path, (_, file) in sorted(files.items()):
            with file.open("rb") as stream, archive.open(_info(path), "w", force_zip64=True) as out:
                while chunk := stream.read(1 << 20):
                    out.write(chunk)
                    task.advance(len(chunk))
    seal = seal_of(target, target.stat().st_size - END.size)
    with target.open("r+b") as stream:
        stream.seek(-2, os.SEEK_END)  # the length of the comment, which the end of the list ends with
        stream.write(struct.pack("<H", len(seal)) + seal)


def _info(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, _EPOCH)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
    return info


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:length]) for length in range(1, len(parts)))
