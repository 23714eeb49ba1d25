"""Records of Python, as JSON gives them, as a table: nothing is guessed, and a late key loses nothing."""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.place import Place
from llmcf_cli.tabular.lists import NESTED
from llmcf_cli.tabular.sql import name
from llmcf_cli.tabular.table import Table, check_count, distinct_names
from llmcf_cli.tabular.values import WHITE


class RecordTable:
    """Fills a table with records whose keys and kinds of value are known when they come.

    Attributes:
        columns: Key → column.
        notes: About keys that are called otherwise as columns.
        objects: Columns that hold objects → the first record's number.
        count: Records so far.

    Args:
        con: DuckDB connection.
        into: Name of the table.
        origin: Where the records are from, for errors.
        only: Keys to keep; none: all.
    """

    def __init__(self, con: Any, into: str, origin: str, only: Sequence[str] = ()) -> None:
        self._con, self._into, self._origin, self._only, self.count = con, into, origin, only, 0
        self.columns: dict[str, str] = {}
        self._lists: set[str] = set()
        self.notes: tuple[str, ...] = ()
        self.objects: dict[str, int] = {}
        self._new_columns(only)

    def add(self, records: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        """Append (number, record) pairs."""
        if not records:
            return
        self.count += len(records)
        if not self._only:
            keys = dict.fromkeys(key for _, record in records for key in record)
            self._new_columns([key for key in keys if key not in self.columns])
        if not self.columns:  # objects without a key
            self._new_columns([""])
        arrays = {}
        for key, column in self.columns.items():
            values = [_plain(record.get(key)) for _, record in records]
            if column not in self.objects:
                for (number, record), value in zip(records, values, strict=True):
                    if value is not None and _has_object(record[key]):
                        self.objects[column] = number
                        break
            if column not in self._lists and any(isinstance(value, list) for value in values):
                self._to_lists(column)
            if column in self._lists:
                values = [value if value is None or isinstance(value, list) else [value] for value in values]
            arrays[column] = pa.array(values, pa.list_(pa.string()) if column in self._lists else pa.string())
        self._con.register("record_batch", pa.table(arrays))
        chosen = ", ".join(map(name, arrays))
        self._con.execute(f"INSERT INTO {name(self._into)} ({chosen}) SELECT {chosen} FROM record_batch")
        self._con.unregister("record_batch")

    def finish(self) -> None:
        """Make the table if there was no record to make it of."""
        if not self.columns:
            self._new_columns([""])

    def _new_columns(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        check_count(len(self.columns) + len(keys), self._origin)
        found, _ = distinct_names([*self.columns.values(), *(key.strip(WHITE) for key in keys)])
        new = dict(zip(keys, found[len(self.columns) :], strict=True))
        self.notes += tuple(
            f"the key {key!r} is called {column!r}" for key, column in new.items() if key and column != key
        )
        if not self.columns:
            made = ", ".join(f"{name(column)} VARCHAR" for column in new.values())
            self._con.execute(f"CREATE OR REPLACE TABLE {name(self._into)} ({made})")
        else:
            for column in new.values():
                self._con.execute(f"ALTER TABLE {name(self._into)} ADD COLUMN {name(column)} VARCHAR")
        self.columns.update(new)

    def _to_lists(self, column: str) -> None:
        self._lists.add(column)
        quoted = name(column)
        self._con.execute(
            f"ALTER TABLE {name(self._into)} ALTER COLUMN {quoted} TYPE VARCHAR[] "
            f"USING CASE WHEN {quoted} IS NOT NULL THEN [{quoted}] END"
        )


def read_records(con: Any, records: Sequence[Mapping[str, Any]], into: str, origin: str) -> Table:
    """Make the table `into` of records in memory; see `read_json` for its columns."""
    table = RecordTable(con, into, origin)
    kept = [(number, {str(key): value for key, value in record.items()}) for number, record in enumerate(records, 1)]
    try:
        table.add(kept)
    except (ValueError, RecursionError) as error:  # UnicodeEncodeError is one of them
        raise _unwritable(kept, origin) from error
    table.finish()
    return Table(name(into), origin, notes=table.notes, objects=table.objects)


def _unwritable(records: Sequence[tuple[int, Mapping[str, Any]]], origin: str) -> DataError:
    """The error of the first record with a value that no table can hold."""
    for number, record in records:
        for key, value in record.items():
            try:
                json.dumps(_plain(value), ensure_ascii=False).encode()
            except (ValueError, RecursionError) as error:
                what = f"the value of {key!r} cannot be read: {error!s:.120}"
                return DataError(
                    what,
                    code="value-unreadable",
                    where=Place(file=origin, line=number),
                    hint="correct it, or leave it out",
                )
    return DataError(
        "contains values that cannot be read",
        code="value-unreadable",
        where=origin,
        hint="correct them, or leave them out",
    )


def read_arrow(con: Any, rows: pa.Table, into: str, origin: str) -> Table:
    """Make the view `into` of an Arrow table; it lives as long as the table is registered with the connection."""
    columns, notes = distinct_names(rows.column_names)
    con.register(into, rows.rename_columns(columns))
    return Table(name(into), origin, notes=notes)


def _plain(value: Any) -> str | list[str | None] | None:
    """A value as text, or a list of texts."""
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, list | tuple):
        return [_text(part) for part in value]
    return _text(value)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return None if not math.isfinite(value) else repr(value)
    if isinstance(value, list | tuple):
        return NESTED.join(filter(None, map(_text, value)))
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, dt.date | dt.datetime):
        return value.isoformat()
    item = getattr(value, "item", None)  # a number of numpy
    return _text(item()) if callable(item) and not isinstance(item(), type(value)) else str(value)


def _has_object(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list | tuple) and any(map(_has_object, value)))
