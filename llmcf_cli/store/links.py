"""Files that the disk holds once under several names: nobody writes to artifacts, so they can share what is the same.

A file goes with its last name, so removing one artifact leaves the others whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from llmcf_cli.store.integrity import FileRecord, recorded

_LEAST_BYTES = 1 << 16
"""Of a file that is worth a link."""


def link(source: Path, to: Path) -> None:
    """Give a file one more name; a copy where that is impossible."""
    if not _linked(source, to):
        shutil.copyfile(source, to)


def link_tree(source: Path, to: Path) -> None:
    """A folder whose files are those of another, each under one more name."""
    shutil.copytree(source, to, copy_function=lambda file, name: link(Path(file), Path(name)))


def share(
    folder: Path, files: Mapping[str, FileRecord], others: Iterable[tuple[Path, Mapping[str, FileRecord]]]
) -> dict[str, FileRecord]:
    """Let files of a folder be files of others that have the same content, where links are possible.

    Args:
        folder: Where they are.
        files: All of them, by relative path.
        others: Folders and their files, whole.

    Returns:
        The folder's files now: a link has the time of what it links to.
    """
    known = {record.sha256: other / name for other, records in others for name, record in records.items()}
    found = dict(files)
    for name, record in files.items():
        same, path = known.get(record.sha256), folder / name
        if same is None or record.size < _LEAST_BYTES or path.samefile(same):
            continue
        aside = path.with_name(f".{path.name}.link")
        if _linked(same, aside):
            aside.replace(path)
            found[name] = recorded(path, record.sha256)
    return found


def _linked(source: Path, to: Path) -> bool:
    """Give a file one more name, if it is the user's own; whether that was possible."""
    try:
        if source.stat().st_uid != os.geteuid():
            return False
        to.hardlink_to(source)
    except OSError:  # another disk, or one without links
        return False
    return True
