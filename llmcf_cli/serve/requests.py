"""Requests from files as users write them, checked before anything is scored."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.core.files import kind_of
from llmcf_cli.data.raw import Dialect, first_line, first_sentence, name, read_delimited

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = ("user_id", "item_id")
COLUMNS = (*NEEDED, "history (optional)", "time (optional)")
HISTORIES = ('["242", "50"]', "[]")
"""What a history looks like."""
EXAMPLE = '{"user_id": "196", "item_id": "242", "history": ["50", "7"]}'
_READERS = {".parquet": "read_parquet", ".jsonl": "read_json", ".json": "read_json", ".csv": "read_csv"}
_DELIMITERS = (",", ";", "\t", "|")
_TABLE = "request"


def read_requests(path: Path) -> pa.Table:
    """Requests from a file, by its ending. In CSV ids are text as it stands there, without blanks around it.

    Returns:
        The file's columns: `user_id`, `item_id` and, if there are any, `history` (lists) and `time` (of CSV, int64).

    Raises:
        DataError: There is no such file, its ending is unknown, it cannot be parsed, a column is missing, or a history
            or time is none.
    """
    import duckdb

    if path.suffix not in _READERS:
        raise DataError(f"cannot read {path.suffix or 'this kind of'} file", where=str(path), allowed=sorted(_READERS))
    if (kind := kind_of(path)) != "file":
        raise DataError("is a folder" if kind == "folder" else "no such file", where=str(path))
    with duckdb.connect() as connection:
        if path.suffix == ".csv":
            return _read_csv(connection, path)
        with _parsing(path):
            rows = connection.sql(f"FROM {_READERS[path.suffix]}(?)", params=[str(path)]).to_arrow_table()
    require_columns(rows.column_names, str(path))
    return rows


def require_columns(found: Sequence[str], where: str) -> None:
    """Check that requests have a user and an item.

    Raises:
        DataError: They lack a column; says which are needed and which were found.
    """
    lacking = [column for column in NEEDED if column not in found]
    if not lacking:
        return
    near = {column: closest(column, found) for column in lacking}
    renamed = ", ".join(f"{there} to {column}" for column, there in near.items() if there)
    names = " and ".join(f'"{column}"' for column in lacking)
    raise DataError(
        f"requests lack the column{'s' * (len(lacking) > 1)} {names}; found: {', '.join(found)}", where=where,
        allowed=COLUMNS, hint=f"rename {renamed}" if renamed else "give each request a user and an item",
    )  # fmt: skip


def _read_csv(connection: Any, path: Path) -> pa.Table:
    """A CSV file; the delimiter is the one that splits its first line into most columns."""
    lines = {mark: first_line(path, Dialect(mark, '"')) for mark in _DELIMITERS}
    mark, names = max(lines.items(), key=lambda line: len(line[1]))  # the first of equals
    names = [column.strip() for column in names]
    if len(set(names)) != len(names):
        raise DataError("names a column twice", where=f"{path}:1", allowed=names)
    require_columns(names, f"{path}:1")
    bad = read_delimited(connection, path, _TABLE, names, 1, Dialect(mark, '"'))
    if bad.count:
        detail = "".join(f"\n  {sample}" for sample in bad.samples)
        hint = f'a line has {len(names)} columns in utf-8, quoted where they hold the delimiter: "[242, 50]"'
        raise DataError(f"{bad.count:,} of the lines cannot be read{detail}", where=str(path), hint=hint)
    columns = {column: f"nullif(trim({name(column)}), '')" for column in names}
    for column, kind in (("history", "VARCHAR[]"), ("time", "BIGINT")):
        if column in columns:
            columns[column] = f"TRY_CAST({columns[column]} AS {kind})"
            _check(connection, path, column, columns[column])
    selected = ", ".join(f"{value} AS {name(column)}" for column, value in columns.items())
    return connection.sql(f"SELECT {selected} FROM {_TABLE} ORDER BY rowid").to_arrow_table()


def _check(connection: Any, path: Path, column: str, typed: str) -> None:
    """Raise a `DataError` about the first value of a column of text that is none of its type."""
    found = connection.execute(
        f"SELECT count(*) OVER (), rowid + 1, {column} FROM {_TABLE} WHERE trim({column}) <> '' AND {typed} IS NULL "
        "ORDER BY rowid LIMIT 1"
    ).fetchone()
    if found is None:
        return
    count, row, value = found
    others = f" ({count:,} are not)" if count > 1 else ""
    where = f"{path}, request {row:,}"
    if column == "time":
        raise DataError(
            f"the time {value!r} is no whole number{others}",
            where=where,
            hint="in the unit of the data that the bundle learned from",
        )
    items = ", ".join(re.findall(r"[^\s,;|\[\]()\"']+", value))
    raise DataError(
        f"the history {value!r} is no list of item ids{others}", where=where, allowed=('"[242, 50]"', '"[]"'),
        hint=f'oldest first, in brackets, separated by commas and quoted: "[{items}]"',
    )  # fmt: skip


@contextmanager
def _parsing(path: Path) -> Iterator[None]:
    """Say what a Parquet or JSON file is not."""
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if path.suffix == ".parquet":
            raise DataError(f"is no Parquet file ({first_sentence(error)})", where=str(path)) from error
        line = _broken_line(path) if path.suffix == ".jsonl" else None
        raise DataError(
            f"is no JSON ({first_sentence(error)})", where=f"{path}:{line}" if line else str(path),
            allowed=[EXAMPLE], hint="one object a line, or a list of objects",
        ) from error  # fmt: skip


def _broken_line(path: Path) -> int | None:
    """The first line that is no JSON object."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    return number
            except ValueError:
                return number
    return None
