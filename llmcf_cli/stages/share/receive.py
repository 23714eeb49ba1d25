"""A parcel from somebody else: what it holds and wants, before anything is written; and taking it in."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.permissions import Host
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.yamlfile import MAX_BYTES
from llmcf_cli.llm.writing.travel import Imported, check_texts
from llmcf_cli.plugin import STAGE, registry
from llmcf_cli.stages.share.lock import Lock, flat, read_lock
from llmcf_cli.stages.share.parcel import TEXTS
from llmcf_cli.stages.share.texts import import_cache, models_of
from llmcf_cli.store.parcel import MANIFEST
from llmcf_cli.store.parcel_source import Source, open_parcel, take_in

_SERVER = re.compile(r"(^|\.)base_url$")


@dataclass(frozen=True)
class Offer:
    """What a parcel holds and wants.

    Attributes:
        source: The parcel.
        lock: Its lock.
        servers: Servers that its recipe sends prompts to.
        missing: Plugin → where its code comes from, of those that are not here, or not the same.
    """

    source: Source
    lock: Lock
    servers: tuple[str, ...]
    missing: dict[str, str]

    @property
    def parts(self) -> dict[str, tuple[int, int]]:
        """Part → files and bytes."""
        found: dict[str, tuple[int, int]] = {}
        for file in self.source.manifest.files.values():
            count, size = found.get(file.part, (0, 0))
            found[file.part] = count + 1, size + file.size
        return found


@dataclass(frozen=True)
class Received:
    """What was taken in.

    Attributes:
        lock: The lock's file.
        texts: What came of the texts; None: there were none.
    """

    lock: Path
    texts: Imported | None


def look(source: Source) -> Offer:
    """Look into a parcel; of its files only the lock is read.

    Raises:
        LlmcfError: The lock is none of this version.
    """
    manifest = source.manifest
    if manifest.files[manifest.lock].size > MAX_BYTES:
        raise DataError(f"is larger than {MAX_BYTES:,} bytes", code="file-limit", where=manifest.lock)
    with tempfile.TemporaryDirectory() as work:
        file = Path(work) / PurePosixPath(manifest.lock).name
        file.write_bytes(source.small(manifest.lock, Path(work)))
        lock = read_lock(file)
    known = {f"{one.kind} {one.name}": one.origin for one in registry().all()}
    known |= {f"{STAGE} {one.name}": one.origin for one in registry().stages()}
    missing = {name: origin for name, origin in lock.plugins.items() if known.get(name) != origin}
    return Offer(source, lock, _servers(lock), missing)


def receive(offer: Offer, target: Path, cache: Path, progress: Progress) -> Received:
    """Take a parcel in: its files into a new folder, its texts into a cache of generated texts.

    Args:
        offer: What was looked at.
        target: The folder; nothing may be there.
        cache: The cache's file.
        progress: Where to report.

    Raises:
        StoreError: Something is there, or the disk is full.
        DataError: A file, or a text, is not as it should be; nothing is taken in then.
    """
    texts = TEXTS if TEXTS in offer.source.manifest.files else None

    def check(folder: Path) -> None:
        if texts is not None:
            check_texts(folder / texts, models_of(offer.lock))

    take_in(offer.source, target, progress, check)
    found = import_cache(cache, target / texts, offer.lock) if texts is not None else None
    return Received(target / offer.source.manifest.lock, found)


def push(source: Source, folder: Path, progress: Progress) -> Path:
    """Put a parcel as a folder below another, under its name and digest; one that is there already is verified.

    Returns:
        Its folder.

    Raises:
        StoreError: It cannot be written.
        DataError: A file of it, here or there, is not as it should be.
    """
    manifest = source.manifest
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", manifest.name).strip("-.") or "recipe"
    target = folder / f"{name}-{manifest.digest[:16]}"
    if (target / MANIFEST).is_file():
        verify_parcel(open_parcel(target), progress)
    else:
        take_in(source, target, progress)
    return target


def verify_parcel(source: Source, progress: Progress) -> None:
    """Read every file of a parcel.

    Raises:
        DataError: One is not as it should be.
    """
    source.check()
    with (
        tempfile.TemporaryDirectory() as work,
        progress.task("verify", source.manifest.size, "B") as task,
    ):
        for path in source.manifest.files:
            source.fetch(path, Path(work) / "file", task)


def _servers(lock: Lock) -> tuple[str, ...]:
    """Hosts that the locked recipe names as those of its engines."""
    named = [value for path, value in flat(lock.resolved).items() if _SERVER.search(path) and isinstance(value, str)]
    return tuple(dict.fromkeys(str(Host.of(address)) for address in named if address))


def largest(offer: Offer, count: int) -> Sequence[tuple[str, int]]:
    """The largest files of a parcel, with their bytes."""
    files = offer.source.manifest.files
    return sorted(((path, file.size) for path, file in files.items()), key=lambda one: -one[1])[:count]
