"""Opening the stores: DuckDB files (one writer or many readers), Parquet tables and LanceDB folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.types import Clock
from llmcf_cli.store.recuts import base_of, file_of, read_recut
from llmcf_cli.store.tables import Table


class BusyError(StoreError):
    """A process holds a file that another one wants to write."""

    code = "store-busy"


_without_code: set[tuple[str, int, int, int, int]] = set()
"""Databases that this process has looked into: (path, inode, size, times of change)."""
_HOLDER = re.compile(r"PID (\d+)")


def connect_read(path: Path) -> Any:
    """A read-only DuckDB connection; to the database under later cuts, where these stand in its place (see `recuts`).

    Raises:
        StoreError: The file is missing, no DuckDB database, damaged, or a writer (named by pid) holds it.
    """
    if path.is_file():
        return _connect(path, read_only=True)
    if not file_of(path).is_file():
        raise StoreError("no such database", code="store-missing", where=str(path), hint="llmcf status")
    recut, base = read_recut(path), base_of(path)
    if not base.is_file():
        raise StoreError("no such database", code="store-missing", where=str(base), hint="llmcf status")
    connection = _connect(base, read_only=True)
    with intact(base):
        recut.put_before(connection)
    return connection


def connect_write(path: Path) -> Any:
    """A writing DuckDB connection; creates the file if it is new.

    Raises:
        StoreError: Another process (named by pid) holds the file, or it is no DuckDB database.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return _connect(path, read_only=False)


def _connect(path: Path, *, read_only: bool) -> Any:
    import duckdb

    new = not path.exists()
    try:
        connection = duckdb.connect(str(path), read_only=read_only)
        # With it, DuckDB 2.0 fails in joins of text columns ("dict-surviving join"), depending on the rows.
        connection.execute("SET disabled_optimizers = 'join_filter_pushdown'")
        if not new:
            refuse_code(connection, path)
        return connection
    except duckdb.Error as error:
        holder = _HOLDER.search(str(error))
        if holder:
            raise BusyError(
                f"in use by process {holder[1]}",
                where=str(path),
                hint=f"wait for process {holder[1]} or stop it",
            ) from error
        what = f"cannot be opened: {str(error).splitlines()[0]}"
        raise StoreError(what, code="store-unreadable", where=str(path), hint=_aside(path)) from error


def refuse_code(connection: Any, path: Path) -> None:
    """Check that no database of a connection brings code: views, macros, computed columns, conditions.

    A stranger's could read files of the user's, or take any time and memory. A process looks into each file once.

    Args:
        connection: Where it, or a copy, is opened or attached.
        path: Its file.

    Raises:
        StoreError: It has one; the connection is closed.
    """
    there = path.stat()
    identity = (str(path), there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns)
    if identity in _without_code:
        return
    found = connection.execute(
        "SELECT 'view' AS kind, view_name AS name FROM duckdb_views() WHERE NOT internal UNION ALL "
        "SELECT 'macro', function_name FROM duckdb_functions() WHERE NOT internal AND function_type LIKE '%macro' "
        "UNION ALL SELECT 'computed column', column_name FROM information_schema.columns WHERE is_generated = 'ALWAYS' "
        "UNION ALL SELECT 'condition on', table_name FROM duckdb_constraints() WHERE constraint_type = 'CHECK' "
        "LIMIT 1"
    ).fetchone()
    if found is not None:
        connection.close()
        kind, name = found
        raise StoreError(
            f"contains the {kind} {name!r:.60}; only tables are read",
            code="store-no-table",
            where=str(path),
            hint=_aside(path),
        )
    _without_code.add(identity)


@contextmanager
def intact(path: Path) -> Iterator[None]:
    """Say of a DuckDB file that it cannot be read, or written, where a query finds that out.

    Raises:
        StoreError: It is damaged, or the disk is full.
    """
    import duckdb

    try:
        yield
    except duckdb.Error as error:
        if isinstance(error, duckdb.ProgrammingError | duckdb.DataError | duckdb.IntegrityError):  # the query's fault
            raise
        what = f"cannot be read: {str(error).splitlines()[0]}"
        raise StoreError(what, code="store-unreadable", where=str(path), hint=_aside(path)) from error


def _aside(path: Path) -> str:
    return f"if it is damaged: mv {path} {path}.damaged; its content is then made again"


def read_meta(path: Path) -> dict[str, str]:
    """The key–value table `meta` of a DuckDB file of ingest."""
    with connect_read(path) as connection:
        return dict(connection.sql("SELECT key, value FROM meta").fetchall())


def read_clock(path: Path) -> Clock:
    """How times are compared in a DuckDB file of ingest."""
    return cast("Clock", read_meta(path)["clock"])


def write_parquet(data: pa.Table, spec: Table, path: Path) -> None:
    """Write `data`, cast to the table's schema, as zstd Parquet.

    Raises:
        StoreError: Columns differ from the schema's or cannot be cast to it.
    """
    try:
        data = data.select(spec.schema.names).cast(spec.schema)
    except (KeyError, pa.ArrowInvalid, ValueError) as error:
        raise StoreError(
            f"rows do not fit the table {spec.name!r}: {error}", code="store-schema", where=str(path)
        ) from error
    pq.write_table(data, path, compression="zstd")


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file as an Arrow table, or only some of its columns.

    Raises:
        StoreError: The file is missing or no Parquet.
    """
    try:
        return pq.read_table(path, columns=list(columns) if columns is not None else None)
    except FileNotFoundError as error:
        raise StoreError("no such table", code="store-missing", where=str(path), hint="llmcf status") from error
    except pa.ArrowInvalid as error:
        raise StoreError(f"cannot be read as Parquet: {error}", code="file-format", where=str(path)) from error


def open_lance(place: Path | str) -> Any:
    """A LanceDB connection. Not fork-safe: never share it with forked processes.

    Args:
        place: A folder, created if new, or an address in object storage, e.g. `s3://BUCKET/FOLDER`.
    """
    os.environ.setdefault("LANCEDB_LOG", "error")  # read at import; its warnings (empty partitions) need no action
    import lancedb

    if isinstance(place, Path):
        place.mkdir(parents=True, exist_ok=True)
    return lancedb.connect(str(place))


def read_lance(place: Path | str, name: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A LanceDB table's rows as Arrow, in stored order; see `open_lance`.

    Raises:
        StoreError: The place or table is missing, or cannot be reached.
    """
    dataset = _lance_table(place, name)
    data: pa.Table = dataset.to_arrow() if columns is None else dataset.search().select(list(columns)).to_arrow()
    return data


def count_lance(place: Path | str, name: str) -> int:
    """How many rows a LanceDB table has.

    Raises:
        StoreError: As `read_lance`.
    """
    return int(_lance_table(place, name).count_rows())


def copy_lance(source: Path | str, name: str, to: str) -> None:
    """Copy a LanceDB table to another place, block by block, unless that has a table of the name.

    Raises:
        StoreError: The table is missing, or a place cannot be reached.
    """
    table = _lance_table(source, name)
    try:
        database = open_lance(to)
        if name not in database.list_tables().tables:
            database.create_table(name, iter(table.search().to_batches()), schema=table.schema)
    except (ValueError, OSError, RuntimeError) as error:
        raise StoreError(
            f"table {name!r} cannot be written: {str(error).splitlines()[0]}", code="store-unwritable", where=to
        ) from error


def _lance_table(place: Path | str, name: str) -> Any:
    if isinstance(place, Path) and not (place / f"{name}.lance").is_dir():
        raise StoreError(f"no table {name!r}", code="store-missing", where=str(place), hint="llmcf status")
    try:
        return open_lance(place).open_table(name)
    except (ValueError, OSError, RuntimeError) as error:
        raise StoreError(
            f"table {name!r} cannot be read: {str(error).splitlines()[0]}", code="store-unreadable", where=str(place)
        ) from error
