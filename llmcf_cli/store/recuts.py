"""Later cuts beside a database of ingest: other splits of the same samples, without a copy of them.

    data.base.duckdb   the database under the cuts of before: its file under one more name, or a copy of it
    data.recut.json    the later cuts, and what else is said of them

They stand in the place of `data.duckdb`; `open.connect_read` opens either. The splits of `sample` are computed as it is
read, from its times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.types import Config
from llmcf_cli.store.splits import split_sql
from llmcf_cli.store.tables import INGEST_STEP, META

_MOST_BYTES = 1 << 20


class Step(Config):
    """A row of `ingest_step`."""

    name: str
    """What was done."""
    kept: int
    """Rows after it."""
    dropped: int
    """Rows that it left out."""
    reason: str
    """Why."""


class Recut(Config):
    """Later cuts of a database."""

    validation_from: int
    """Where validation begins, in microseconds since 1970."""
    test_from: int
    """Where test begins, likewise."""
    meta: dict[str, str]
    """Entries of `meta` that are others, or new."""
    step: Step
    """One more row of `ingest_step`."""

    def write(self, database: Path) -> None:
        """Write them for a database, whose base is there."""
        file_of(database).write_text(self.model_dump_json(indent=1))

    def put_before(self, connection: Any) -> None:
        """Let the names `sample`, `meta` and `ingest_step` mean the tables under these cuts.

        Args:
            connection: To the database under the cuts of before; only this connection sees a difference.
        """
        catalog = connection.execute("SELECT current_database()").fetchone()[0].replace('"', '""')
        base = f'"{catalog}".main'
        split = split_sql(self.validation_from, self.test_from)
        connection.execute(f"CREATE TEMP VIEW sample AS SELECT * REPLACE ({split} AS split) FROM {base}.sample")
        meta = dict(connection.execute(f"SELECT key, value FROM {base}.meta").fetchall()) | self.meta
        rows = [{"key": key, "value": value} for key, value in meta.items()]
        connection.register("meta", pa.Table.from_pylist(rows, META.schema))
        steps = connection.sql(f"FROM {base}.ingest_step ORDER BY step").to_arrow_table().to_pylist()
        steps.append({"step": len(steps), **self.step.model_dump()})
        connection.register("ingest_step", pa.Table.from_pylist(steps, INGEST_STEP.schema))


def base_of(database: Path) -> Path:
    """The database that has other cuts than the one of this path."""
    return database.with_suffix(".base.duckdb")


def file_of(database: Path) -> Path:
    """The file with the cuts."""
    return database.with_suffix(".recut.json")


def read_recut(database: Path) -> Recut:
    """The later cuts of a database.

    Raises:
        StoreError: They cannot be read.
    """
    path = file_of(database)
    try:
        return Recut.model_validate(read_json(path, _MOST_BYTES, StoreError))
    except ValidationError as error:
        raise StoreError("holds no cuts", code="store-unreadable", where=str(path), hint="llmcf status") from error
