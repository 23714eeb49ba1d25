"""The answer of a check that found nothing wrong, kept until one of the files that it looked at changes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from llmcf_cli import __version__
from llmcf_cli.core.errors import LlmcfError, as_data, from_data
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.store.assets import cache_dir

MAX_FILES = 1_000
"""Of a data set, for its answer to be kept."""
_KEPT = 64
_FOLDER = "checked"
_CHECKS = ("data", "tabular", "stages")
"""Packages whose code gives the answer."""

Found = tuple[list[LlmcfError], list[LlmcfError]]
"""What is wrong, and notes."""


def remembered(asked: Any, files: Iterable[Path], check: Callable[[], Found]) -> Found:
    """What `check` finds, or found when nothing was different and nothing wrong.

    Args:
        asked: All that determines the answer beside the files, as plain data.
        files: Those that it reads, and those that it would read if they were there: their size and times say whether
            they are the same.
        check: The check.
    """
    marks = [_mark(path) for path in files]
    if len(marks) > MAX_FILES:
        return check()
    code = [_mark(file) for part in _CHECKS for file in sorted((Path(__file__).parents[1] / part).rglob("*.py"))]
    key = digest_json([__version__, code, str(Path.cwd()), asked, marks])
    kept = cache_dir().parent / _FOLDER / f"{key}.json"
    try:
        return [], [from_data(note) for note in json.loads(kept.read_bytes())]
    except (OSError, ValueError, TypeError, KeyError):
        wrong, notes = check()
    if not wrong:
        _keep(kept, [as_data(note) for note in notes])
    return wrong, notes


def _mark(path: Path) -> list[Any]:
    try:
        found = path.stat()
    except OSError:
        return [str(path.absolute())]
    return [str(path.absolute()), found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _keep(file: Path, answer: Any) -> None:
    fresh = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_text(json.dumps(answer), encoding="utf-8")
        fresh.replace(file)
        by_age = sorted(file.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in by_age[_KEPT:]:
            old.unlink()
    except OSError:
        return  # it is asked again
