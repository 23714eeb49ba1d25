"""Parcels from somebody else, taken in.

The manifest alone says where files go, and only below the folder that they are taken into; names within a zip are
compared with it and never followed. No byte is kept that the manifest does not list.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, ClassVar

from llmcf_cli.core.errors import AssetError, DataError
from llmcf_cli.core.files import kind_of, read_small
from llmcf_cli.core.hashing import CHUNK_BYTES, digest_file
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.store.catalogue import AssetFile
from llmcf_cli.store.fetch import MismatchError, copy_verified, disk_full
from llmcf_cli.store.locks import held
from llmcf_cli.store.parcel import (
    AGAIN,
    END,
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST,
    MAX_PATH,
    PackedFile,
    ParcelManifest,
    check_free,
    read_parcel_manifest,
    seal_of,
)

MAX_DIRECTORY = 16 << 20
"""Bytes of a zip's list of members."""
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = 20
"""Bytes of what tells where the 64-bit end of a zip's list is, just before the plain one."""
_TAIL = END.size + 65_535 + _LOCATOR + _END_64.size
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, struct.error)
_EXPORT = "make a parcel with: llmcf recipe export RECIPE TARGET"


class Source(ABC):
    """Where the files of a parcel come from.

    Args:
        manifest: What is listed.
        name: What messages call it.
    """

    resumes: ClassVar[bool] = False
    """Whether what it has brought costs a download."""

    def __init__(self, manifest: ParcelManifest, name: str) -> None:
        self.manifest, self.name = manifest, name

    @abstractmethod
    def fetch(self, path: str, target: Path, task: Task) -> None:
        """Put a listed file at `target`, verified, or raise what `explained` makes of it."""

    def small(self, path: str, work: Path) -> bytes:
        """The bytes of a listed file that is read before anything is written, by way of a temporary folder."""
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
                    raise DataError("is a link; a parcel contains only files", code="parcel-changed", where=path)
            if kind_of(place) != "file":
                raise DataError("is missing", code="parcel-changed", where=path)
            with place.open("rb") as stream:
                copy_verified(stream, self.listed(path, f"file:{place}"), target, task)

    def check(self) -> None:
        for at, _, names in os.walk(self._folder):
            for name in names:
                path = Path(at, name).relative_to(self._folder).as_posix()
                if path not in self.manifest.files and path != MANIFEST and not name.startswith("."):
                    raise DataError("not in the manifest", code="parcel-changed", where=path, hint=AGAIN)


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
                    raise DataError("has duplicate members, or too many", code="parcel-changed", where=str(file))
                if MANIFEST not in names:
                    raise DataError("no manifest", code="parcel-invalid", where=str(file), hint=_EXPORT)
                with archive.open(MANIFEST) as stream:
                    content = stream.read(MAX_MANIFEST + 1)
        super().__init__(read_parcel_manifest(content, str(file)), str(file))
        for info in infos:
            if info.filename != MANIFEST:
                self._check_member(info)
        if missing := sorted(self.manifest.files.keys() - set(names)):
            raise DataError("is missing", code="parcel-changed", where=missing[0], hint=AGAIN)

    def fetch(self, path: str, target: Path, task: Task) -> None:
        with explained(path, self.name), zipfile.ZipFile(self._file) as archive, archive.open(path) as stream:
            copy_verified(stream, self.listed(path, f"file:{self._file}"), target, task)

    def check(self) -> None:
        """Compare the whole with the digest at its end, if it has one; a damaged member is named where there is one."""
        with zipfile.ZipFile(self._file) as archive:
            seal = archive.comment
            end = self._file.stat().st_size - END.size - len(seal)
            if not seal:
                return
            if seal == seal_of(self._file, end):
                return
            for path in self.manifest.files:
                with explained(path, self.name), archive.open(path) as stream:
                    _check_stream(stream, path, self.manifest.files[path])
        raise DataError("was changed after it was made", code="parcel-changed", where=self.name, hint=AGAIN)

    def _check_member(self, info: zipfile.ZipInfo) -> None:
        path, mode = info.filename, info.external_attr >> 16
        listed = self.manifest.files.get(path)
        what = (
            "is not in the manifest" if listed is None
            else "is a link; a parcel contains only files" if mode and not stat.S_ISREG(mode)
            else "is encrypted, or uses an unknown compression"
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
            else f"has {info.file_size:,} bytes instead of the manifest's {listed.size:,}"
            if info.file_size != listed.size else ""
        )  # fmt: skip
        if what:
            raise DataError(what, code="parcel-changed", where=path[:MAX_PATH], hint=AGAIN)


def open_parcel(place: Path) -> Source:
    """A parcel on this machine.

    Raises:
        DataError: It is none.
    """
    return FolderSource(place) if kind_of(place) == "folder" else ZipSource(place)


def take_in(
    source: Source, target: Path, progress: Progress, check: Callable[[Path], None] = lambda folder: None
) -> None:
    """Put all files of a parcel into a new folder, each verified; it appears only complete, with the manifest.

    What an interrupted attempt has brought is kept beside it, as `.NAME.partial`, and not brought again; what is found
    to be damaged is kept only where bringing it again would cost a download.

    Args:
        source: The parcel.
        target: The folder; nothing may be there.
        progress: Where to report.
        check: Called with the folder of all files before it gets its name; raises what is wrong with them.

    Raises:
        StoreError: Something is there, another process does the same, or the disk is full.
        DataError: A file is not as it should be; it is named.
    """
    check_free(target)
    source.check()
    partial = target.with_name(f".{target.name}.partial")
    lock = partial.with_name(f"{partial.name}.lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    with held(lock, what=target.name):
        partial.mkdir(exist_ok=True)
        try:
            _bring(source, partial, progress)
            check(partial)
        except DataError:
            if not source.resumes:
                shutil.rmtree(partial, ignore_errors=True)
                lock.unlink(missing_ok=True)
            raise
        check_free(target)
        if target.is_dir():
            target.rmdir()
        partial.replace(target)
        lock.unlink(missing_ok=True)


def _bring(source: Source, folder: Path, progress: Progress) -> None:
    """Put all files and the manifest into a folder, but for what is there already."""
    files = source.manifest.files
    there = {
        path for path, file in files.items()
        if (folder / path).is_file() and (folder / path).stat().st_size == file.size
        and digest_file(folder / path) == file.sha256
    }  # fmt: skip
    missing = sum(file.size for path, file in files.items() if path not in there)
    if missing > shutil.disk_usage(folder).free:
        raise disk_full(str(folder), f"it needs {missing / 1e6:,.0f} MB")
    with progress.task("take in", source.manifest.size, "B") as task:
        task.skip(source.manifest.size - missing)
        for path in files:
            if path not in there:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                source.fetch(path, folder / path, task)
    (folder / MANIFEST).write_text(source.manifest.text(), encoding="utf-8")
    _remove_strays(folder, source.manifest)


@contextmanager
def explained(path: str, parcel: str) -> Iterator[None]:
    """Turn whatever reading a file of a parcel raises into one error that names the file."""
    try:
        yield
    except MismatchError as error:
        raise DataError("does not match the manifest", code="parcel-changed", where=path,
                        hint=AGAIN) from error  # fmt: skip
    except AssetError as error:
        hint = "check the connection, then run the same command to resume"
        raise AssetError(error.what, code=error.code, where=path, hint=hint) from error
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(parcel) from error
        raise DataError(f"cannot be read: {error}", code="parcel-changed", where=f"{parcel}: {path}",
                        hint=AGAIN) from error  # fmt: skip


def _check_stream(stream: IO[bytes], path: str, file: PackedFile) -> None:
    digest, size = hashlib.sha256(), 0
    while size <= file.size and (chunk := stream.read(CHUNK_BYTES)):
        size += len(chunk)
        digest.update(chunk)
    if size != file.size or digest.hexdigest() != file.sha256:
        raise MismatchError("changed", where=path)


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
    if place < 0 or len(tail) - place < END.size:
        raise DataError("is neither a zip file nor a folder", code="parcel-invalid", where=str(file), hint=_EXPORT)
    _, disk, first, here, count, directory, _, comment = END.unpack_from(tail, place)
    if disk or first or here != count or place + END.size + comment != len(tail):
        raise DataError("is truncated or not a zip file", code="parcel-invalid", where=str(file), hint=AGAIN)
    if place >= _LOCATOR and tail.startswith(b"PK\x06\x07", place - _LOCATOR):
        start = place - _LOCATOR - _END_64.size
        if start < 0 or not tail.startswith(b"PK\x06\x06", start):
            raise DataError("is truncated or not a zip file", code="parcel-invalid", where=str(file), hint=AGAIN)
        *_, count, directory, _ = _END_64.unpack_from(tail, start)
    if count > MAX_FILES + 1 or directory > MAX_DIRECTORY:
        raise DataError(f"has {count:,} members; at most {MAX_FILES:,} are allowed", code="file-limit", where=str(file))


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
