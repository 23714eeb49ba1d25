"""What stands at a path that somebody else wrote down: only files and folders are read, never pipes or devices."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Literal

from llmcf_cli.core.errors import DataError

_KINDS = {
    stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
}  # fmt: skip


def kind_of(path: Path) -> Literal["file", "folder", "nothing"]:
    """What a path leads to, links followed.

    Raises:
        DataError: To something that is neither file nor folder, which might never end; or it cannot be a path.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "nothing"
    except (OSError, ValueError) as error:  # too long, links in a circle, no right to look; a null character
        shown, what = str(path), error.strerror if isinstance(error, OSError) else str(error)
        where = shown if len(shown) < 200 else f"{shown[:160]}… ({len(shown):,} characters)"
        raise DataError(f"cannot be read: {what}", where=where) from error
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    what = _KINDS.get(stat.S_IFMT(mode), "no regular file")
    raise DataError(f"is {what}; only regular files are read", where=str(path), hint="save its content to a file")
