"""Delimited text files (CSV, TSV): every column as text, by DuckDB; lines that do not parse are counted."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.tabular.damage import LINE_ENDS, LONGEST, find_damage
from llmcf_cli.tabular.files import encoding_hint, exactly, scratch_folder, unreadable_text
from llmcf_cli.tabular.sql import name, scalar, text
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES, BadRows, Table, check_count, distinct_names
from llmcf_cli.tabular.unpack import BROKEN, MAX_BLANK_LINES, check_text, opened
from llmcf_cli.tabular.values import WHITE

DELIMITERS = (",", ";", "\t", "|")
MAX_HEADER = 1 << 17
"""Characters of the line that names the columns."""
_TOGETHER = 64  # columns of one query, which takes memory for each
_SHOWN = 120  # characters of a line that did not parse
_CHUNK = 1 << 20
_BEGINNING = 4 << 20  # characters of a file of which only the first rows are read
_CONTROL = re.compile("[\x80-\x9f]")


@dataclass(frozen=True)
class Dialect:
    """How lines of a delimited text file split into columns.

    Attributes:
        delimiter: What stands between columns.
        quote: What stands around a column that holds it; empty: nothing does.
        encoding: Of the file, one of `ENCODINGS`.
        settings: Where a recipe sets these, e.g. `dataset.source`; empty: nowhere.
    """

    delimiter: str
    quote: str = ""
    encoding: str = "utf-8"
    settings: str = ""

    @property
    def encoding_setting(self) -> str:
        """The recipe's setting of the encoding; empty: there is none."""
        return f"{self.settings}.encoding" if self.settings else ""


@dataclass(frozen=True)
class Header:
    """The first line of a file that is not blank.

    Attributes:
        cells: Its columns, without white space around them.
        line: Its number, from 1.
    """

    cells: tuple[str, ...]
    line: int


def first_line(path: Path, dialect: Dialect) -> Header:
    """The columns of a text file's first line that is not blank.

    Raises:
        DataError: The file is empty or not text in the dialect's encoding.
    """
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    try:
        # More than the line is decoded: only what is wrong in the line itself counts.
        with io.TextIOWrapper(opened(path), encoding=encoding, errors="surrogateescape", newline="") as handle:
            for number, line in enumerate(iter(lambda: handle.readline(LONGEST), ""), 1):
                line.replace("\0", "\udc00").encode("utf-8")
                if number > MAX_BLANK_LINES:
                    raise DataError(f"starts with {MAX_BLANK_LINES:,} blank lines", code="blank-lines", where=str(path))
                if line.strip(WHITE):
                    return _header(line, handle, number, dialect, f"{path}:{number}")
    except (*BROKEN, UnicodeError) as error:
        raise unreadable_text(path, error, dialect.encoding, dialect.encoding_setting) from error
    except csv.Error as error:
        raise DataError(f"the first line is not CSV: {error}", code="file-format", where=f"{path}:1") from error
    raise DataError("is empty", code="data-empty", where=str(path))


def _blank_lines(path: Path, dialect: Dialect) -> int:
    return first_line(path, dialect).line - 1


def _header(line: str, rest: io.TextIOWrapper, number: int, dialect: Dialect, where: str) -> Header:
    next(_limited([line], where))
    if len(dialect.delimiter) > 1 or not dialect.quote:
        return Header(tuple(cell.strip(WHITE) for cell in line.rstrip("\r\n").split(dialect.delimiter)), number)
    lines = _limited(itertools.chain([line], rest), where)
    reader = csv.reader(lines, delimiter=dialect.delimiter, quotechar=dialect.quote)
    cells = tuple(cell.strip(WHITE) for cell in next(reader))
    return Header(cells, number)


def _limited(lines: Iterable[str], where: str) -> Iterator[str]:
    """The lines, as far as one list of columns may go."""
    read = 0
    for line in lines:
        read += len(line)
        if read > MAX_HEADER:
            what = f"the first line is longer than {MAX_HEADER:,} characters"
            raise DataError(
                what, code="csv-header", where=where, hint="use fewer columns or shorter names; close open quotes"
            )
        yield line


def read_csv(
    con: Any, path: Path, into: str, dialect: Dialect, names: Sequence[str] | None = None, rows: int | None = None
) -> Table:
    """Read a text file into the table `into`, every column as text, empty values as NULL.

    Blank lines before the first one are skipped. A column without a name is called `column_N`, or left out if it has no
    values either. Lines with too few or too many columns, a broken quote or invalid characters are counted.

    Args:
        con: DuckDB connection.
        path: The file; `.gz` and `.zst` are unpacked.
        into: The table to make.
        dialect: How lines split.
        names: The columns, in order, of a file without a line of names; None: the first line names them.
        rows: Read the rows of this many lines and no more; None: all.

    Raises:
        DataError: The file cannot be read at all, or its first line is no list of columns.
    """
    header = first_line(path, dialect)
    _check_names(path, dialect, header, names)
    below = 0 if names else 1
    return read_body(con, path, into, dialect, names or header.cells, header.line - 1 + below, rows)


def read_body(
    con: Any, path: Path, into: str, dialect: Dialect, cells: Sequence[str], skip: int, rows: int | None = None
) -> Table:
    """Read a text file below its first lines; see `read_csv`.

    Args:
        con, path, into, dialect, rows: As there.
        cells: The columns' names, in order; empty: a column without a name.
        skip: Leading lines that are no data; one whose quotes hold line ends is one.
    """
    check_count(len(cells), str(path))
    columns, notes = distinct_names(cells)
    blank = _blank_lines(path, dialect)
    notes += tuple(f"{blank:,} blank lines at the start are skipped" for _ in range(blank > 0))
    with scratch_folder(con) as folder:
        source = path
        if rows is None:
            _check_text(path, dialect)
        if dialect.encoding != "utf-8":
            source = folder / "text.csv"
            _to_utf8(path, source, dialect, _BEGINNING if rows is not None else None)
        cut = False
        if rows is not None:
            beginning = folder / "beginning.csv"
            try:
                source, cut = beginning, _copy_beginning(source, beginning, skip + rows)
            except BROKEN as error:
                raise unreadable_text(path, error, dialect.encoding, dialect.encoding_setting) from error
        bad, mended = _load(con, source, path, into, dialect, columns, skip, cut, folder)
    bad = _drop_headers(con, path, into, columns, cells, bad)
    undecoded = scalar(con, f"SELECT count(*) FROM {name(into + '_reject')} WHERE error_type = 'INVALID ENCODING'")
    remedy = encoding_hint(path, dialect.encoding, dialect.encoding_setting) if undecoded else ""
    return Table(name(into), str(path), bad, remedy, notes + mended + _drop_blank(con, into, columns, cells))


def _check_text(path: Path, dialect: Dialect) -> None:
    try:
        check_text(path)
    except BROKEN as error:
        raise unreadable_text(path, error, dialect.encoding, dialect.encoding_setting) from error


def _check_names(path: Path, dialect: Dialect, header: Header, names: Sequence[str] | None) -> None:
    found, where = header.cells, f"{path}:{header.line}"
    other = next((mark for mark in DELIMITERS if len(found) == 1 and mark in found[0]), dialect.delimiter)
    if other != dialect.delimiter and len(names or ()) != 1:
        setting = f"set {dialect.settings}.delimiter: {json.dumps(other)} in the recipe"
        raise DataError(
            f"has only one column with the delimiter {dialect.delimiter!r}: {found[0]!r}",
            code="csv-delimiter", where=where,
            hint=setting if dialect.settings else f"separate columns by {dialect.delimiter!r}",
        )  # fmt: skip
    if names is not None and len(names) != len(found):
        raise DataError(
            f"has {len(found)} columns, but {len(names)} names", code="csv-columns", where=where,
            hint=f"correct {dialect.settings}.names or the delimiter",
        )  # fmt: skip
    given = tuple(names or found)
    twice = next((column for column in given if column and given.count(column) > 1), None)
    if twice is not None:
        raise DataError(
            f"duplicate column {twice!r}",
            code="column-twice",
            where=where,
            allowed=given,
            hint="give each column its own name",
        )


def _load(
    con: Any, source: Path, path: Path, into: str, dialect: Dialect, columns: Sequence[str], skip: int,
    cut: bool, folder: Path,
) -> tuple[BadRows, tuple[str, ...]]:  # fmt: skip
    """Fill the table; a file whose lines end in different ways is read from a copy in which they do not."""
    import duckdb

    try:
        return _fill(con, source, path, into, dialect, columns, skip, cut), ()
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        try:
            damage = find_damage(source, "utf-8")
        except BROKEN:
            damage = None
        if damage is None or damage.kind != LINE_ENDS:
            raise unreadable_text(path, error, dialect.encoding, dialect.encoding_setting) from error
    one = folder / "one_end.csv"
    _one_line_end(source, one)
    try:
        bad = _fill(con, one, path, into, dialect, columns, skip, cut)
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise unreadable_text(path, error, dialect.encoding, dialect.encoding_setting) from error
    return bad, (f"from line {damage.line:,} on, line endings differ; all are read the same",)


def _fill(
    con: Any, source: Path, path: Path, into: str, dialect: Dialect, columns: Sequence[str], skip: int, cut: bool
) -> BadRows:
    types = ", ".join(f"{text(column)}: 'VARCHAR'" for column in columns)
    options = {
        "delim": text(dialect.delimiter), "quote": text(dialect.quote), "escape": text(dialect.quote),
        "header": "false", "skip": str(skip), "auto_detect": "false",
        "columns": f"{{{types}}}", "nullstr": "''", "store_rejects": "true", "rejects_limit": "0",
        "rejects_table": text(f"{into}_reject"), "rejects_scan": text(f"{into}_reject_scan"),
    }  # fmt: skip
    for leftover in (f"{into}_reject", f"{into}_reject_scan"):
        con.execute(f"DROP TABLE IF EXISTS {name(leftover)}")
    arguments = ", ".join(f"{option} = {value}" for option, value in options.items())
    file = f"read_csv({text(exactly(source))}, {arguments})"
    con.execute(f"CREATE OR REPLACE TABLE {name(into)} AS SELECT * FROM {file}")
    if cut:  # in the midst of a quoted value, maybe
        con.execute(
            f"DELETE FROM {name(into + '_reject')} WHERE error_type = 'UNQUOTED VALUE' "
            f"AND line = (SELECT max(line) FROM {name(into + '_reject')})"
        )
    rejected = con.execute(
        f"SELECT count(*) OVER (), line, first(csv_line), first(error_type::VARCHAR ORDER BY column_idx) "
        f"FROM {name(into + '_reject')} GROUP BY line ORDER BY line LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    samples = tuple(
        f"{path.name}:{line}: {_rejection(kind, len(columns), dialect)}: {row[:_SHOWN]!r}"
        for _, line, row, kind in rejected
    )
    return BadRows(rejected[0][0] if rejected else 0, samples)


def _rejection(kind: str, columns: int, dialect: Dialect) -> str:
    """What is wrong with a line, from DuckDB's kind of rejection."""
    known = {
        "MISSING COLUMNS": f"fewer than {columns} columns", "TOO MANY COLUMNS": f"more than {columns} columns",
        "UNQUOTED VALUE": "a quote that is not closed, or text after it",
        "INVALID ENCODING": f"not {dialect.encoding}",
        "LINE SIZE OVER MAXIMUM": f"longer than {LONGEST:,} bytes",
    }  # fmt: skip
    return known.get(kind, kind.lower())


def _drop_headers(
    con: Any, path: Path, into: str, columns: Sequence[str], cells: Sequence[str], bad: BadRows
) -> BadRows:  # fmt: skip
    """Leave out lines that name the columns again, as in files that were put together; the bad rows with them."""
    named = [(column, cell) for column, cell in zip(columns, cells, strict=True) if cell]
    if len(named) < 2:
        return bad
    repeated = " AND ".join(f"trim({name(column)}, {text(WHITE)}) = {text(cell)}" for column, cell in named)
    count = int(con.execute(f"DELETE FROM {name(into)} WHERE {repeated}").fetchone()[0])
    if not count:
        return bad
    said = f"{path.name}: {count:,} more line{'s' * (count > 1)} of column names: {','.join(cells)[:_SHOWN]!r}"
    return BadRows(bad.count + count, (said, *bad.samples)[:MAX_BAD_SAMPLES])


def _drop_blank(con: Any, into: str, columns: Sequence[str], cells: Sequence[str]) -> tuple[str, ...]:
    """Leave out columns that have neither a name nor a value; notes about them."""
    nameless = {place: column for place, column in enumerate(columns, 1) if not cells[place - 1] and len(columns) > 1}
    if not nameless:
        return ()
    blank: dict[int, str] = {}
    for start in range(0, len(nameless), _TOGETHER):
        some = list(nameless.items())[start : start + _TOGETHER]
        filled = ", ".join(f"bool_or(trim({name(column)}, {text(WHITE)}) <> '')" for _, column in some)
        found = con.execute(f"SELECT {filled} FROM {name(into)}").fetchone()
        blank |= {place: column for (place, column), has in zip(some, found, strict=True) if not has}
    if blank:
        left = ", ".join(map(name, blank.values()))
        con.execute(f"CREATE OR REPLACE TABLE {name(into)} AS SELECT * EXCLUDE ({left}) FROM {name(into)}")
    return tuple(f"column {place} has neither a name nor values and is left out" for place in blank)


def _copy_beginning(path: Path, out: Path, lines: int) -> bool:
    """Copy so many lines of a file, unpacked, and no more than is needed to look at it; whether there are more.

    DuckDB does not tell of lines that do not parse unless it reads a file to its end.
    """
    with opened(path) as source, out.open("wb") as handle:
        for _ in range(lines):
            line = source.readline(_BEGINNING)
            if not line:
                return False
            handle.write(line)
            if handle.tell() > _BEGINNING:
                break
        return bool(source.read(1))


def _to_utf8(path: Path, out: Path, dialect: Dialect, most: int | None) -> None:
    """Write a file anew as UTF-8, the first characters of it up to a line's end if there is a limit.

    Raises:
        DataError: It is not in the dialect's encoding.
    """
    written = 0
    try:
        with out.open("w", encoding="utf-8", newline="") as handle:
            for chunk in _decoded(path, dialect.encoding):
                if dialect.encoding == "latin-1" and _CONTROL.search(chunk):
                    # Legal there, but never meant: Windows writes quotes and dashes so.
                    raise UnicodeError("control characters")
                handle.write(chunk)
                written += len(chunk)
                if most is not None and written >= most:
                    handle.truncate(handle.tell() - len(chunk[chunk.rfind("\n") + 1 :].encode()))
                    break
    except (*BROKEN, UnicodeError) as error:
        raise unreadable_text(path, error, dialect.encoding, dialect.encoding_setting) from error


def _decoded(path: Path, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)()
    with opened(path) as handle:
        while chunk := handle.read(_CHUNK):
            yield decoder.decode(chunk)
        yield decoder.decode(b"", final=True)


def _one_line_end(path: Path, out: Path) -> None:
    """Copy a file, unpacked, with every line's end a line feed."""
    with opened(path) as source, out.open("wb") as handle:
        held = b""
        while chunk := source.read(_CHUNK):
            chunk = held + chunk
            held = b"\r" if chunk.endswith(b"\r") else b""
            handle.write(chunk[: len(chunk) - len(held)].replace(b"\r\n", b"\n"))
        handle.write(held)
