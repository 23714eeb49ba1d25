"""A folder or zip of files with a manifest: packed here, taken in elsewhere. The manifest lists every file's digest.

A parcel comes from a stranger. Its manifest alone says where files go, and only below the folder that they are taken
into; names within a zip are compared with it and never followed. No byte is kept that the manifest does not list.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationError

from llmcf_cli.core.errors import AssetError, DataError, StoreError
from llmcf_cli.core.files import kind_of, read_small
from llmcf_cli.core.hashing import digest_file, digest_json
from llmcf_cli.core.progress import Progress, Task
from llmcf_cli.core.types import Broken, Config, rule
from llmcf_cli.store.catalogue import AssetFile, Sha256, checked_member
from llmcf_cli.store.fetch import MismatchError, copy_verified, disk_full
from llmcf_cli.store.locks import held

MANIFEST = "MANIFEST.json"
_DIGEST = "digest"
"""Key of the manifest's own digest in its file."""
MAX_FILES = 5_000
MAX_MANIFEST = 4 << 20
"""Bytes of a manifest."""
MAX_PATH = 240
"""Characters of a path."""
MAX_DIRECTORY = 16 << 20
"""Bytes of a zip's list of members."""
_WORDS = Annotated[str, Field(max_length=4000)]
_SEAL = b"sha256:"
_EPOCH = (1980, 1, 1, 0, 0, 0)
_END, _END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR = 20
"""Bytes of what tells where the 64-bit end of a zip's list is, just before the plain one."""
_TAIL = _END.size + 65_535 + _LOCATOR + _END_64.size
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, struct.error)

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
            yield Broken(f"lists {len(self.files):,} files; at most {self.MOST:,} are read", ("files",))
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
                yield Broken(f"{path[:80]!r} is too long, or takes another file's place", ("files", path[:80]))
            seen[folded] = path
        if self.lock not in self.files:
            yield Broken(f"{self.lock[:80]!r} is none of its files", ("lock",))

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


class Source(ABC):
    """Where the files of a parcel come from.

    Args:
        manifest: What is listed.
        name: What messages call it.
    """

    def __init__(self, manifest: ParcelManifest, name: str) -> None:
        self.manifest, self.name = manifest, name

    @abstractmethod
    def fetch(self, path: str, target: Path, task: Task) -> None:
        """Put a listed file at `target`, verified, or raise what `explained` makes of it."""

    def small(self, path: str, work: Path) -> bytes:
        """The bytes of a listed file that is read before anything is written, by way of a temporary folder."""
        from llmcf_cli.core.progress import SILENT

        target = work / "file"
        with SILENT.task("read", None, "B") as task:
            self.fetch(path, target, task)
        return target.read_bytes()

    def check(self) -> None:
        """Check what the listed files do not cover.

        Raises:
            DataError: There is more, or less, than the manifest lists, or the whole is damaged.
        """
        return

    def listed(self, path: str, source: str) -> AssetFile:
        """A listed file as one to fetch."""
        file = self.manifest.files[path]
        return AssetFile(path=path, source=source, sha256=file.sha256, size=file.size)


class FolderSource(Source):
    """A parcel that is a folder.

    Args:
        folder: The folder.

    Raises:
        DataError: It has no manifest of this version.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(read_parcel_manifest(read_small(folder / MANIFEST, MAX_MANIFEST), str(folder)), str(folder))
        self._folder = folder

    def fetch(self, path: str, target: Path, task: Task) -> None:
        place = self._folder / path
        with explained(path, self.name):
            for one in (place, *place.parents):
                if one == self._folder:
                    break
                if one.is_symlink():
                    raise DataError("is a link; a parcel has files only", code="parcel-changed", where=path)
            if kind_of(place) != "file":
                raise DataError("is missing", code="parcel-changed", where=path)
            with place.open("rb") as stream:
                copy_verified(stream, self.listed(path, f"file:{place}"), target, task)

    def check(self) -> None:
        for at, _, names in os.walk(self._folder):
            for name in names:
                path = Path(at, name).relative_to(self._folder).as_posix()
                if path not in self.manifest.files and path != MANIFEST and not name.startswith("."):
                    raise DataError("is not in the manifest", code="parcel-changed", where=path, hint=_AGAIN)


class ZipSource(Source):
    """A parcel that is a zip.

    Args:
        file: The zip.

    Raises:
        DataError: It is no zip, or has no manifest of this version, or what no parcel has.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        if kind_of(file) != "file":
            raise DataError("no such file", code="path-missing", where=str(file))
        with explained(MANIFEST, str(file)):
            _check_end(file)
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                names = [info.filename for info in infos]
                if len(set(names)) < len(names) or len(names) > MAX_FILES + 1:
                    raise DataError("has a member twice, or too many", code="parcel-changed", where=str(file))
                if MANIFEST not in names:
                    raise DataError("has no manifest", code="parcel-invalid", where=str(file), hint=_EXPORT)
                with archive.open(MANIFEST) as stream:
                    content = stream.read(MAX_MANIFEST + 1)
        super().__init__(read_parcel_manifest(content, str(file)), str(file))
        for info in infos:
            if info.filename != MANIFEST:
                self._check_member(info)
        if missing := sorted(self.manifest.files.keys() - set(names)):
            raise DataError("is missing", code="parcel-changed", where=missing[0], hint=_AGAIN)

    def fetch(self, path: str, target: Path, task: Task) -> None:
        with explained(path, self.name), zipfile.ZipFile(self._file) as archive, archive.open(path) as stream:
            copy_verified(stream, self.listed(path, f"file:{self._file}"), target, task)

    def check(self) -> None:
        """Compare the whole with the digest at its end, if it has one; a damaged member is named where there is one."""
        with zipfile.ZipFile(self._file) as archive:
            seal, start = archive.comment, archive.start_dir
            end = self._file.stat().st_size - _END.size - len(seal)
            if not seal:
                return
            digest = hashlib.sha256()
            with self._file.open("rb") as stream:
                while end > 0 and (chunk := stream.read(min(end, 1 << 20))):
                    end -= len(chunk)
                    digest.update(chunk)
            if seal == _SEAL + digest.hexdigest().encode() and start:
                return
            for path in self.manifest.files:
                with explained(path, self.name), archive.open(path) as stream:
                    _check_stream(stream, path, self.manifest.files[path])
        raise DataError("was changed after it was made", code="parcel-changed", where=self.name, hint=_AGAIN)

    def _check_member(self, info: zipfile.ZipInfo) -> None:
        path, mode = info.filename, info.external_attr >> 16
        listed = self.manifest.files.get(path)
        what = (
            "is not in the manifest" if listed is None
            else "is a link; a parcel has files only" if mode and not stat.S_ISREG(mode)
            else "is encrypted, or packed in an unknown way"
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            else f"says that it has {info.file_size:,} bytes, not the {listed.size:,} of the manifest"
            if info.file_size != listed.size else ""
        )  # fmt: skip
        if what:
            raise DataError(what, code="parcel-changed", where=path[:MAX_PATH], hint=_AGAIN)


_AGAIN = "get the parcel again"
_EXPORT = "llmcf recipe export RECIPE TARGET makes a parcel"


def open_parcel(place: Path) -> Source:
    """A parcel on this machine.

    Raises:
        DataError: It is none.
    """
    return FolderSource(place) if kind_of(place) == "folder" else ZipSource(place)


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
                            hint=_AGAIN)  # fmt: skip
        manifest = ParcelManifest.model_validate(data)
    except (ValidationError, ValueError, RecursionError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{MANIFEST} is no manifest of this version: {first}", code="parcel-invalid", where=where,
                        hint=_AGAIN) from error  # fmt: skip
    if manifest.text().encode() != content:
        raise DataError("was changed after it was made", code="parcel-changed", where=f"{where}: {MANIFEST}",
                        hint=_AGAIN)  # fmt: skip
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
    _check_free(target)
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


def take_in(
    source: Source, target: Path, progress: Progress, check: Callable[[Path], None] = lambda folder: None
) -> None:
    """Put all files of a parcel into a new folder, each verified; it appears only complete, with the manifest.

    What an interrupted attempt has brought is kept beside it, as `.NAME.partial`, and not brought again.

    Args:
        source: The parcel.
        target: The folder; nothing may be there.
        progress: Where to report.
        check: Called with the folder of all files before it gets its name; raises what is wrong with them.

    Raises:
        StoreError: Something is there, another process does the same, or the disk is full.
        DataError: A file is not as it should be; it is named.
    """
    _check_free(target)
    source.check()
    partial = target.with_name(f".{target.name}.partial")
    size = source.manifest.size
    target.parent.mkdir(parents=True, exist_ok=True)
    if size > shutil.disk_usage(target.parent).free:
        raise disk_full(str(target), f"it needs {size / 1e6:,.0f} MB")
    with held(partial.with_name(f"{partial.name}.lock"), what=target.name):
        partial.mkdir(exist_ok=True)
        with progress.task("take in", size, "B") as task:
            for path, file in source.manifest.files.items():
                place = partial / path
                if place.is_file() and place.stat().st_size == file.size and digest_file(place) == file.sha256:
                    task.skip(file.size)
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                source.fetch(path, place, task)
        (partial / MANIFEST).write_text(source.manifest.text(), encoding="utf-8")
        _remove_strays(partial, source.manifest)
        check(partial)
        _check_free(target)
        if target.is_dir():
            target.rmdir()
        partial.replace(target)


@contextmanager
def explained(path: str, parcel: str) -> Iterator[None]:
    """Turn whatever reading a file of a parcel raises into one error that names the file."""
    try:
        yield
    except MismatchError as error:
        raise DataError("does not hold the bytes that the manifest lists", code="parcel-changed", where=path,
                        hint=_AGAIN) from error  # fmt: skip
    except AssetError as error:
        hint = "check the connection and run the same command again: it goes on from here"
        raise AssetError(error.what, code=error.code, where=path, hint=hint) from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in (28, 122):
            raise disk_full(parcel) from error
        raise DataError(f"cannot be read: {error}", code="parcel-changed", where=f"{parcel}: {path}",
                        hint=_AGAIN) from error  # fmt: skip


def _check_stream(stream: IO[bytes], path: str, file: PackedFile) -> None:
    digest, size = hashlib.sha256(), 0
    while size <= file.size and (chunk := stream.read(1 << 20)):
        size += len(chunk)
        digest.update(chunk)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise MismatchError("changed", where=path)


def _check_free(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise StoreError("is there already, and nothing is overwritten", code="target-taken", where=str(target),
                         hint="name another place, or remove it first")  # fmt: skip


def _check_end(file: Path) -> None:
    """Look at the end of a zip before `zipfile` does: its list of members must not be what fills the memory.

    Raises:
        DataError: It is no zip, or its list is too long.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, size - _TAIL))
        tail = stream.read()
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) - place < _END.size:
        raise DataError("is no zip, and no folder", code="parcel-invalid", where=str(file), hint=_EXPORT)
    _, disk, first, here, count, directory, _, comment = _END.unpack_from(tail, place)
    if disk or first or here != count or place + _END.size + comment != len(tail):
        raise DataError("has no end that can be read", code="parcel-invalid", where=str(file), hint=_AGAIN)
    if place >= _LOCATOR and tail.startswith(b"PK\x06\x07", place - _LOCATOR):
        start = place - _LOCATOR - _END_64.size
        if start < 0 or not tail.startswith(b"PK\x06\x06", start):
            raise DataError("has no end that can be read", code="parcel-invalid", where=str(file), hint=_AGAIN)
        *_, count, directory, _ = _END_64.unpack_from(tail, start)
    if count > MAX_FILES + 1 or directory > MAX_DIRECTORY:
        raise DataError(f"has {count:,} members; at most {MAX_FILES:,} are read", code="file-limit", where=str(file))


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
    end = target.stat().st_size - _END.size
    digest = hashlib.sha256()
    with target.open("rb") as stream:
        while end > 0 and (chunk := stream.read(min(end, 1 << 20))):
            end -= len(chunk)
            digest.update(chunk)
    seal = _SEAL + digest.hexdigest().encode()
    with target.open("r+b") as stream:
        stream.seek(-2, os.SEEK_END)  # the length of the comment, which the end of the list ends with
        stream.write(struct.pack("<H", len(seal)) + seal)


def _info(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, _EPOCH)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
    return info


def _remove_strays(folder: Path, manifest: ParcelManifest) -> None:
    """Drop what an interrupted attempt at another parcel of the name has left."""
    for at, _, names in os.walk(folder):
        for name in names:
            path = Path(at, name)
            if path.relative_to(folder).as_posix() not in (*manifest.files, MANIFEST):
                path.unlink()
    for at, folders, names in os.walk(folder, topdown=False):
        if not folders and not names:
            Path(at).rmdir()


def _parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:length]) for length in range(1, len(parts)))
