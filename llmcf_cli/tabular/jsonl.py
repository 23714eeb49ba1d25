"""JSON lines, and files of one JSON array: records one after the other, and tables of what stands in them.

Nothing is guessed from values: a text that looks like a date stays that text, and a number is kept in its own digits.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.place import Place
from llmcf_cli.tabular.files import unreadable
from llmcf_cli.tabular.records import RecordTable
from llmcf_cli.tabular.sql import name
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES, BadRows, Table
from llmcf_cli.tabular.unpack import BROKEN, MAX_BLANK_LINES, check_packed, opened
from llmcf_cli.tabular.values import EXACT_FLOAT, WHITE

EXAMPLE = '{"user_id": "196", "item_id": "242"}'
MAX_DEPTH = 64
"""Lists and objects within one another."""
LONGEST = 1 << 25
"""Bytes of a line past which it is no record."""
_BATCH = 5_000
_CHUNK = 1 << 20
_SHOWN = 120
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

Parse = Callable[[str], Any]


_PLAIN = json.JSONDecoder()


def each_record(
    path: Path, parse: Parse = json.loads, decoder: json.JSONDecoder = _PLAIN
) -> Iterator[tuple[int, Any, str | None]]:
    """(line, object, None), or (line, text, why it is none), of every line that is not blank.

    A file that begins with `[` is one array, and its elements are the records.

    Args:
        path: The file; `.gz` and `.zst` are unpacked. UTF-8, with or without a byte order mark.
        parse: How a line is read.
        decoder: How an element of an array is read.

    Raises:
        DataError: The file cannot be read, or begins as an array and is none.
    """
    try:
        with opened(path) as handle:
            start = handle.read(2)
            if start in _UTF16:
                raise DataError(
                    "is UTF-16, but JSON must be UTF-8",
                    code="encoding-wrong",
                    where=f"{path}:1",
                    hint="save the file as UTF-8",
                )
        if _is_array(path):
            yield from _elements(path, decoder)
            return
        with opened(path) as handle:
            last = 0  # line that was not blank
            for number, line in enumerate(iter(lambda: handle.readline(LONGEST + 1), b""), 1):
                text, problem = _text(line)
                if problem is None and not text:
                    _check_blank(path, number, last)
                    continue
                last = number
                yield (number, *(_record(text, parse) if problem is None else (text, problem)))
    except UnicodeDecodeError as error:  # of an array, of which nothing after that can be told apart
        raise DataError("not UTF-8", code="encoding-wrong", where=str(path), hint="save the file as UTF-8") from error
    except BROKEN as error:
        if isinstance(error, FileNotFoundError):
            raise DataError("no such file", code="path-missing", where=str(path)) from error
        raise unreadable(path, error) from error


def literal_or_json(line: str) -> Any:
    """A JSON value or, in what is none, a literal of Python; `literal_eval` reads constants and runs nothing.

    Raises:
        ValueError: The line is neither.
    """
    try:
        return exact_json(line)
    except ValueError:
        pass
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError("neither JSON nor a Python literal") from error


def exact_json(line: str) -> Any:
    """A JSON value in which numbers are texts of their digits, as `as_id` has them, and those not finite are None."""
    return _EXACT.decode(line)


def read_json(
    con: Any, path: Path, into: str, rows: int | None = None, parse: Parse = exact_json, *,
    only: Sequence[str] = (), without: Sequence[str] = (),
) -> Table:  # fmt: skip
    """Read JSON lines, or an array of objects, into the table `into`.

    A column is VARCHAR, or VARCHAR[] if a value in it is a list; lists within lists are joined by ` > `, objects are
    kept as JSON. A key that appears late makes a column that is NULL before. Lines that are no JSON object are counted.

    Args:
        con: DuckDB connection.
        path: The file; `.gz` and `.zst` are unpacked. UTF-8, with or without a byte order mark.
        into: The table to make.
        rows: Read this many rows and no more; None: all.
        parse: How a line is read.
        only: Keys to keep, each a column even if no object has it; none: all.
        without: Keys to leave out.

    Raises:
        DataError: The file cannot be read at all, or has no record.
    """
    if rows is None:
        try:
            check_packed(path)
        except BROKEN as error:
            raise unreadable(path, error) from error
    table = RecordTable(con, into, str(path), only)
    bad, samples = 0, list[str]()
    found = each_record(path, parse, _EXACT)
    taken = 0
    while batch := list(islice(found, _BATCH if rows is None else min(_BATCH, rows - taken))):
        taken += len(batch)
        kept = []
        for line, value, problem in batch:
            if problem is None:
                kept.append((line, {k: v for k, v in value.items() if k not in without} if without else value))
                continue
            bad += 1
            if len(samples) < MAX_BAD_SAMPLES:
                samples.append(f"{path.name}:{line}: {problem}: {str(value)[:_SHOWN]!r}")
        table.add(kept)
    whole = rows is None or taken < rows
    if not table.count:
        detail = "".join(f"\n  {sample}" for sample in samples)
        raise DataError(
            f"no JSON objects{detail}",
            code="file-format",
            where=str(path),
            allowed=[EXAMPLE],
            hint="write one object per line",
        )
    table.finish()
    return Table(
        name(into), str(path), BadRows(bad, tuple(samples)), notes=table.notes, objects=table.objects, whole=whole
    )


def _number(digits: str) -> str | None:
    """A number with a point or an exponent, as text: as it stands there, or plain where it is a whole one."""
    if "e" not in digits and "E" not in digits:
        return digits
    value = float(digits)
    if not math.isfinite(value):
        return digits  # past what a float can be; no conversion takes it
    return str(int(value)) if value == int(value) and abs(value) < EXACT_FLOAT["DOUBLE"] else digits


_EXACT = json.JSONDecoder(parse_float=_number, parse_int=str, parse_constant=lambda _: None)


def _text(line: bytes) -> tuple[str, str | None]:
    if len(line) > LONGEST:
        return line[:_SHOWN].decode("utf-8", "replace"), f"longer than {LONGEST:,} bytes"
    try:
        return line.decode("utf-8").strip(WHITE), None
    except UnicodeDecodeError:
        return line.decode("utf-8", "replace").strip(WHITE), "not UTF-8"


def _record(line: str, parse: Parse) -> tuple[Any, str | None]:
    try:
        value = parse(line)
    except RecursionError:
        return line, "nested too deeply"
    except ValueError as error:
        return line, f"not JSON ({error.msg} at character {error.pos + 1})" if isinstance(
            error, json.JSONDecodeError
        ) else str(error)
    return _checked(value, line)


def _checked(value: Any, line: str) -> tuple[Any, str | None]:
    if not isinstance(value, dict):
        return line, "not an object"
    if _is_deep(value, line):
        return line, "nested too deeply"
    if "\\u0000" in line and any("\0" in key for key in value):
        return line, "a key with a NUL character"
    if "\\ud" in line or "\\uD" in line:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            return line, "half a character (a lone surrogate)"
    return value, None


def _is_deep(value: Any, line: str) -> bool:
    if line.count("[") + line.count("{") <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [part for held in level for part in (held.values() if isinstance(held, dict) else held)
                 if isinstance(part, dict | list | tuple)]  # fmt: skip
        if not level:
            return False
    return True


def _is_array(path: Path) -> bool:
    with opened(path) as handle:
        for number, line in enumerate(iter(lambda: handle.readline(_CHUNK), b""), 1):
            _check_blank(path, number, 0)
            text = line.decode("utf-8", "replace").strip(WHITE)
            if text:
                return text.startswith("[")
    return False


def _check_blank(path: Path, number: int, last: int) -> None:
    if number - last > MAX_BLANK_LINES:
        what = f"has {MAX_BLANK_LINES:,} blank lines in a row"
        raise DataError(what, code="blank-lines", where=Place(file=str(path), line=last + 1), hint="remove them")


def _elements(path: Path, decoder: json.JSONDecoder) -> Iterator[tuple[int, Any, str | None]]:
    """The elements of an array, of which no more than one and a piece of the file are in memory."""
    import codecs

    characters = codecs.getincrementaldecoder("utf-8-sig")()
    with opened(path) as handle:
        buffer, line, place, ended = "", 1, 0, False
        opening = True

        def more() -> bool:
            nonlocal buffer, place, ended
            if ended or len(buffer) - place > LONGEST:
                return False
            chunk = handle.read(_CHUNK)
            ended = not chunk
            buffer, place = buffer[place:] + characters.decode(chunk, final=ended), 0
            return True

        while True:
            while place < len(buffer) and (buffer[place] in WHITE or buffer[place] == ","):
                line += buffer[place] == "\n"
                place += 1
            if place >= len(buffer):
                if not more() or (ended and place >= len(buffer)):
                    raise _broken(path, line, "the array is not closed")
                continue
            if opening:
                opening, place = False, place + 1
                continue
            if buffer[place] == "]":
                return
            try:
                value, end = decoder.raw_decode(buffer, place)
            except (ValueError, RecursionError) as error:
                if more():
                    continue
                raise _broken(path, line, getattr(error, "msg", "nested too deeply")) from error
            if end == len(buffer) and more():
                continue
            source = buffer[place:end]
            yield (line, *_checked(value, source))
            line += source.count("\n")
            place = end


def _broken(path: Path, line: int, why: str) -> DataError:
    """An array that breaks off: what comes after cannot be told apart, so it is not left out either."""
    return DataError(
        f"starts like a JSON array but is not one: {why}", code="file-format", where=Place(file=str(path), line=line),
        hint=f"write the file again, or write one object per line: {EXAMPLE}",
    )  # fmt: skip
