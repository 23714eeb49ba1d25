"""Whether files are still what was written: by size and time at every look, by digest once in a process."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from llmcf_cli.core.hashing import digest_file
from llmcf_cli.core.types import Config

CHANGED = "was changed after it was made"


class FileRecord(Config):
    """A file of an artifact."""

    sha256: str
    """Content digest."""
    size: int
    """Bytes."""
    mtime_ns: int
    """Modification time, nanoseconds since 1970; a copy of the artifact may have another one."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with a file.

    Attributes:
        file: Path relative to the folder.
        what: A sentence without its subject.
    """

    file: str
    what: str

    def __str__(self) -> str:
        return f"{self.file} {self.what}"


_Trust = Callable[[os.stat_result, FileRecord], bool]
_Identity = tuple[str, int, int, int, int]
_digests: dict[_Identity, str] = {}
"""What this process has read already: (path, inode, size, times of change) → digest."""


def file_records(folder: Path) -> dict[str, FileRecord]:
    """Digest, size and time of every file below a folder, by relative path."""
    records = {}
    for name, path in sorted(_entries(folder)):
        records[name] = recorded(path, _digest(path, path.lstat()))
    return records


def recorded(path: Path, sha256: str) -> FileRecord:
    """What is noted of a file with a digest that is known."""
    found = path.lstat()
    return FileRecord(sha256=sha256, size=found.st_size, mtime_ns=found.st_mtime_ns)


def glance(folder: Path, files: Mapping[str, FileRecord], *, apart: str) -> list[Fault]:
    """What sizes and times tell of a folder; a file whose time alone differs, as in a copy, is read.

    Args:
        folder: Where the files are.
        files: What there should be, by relative path; whatever else is there is a fault, but for hidden files.
        apart: A further file that may be there.
    """
    return _compare(folder, files, apart, lambda found, record: found.st_mtime_ns == record.mtime_ns)


def scrutinise(folder: Path, files: Mapping[str, FileRecord], *, apart: str) -> list[Fault]:
    """As `glance`, but every file is read that this process has not read since it last changed."""
    return _compare(folder, files, apart, lambda found, record: False)


def altered(folder: Path, files: Mapping[str, FileRecord]) -> list[Fault]:
    """As `scrutinise`, of a folder that may have got further files since."""
    found = ((name, _fault(folder / name, record, lambda found, record: False)) for name, record in files.items())
    return [Fault(name, what) for name, what in found if what]


def _compare(folder: Path, files: Mapping[str, FileRecord], apart: str, trusted: _Trust) -> list[Fault]:
    there = dict(_entries(folder))
    faults = [Fault(name, "is missing") for name in files if name not in there]
    for name, path in sorted(there.items()):
        if name in files:
            what = _fault(path, files[name], trusted)
            faults += [Fault(name, what)] if what else []
        elif name != apart and not path.name.startswith("."):
            faults.append(Fault(name, "does not belong to it"))
    return faults


def _fault(path: Path, record: FileRecord, trusted: _Trust) -> str:
    """What is wrong with a file; empty where nothing is."""
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            return "is not a regular file"
        if found.st_size != record.size:
            return f"has {found.st_size:,} bytes instead of {record.size:,}"
        if trusted(found, record):
            return ""
        if _digest(path, found) != record.sha256:
            with suppress(OSError):  # so that every glance from now on sees it, too
                os.utime(path)
            return CHANGED
        if found.st_mtime_ns != record.mtime_ns:  # a copy; with its time put right the next look is cheap
            with suppress(OSError):
                os.utime(path, ns=(found.st_atime_ns, record.mtime_ns))
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""


def _digest(path: Path, found: os.stat_result) -> str:
    identity = (str(path), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if identity not in _digests:
        _digests[identity] = digest_file(path)
    return _digests[identity]


def _entries(folder: Path) -> Iterator[tuple[str, Path]]:
    """Everything below a folder that is no folder, by relative path; links are not followed."""
    for at, _, names in os.walk(folder):
        for name in names:
            path = Path(at, name)
            yield path.relative_to(folder).as_posix(), path
