"""What stands at a path that somebody else wrote down: only files and folders are read, never pipes or devices."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any, Literal

from llmcf_cli.core.errors import DataError, LlmcfError

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
        raise DataError(f"cannot be read: {what}", code="file-unreadable", where=where) from error
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    what = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
    raise DataError(
        f"is {what}; only regular files are read", code="file-irregular", where=str(path),
        hint="save its content to a regular file",
    )  # fmt: skip


def read_small(path: Path, most: int, error: type[LlmcfError] = DataError) -> bytes:
    """The bytes of a file that somebody else wrote and that should be small; no more is read than that.

    Args:
        path: The file.
        most: Bytes that it may have.
        error: What to raise.

    Raises:
        LlmcfError: As `error`; it is larger, no regular file, not there, or cannot be read.
    """
    try:
        if (kind := kind_of(path)) != "file":
            raise error("is a folder" if kind == "folder" else "no such file", code="path-missing", where=str(path))
        with path.open("rb") as handle:
            content = handle.read(most + 1)
    except DataError as refused:
        raise error(refused.what, code=refused.code, where=refused.where, hint=refused.hint) from refused
    except OSError as failed:
        raise error(f"cannot be read: {failed.strerror}", code="file-unreadable", where=str(path)) from failed
    if len(content) > most:
        raise error(f"is larger than {most:,} bytes", code="file-limit", where=str(path))
    return content


def read_json(path: Path, most: int, error: type[LlmcfError] = DataError) -> Any:
    """The JSON value in such a file, see `read_small`.

    Raises:
        LlmcfError: As `error`; as there, or it is no JSON.
    """
    try:
        return json.loads(read_small(path, most, error))
    except (ValueError, RecursionError) as failed:
        raise error(f"not valid JSON: {failed}", code="json-invalid", where=str(path)) from failed
