"""Records of a mix's file, one by one, and the texts in their values: what cannot be read is said, never guessed.

Values are written as JSON writes them: 0, false and objects are answers like any other.
"""

from __future__ import annotations

import ast
import datetime
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError
from llmcf_cli.llm.prompts.spoken import storable
from llmcf_cli.tabular.jsonl import each_record

_BLOCK = 1024
_TEXT_PARTS = ("text", "input_text", "output_text")
_THOUGHT_PARTS = ("thinking", "reasoning", "redacted_thinking")


class UnreadableError(Exception):
    """A value or record that cannot be used; the message says why."""


@dataclass(frozen=True)
class Record:
    """A row of a file.

    Attributes:
        place: Where it stands, as messages name it.
        values: Column → value; empty where it cannot be read.
        problem: Why it cannot; empty where it can.
    """

    place: str
    values: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_records(path: Path, kind: str) -> Iterator[Record]:
    """The records of a file, in its order.

    Args:
        path: The file.
        kind: `parquet` or `jsonl`.

    Raises:
        DataError: The file is missing, no Parquet, or no JSON array where it begins as one.
    """
    if not path.is_file():
        raise DataError("no such file", code="path-missing", where=str(path))
    return _parquet(path) if kind == "parquet" else _json(path)


def text_of(value: Any) -> str:
    """A value as text, without white space around it; "" for null, NaN and blank.

    Lists of text parts are joined by line breaks; other lists, objects, numbers and truth values are written as JSON.

    Raises:
        UnreadableError: A part is no text (an image), or the value is bytes that are no UTF-8.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str):
        return storable(value).strip()
    if isinstance(value, bytes):
        try:
            return value.decode().strip()
        except UnicodeDecodeError as error:
            raise UnreadableError("bytes that are no UTF-8") from error
    parts = [value] if isinstance(value, dict) else value
    if isinstance(parts, list) and parts and all(isinstance(p, str) or _is_part(p) for p in parts):
        return "\n".join(filter(None, map(_part, parts)))
    return storable(json.dumps(value, ensure_ascii=False, default=_written))


def list_of(value: Any) -> list[Any]:
    """A list as it is, or as text in JSON or Python notation; empty for null.

    Raises:
        UnreadableError: It is neither.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            try:
                value = ast.literal_eval(value.strip())
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                raise UnreadableError("is not a list, or a list written as text") from None
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return []
    if not isinstance(value, list | tuple):
        raise UnreadableError("is not a list of turns")
    return list(value)


def _is_part(value: Any) -> bool:
    """Whether an object is a part of a message: of a named type, with something of that type."""
    return isinstance(value, dict) and isinstance(kind := value.get("type"), str) and len(value) > 1 and (
        kind in (*_TEXT_PARTS, *_THOUGHT_PARTS) or kind.split("_")[-1] in ("url", "file", "image", "audio", "video")
        or kind in value
    )  # fmt: skip


def _part(part: Any) -> str:
    if isinstance(part, str):
        return storable(part).strip()
    if part["type"] in _THOUGHT_PARTS:
        return ""
    if part["type"] not in _TEXT_PARTS:
        raise UnreadableError(f"a part of type {part['type']!r} is not text")
    return text_of(part.get("text"))


def _written(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def _parquet(path: Path) -> Iterator[Record]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot be read as Parquet: {error}", code="file-format", where=str(path)) from error
    with file:
        row = 0
        if not file.metadata.num_rows:
            return
        for batch in file.iter_batches(batch_size=_BLOCK):
            for values in batch.to_pylist():
                row += 1
                yield Record(f"{path}: row {row}", values)


def _json(path: Path) -> Iterator[Record]:
    for line, value, problem in each_record(path):
        place = f"{path}:{line}"
        yield Record(place, value) if problem is None else Record(place, problem=problem)
