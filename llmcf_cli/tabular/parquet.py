"""Parquet: a file, or a folder of files, as a view, so that nothing is read before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.tabular.files import exactly, reading
from llmcf_cli.tabular.sql import columns_of, name, text
from llmcf_cli.tabular.table import Table, distinct_names
from llmcf_cli.tabular.unpack import MOST_FREE, MOST_TIMES

MOST_ROWS, ROWS_PER_BYTE = 1 << 20, 64
"""Rows that any file may have, and that one may have for each of its bytes: events differ, so they take some."""

MAX_NESTED = 5
"""Lists within each other; planning a query that reads them takes several times as long for each further one."""


def read_parquet(con: Any, path: Path, into: str, rows: int | None = None) -> Table:
    """Make the view `into` of a Parquet file, or of all files `*.parquet` below a folder.

    A column that some files of a folder lack is NULL there.

    Args:
        con: DuckDB connection.
        path: The file or the folder.
        into: Name of the view.
        rows: Read this many rows and no more; None: all.

    Raises:
        DataError: A file is no Parquet file, or the folder has none.
    """
    files = sorted(p for p in path.rglob("*.parquet") if p.is_file()) if path.is_dir() else [path]
    if not files:
        raise DataError(
            "contains no .parquet file",
            code="source-files",
            where=str(path),
            hint="name the file or folder that contains the table",
        )
    listed = ", ".join(text(exactly(file)) for file in files)
    relation = f"read_parquet([{listed}]{', union_by_name = true' if len(files) > 1 else ''})"
    limit = "" if rows is None else f" LIMIT {rows}"
    for file in files:
        check_size(file)
    with reading(path):
        con.execute(f"CREATE OR REPLACE VIEW {name(into)} AS SELECT * FROM {relation}{limit}")
        found = columns_of(con, name(into))
    for column, kind in found.items():
        if "[]" * (MAX_NESTED + 1) in kind:
            raise DataError(
                f"the column {column!r:.80} nests lists more than {MAX_NESTED} deep",
                code="column-nested", where=str(path), hint="flatten the column, or leave it out of the file",
            )  # fmt: skip
    return Table(name(into), str(path), notes=_renamed(files[0], list(found)))


def check_size(file: Path) -> None:
    """Refuse a file that says of itself that it stands for far more than its bytes, by its footer.

    Raises:
        DataError: It does.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as opened:
            footer = opened.metadata
            groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
            rows, unpacked = footer.num_rows, sum(group.total_byte_size for group in groups)
    except (pa.ArrowException, OSError):
        return  # its reader says what is wrong
    size = file.stat().st_size
    hint = "if that is as it should be, write it again without compression, or as CSV"
    if rows > max(MOST_ROWS, ROWS_PER_BYTE * size):
        raise DataError(f"claims {rows:,} rows in {size:,} bytes", code="unpack-limit", where=str(file), hint=hint)
    if unpacked > max(MOST_FREE, MOST_TIMES * size):
        raise DataError(
            f"unpacks to more than {MOST_TIMES} times its size", code="unpack-limit", where=str(file), hint=hint
        )


def _renamed(file: Path, found: list[str]) -> tuple[str, ...]:
    """Notes about columns that DuckDB calls otherwise, as their names differ in case alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        written = pq.read_schema(file).names
    except (pa.ArrowException, OSError):
        return ()
    if len(distinct_names(written)[1]) == 0:
        return ()
    return tuple(
        f"column {place}, {column!r}, is called {new!r}"
        for place, (column, new) in enumerate(zip(written, found, strict=False), 1) if column != new
    )  # fmt: skip
