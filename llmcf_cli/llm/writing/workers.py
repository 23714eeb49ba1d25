"""Several workers on one cache of generated texts: no call is made twice, and no worker's death loses or blocks one.

DuckDB lets one process write a file. So a worker opens the file for one short transaction at a time, under a lock file
that makes the others wait, and never holds it while a model generates:

1. *Claim.* It writes a lease (table `generation_lease`) for every call of its next batch that is neither finished nor
   set aside nor leased, and makes only these.
2. *Commit.* The texts go in and the leases out in one transaction: a call is leased or finished, never both or neither.

A lease names its worker. A worker holds an operating-system lock on a file of its own for as long as it lives; the
kernel lets go of it however the process ends, SIGKILL included. A lease whose worker's lock can be had is void, and the
next claim removes it. There are no clocks, no heartbeats, and no process ids that could come to mean another process.

Workers are processes of one machine, or of several on a file system that shares locks. Where engines run elsewhere
(an API, actors of a cluster), the process that hands out the batches is the one worker.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from llmcf_cli.core.errors import StoreError
from llmcf_cli.store.open import BusyError, connect_write, intact
from llmcf_cli.store.tables import GENERATION, GENERATION_FAILURE, GENERATION_LEASE, Table

Call = tuple[str, str, str, int]
"""Prompt hash, model digest, decode hash and index of a text: what identifies a call."""

_CALL = pa.schema([GENERATION_LEASE.schema.field(name) for name in GENERATION_LEASE.primary_key])
_KEY = ", ".join(_CALL.names)
_PATIENCE = 300.0  # seconds to wait for the file, which a worker holds for a fraction of one
_STATES = f"""
SELECT {_KEY}, g.text IS NOT NULL, coalesce(f.attempts, 0), coalesce(f.retryable, true), coalesce(f.reason, ''),
       coalesce(l.worker, '')
FROM wanted LEFT JOIN generation g USING ({_KEY}) LEFT JOIN generation_failure f USING ({_KEY})
            LEFT JOIN generation_lease l USING ({_KEY})
"""


@dataclass(frozen=True)
class CallState:
    """What is known of a call.

    Attributes:
        finished: Whether its text is there.
        attempts: How often it has failed.
        retryable: Whether the last failure may pass.
        reason: Of the last failure; empty where there is none.
        worker: Who is making it now; empty: nobody.
    """

    finished: bool
    attempts: int
    retryable: bool
    reason: str
    worker: str

    def is_set_aside(self, tries: int) -> bool:
        """Whether it is not to be made again, with so many tries."""
        return not self.finished and (not self.retryable or self.attempts >= tries)


class SharedTexts:
    """The DuckDB file of generated texts as one of several workers uses it; a context manager.

    Args:
        path: The file; made if it is new, brought up to date if it is of an older version.

    Raises:
        StoreError: On entry, if a process that is no worker (named by pid) holds the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.with_suffix(".workers")
        self._lock = FileLock(self._folder / "transaction.lock", timeout=_PATIENCE)
        self.name = uuid.uuid4().hex
        self._alive = FileLock(self._lock_file(self.name))

    def __enter__(self) -> SharedTexts:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._alive.acquire()
        try:
            with self.transaction(patience=0) as connection:
                _prepare(connection)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave()  # voids the leases that an error or Ctrl-C left

    @contextmanager
    def transaction(self, patience: float = _PATIENCE) -> Iterator[Any]:
        """A writing connection that commits at the end of the block, and rolls back if the block fails.

        Args:
            patience: Seconds to wait for a process that is no worker, e.g. one that reads.

        Raises:
            StoreError: A process (named by pid) does not let go of the file, or it is damaged.
        """
        try:
            self._lock.acquire()
        except Timeout as error:
            raise StoreError(
                f"has been in use by another worker for {_PATIENCE:.0f} s", code="store-busy", where=str(self._path),
                hint="look for a stopped llmcf process and end it",
            ) from error  # fmt: skip
        try:
            with intact(self._path), _connect(self._path, patience) as connection:
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
        finally:
            self._lock.release()

    def states(self, calls: Sequence[Call]) -> dict[Call, CallState]:
        """What is known of each call."""
        with self.transaction() as connection:
            return _states(connection, calls)

    def claim(self, calls: Sequence[Call], tries: int) -> list[Call]:
        """Lease those of some calls that are neither finished, nor set aside, nor being made by a living worker.

        Args:
            calls: What the worker would make next.
            tries: Failures after which a call is set aside.

        Returns:
            What it is to make, in the order of `calls`.
        """
        with self.transaction() as connection:
            self._void_leases(connection)
            known = _states(connection, calls)
            free = [call for call in calls if not (known[call].finished or known[call].worker)]
            mine = [call for call in free if not known[call].is_set_aside(tries)]
            _insert(connection, GENERATION_LEASE, [(*call, self.name) for call in mine])
        return mine

    def commit(self, texts: dict[Call, tuple[Any, ...]], failures: dict[Call, tuple[Any, ...]]) -> None:
        """Store what came of leased calls and end their leases, in one transaction.

        Args:
            texts: The columns of `generation` between its key and `attempts`.
            failures: The columns of `generation_failure` between its key and `attempts`.
        """
        now = int(time.time())
        with self.transaction() as connection:
            calls = [*texts, *failures]
            before = {call: state.attempts for call, state in _states(connection, calls).items()}
            _delete(connection, GENERATION_LEASE, calls)
            _delete(connection, GENERATION_FAILURE, list(texts))
            for table, found in ((GENERATION, texts), (GENERATION_FAILURE, failures)):
                _insert(connection, table, [(*c, *rest, before[c] + 1, now) for c, rest in found.items()])

    def _void_leases(self, connection: Any) -> None:
        """Remove the leases of workers that are no more."""
        for (worker,) in connection.execute("SELECT DISTINCT worker FROM generation_lease").fetchall():
            lock = FileLock(self._lock_file(worker), timeout=0)
            try:
                lock.acquire()
            except Timeout:
                continue  # alive, or this worker itself
            connection.execute("DELETE FROM generation_lease WHERE worker = ?", [worker])
            lock.release()
            self._lock_file(worker).unlink(missing_ok=True)

    def _lock_file(self, worker: str) -> Path:
        return self._folder / f"{worker}.lock"

    def _leave(self) -> None:
        self._alive.release()
        self._lock_file(self.name).unlink(missing_ok=True)


def _connect(path: Path, patience: float) -> Any:
    """A writing connection, as soon as nobody else has one or reads."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return connect_write(path)
        except BusyError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.2)


def _prepare(connection: Any) -> None:
    """Make the tables; texts of a version that kept less about each of them stay."""
    for table in (GENERATION, GENERATION_FAILURE, GENERATION_LEASE):
        connection.execute(table.ddl(create="CREATE TABLE IF NOT EXISTS"))
    columns = [row[0] for row in connection.execute("DESCRIBE generation").fetchall()]
    if columns != GENERATION.schema.names:
        kept = connection.sql("SELECT * FROM generation").to_arrow_table()  # noqa: F841 - read by name below
        connection.execute("DROP TABLE generation")
        connection.execute(GENERATION.ddl())
        connection.execute("INSERT INTO generation BY NAME SELECT * FROM kept")


def _states(connection: Any, calls: Sequence[Call]) -> dict[Call, CallState]:
    with _wanted(connection, calls):
        rows = connection.execute(_STATES).fetchall()
    return {tuple(row[:4]): CallState(*row[4:]) for row in rows}


def _delete(connection: Any, table: Table, calls: Sequence[Call]) -> None:
    with _wanted(connection, calls):
        connection.execute(f"DELETE FROM {table.name} WHERE ({_KEY}) IN (SELECT ({_KEY}) FROM wanted)")


def _insert(connection: Any, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        connection.register("fresh", _arrow(rows, table.schema))
        connection.execute(f"INSERT OR REPLACE INTO {table.name} SELECT * FROM fresh")
        connection.unregister("fresh")


@contextmanager
def _wanted(connection: Any, calls: Sequence[Call]) -> Iterator[None]:
    """Some calls as the table `wanted`."""
    connection.register("wanted", _arrow(calls, _CALL))
    yield
    connection.unregister("wanted")


def _arrow(rows: Sequence[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
    return pa.table([pa.array(column, f.type) for column, f in zip(columns, schema, strict=True)], schema=schema)
