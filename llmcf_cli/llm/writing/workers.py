"""Several workers on one cache of generated texts: no call is made twice, and no worker's death loses or blocks one.

They share one SQLite file, in transactions of about a millisecond; none is open while a model generates:

1. *Claim.* It writes a lease (table `generation_lease`) for every call of its next batch that is neither finished nor
   set aside nor leased, and makes only these.
2. *Commit.* The texts go in and the leases out in one transaction: a call is leased or finished, never both or neither.

A lease names its worker. A worker holds an operating-system lock on a file of its own for as long as it lives; the
kernel lets go of it however the process ends, SIGKILL included. A lease whose worker's lock can be had is void, and the
next claim removes it. There are no clocks, no heartbeats, and no process ids that could come to mean another process.

Workers are processes of one machine, or of several on a file system that shares locks: hence the rollback journal, as
a write-ahead log needs shared memory. Where engines run elsewhere (an API, actors of a cluster), the process that hands
out the batches is the one worker.

SQLite keeps no checksums. So a text's row has one of its own. All of them and the structure are checked on entry, and a
damaged file is refused, rather than its texts paid for again.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
from filelock import FileLock, Timeout

from llmcf_cli.core.errors import StoreError
from llmcf_cli.store.open import connect_read, intact
from llmcf_cli.store.tables import GENERATION, GENERATION_FAILURE, GENERATION_LEASE, Table

Call = tuple[str, str, str, int]
"""Prompt hash, model digest, decode hash and index of a text: what identifies a call."""

TABLES = (GENERATION, GENERATION_FAILURE, GENERATION_LEASE)
_KEY = ", ".join(GENERATION_LEASE.primary_key)
_TEXT = GENERATION.schema.names[:-1]  # all but their checksum
_KINDS = {pa.string(): str, pa.int32(): int, pa.int64(): int, pa.float64(): float, pa.bool_(): bool}
_PATIENCE = 300.0  # seconds to wait for the file, which a worker holds for a fraction of one
_STATES = f"""
SELECT {_KEY}, g.text IS NOT NULL, coalesce(f.attempts, 0), coalesce(f.retryable, 1), coalesce(f.reason, ''),
       coalesce(l.worker, '')
FROM temp.wanted LEFT JOIN generation g USING ({_KEY}) LEFT JOIN generation_failure f USING ({_KEY})
            LEFT JOIN generation_lease l USING ({_KEY})
"""
_ROWS = """
SELECT prompt_hash, sample_index, text, finish_reason, prompt_tokens, new_tokens FROM generation
WHERE model_digest = ? AND decode_hash = ? AND prompt_hash IN (SELECT value FROM json_each(?))
ORDER BY prompt_hash, sample_index
"""
_WANTED_TEXTS = f"SELECT {_KEY}, text FROM generation JOIN temp.wanted USING ({_KEY})"


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


def count_by(path: Path, model: str) -> int:
    """Texts of a model in a cache; of one that cannot be read, none: whoever opens it is told why.

    Args:
        path: The cache's file.
        model: Digest, or server and name, of the model.
    """
    if not path.is_file():
        return 0
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute("SELECT count(*) FROM generation WHERE model_digest = ?", [model]).fetchone()
    except sqlite3.Error:
        return 0
    return int(rows[0])


class SharedTexts:
    """The SQLite file of generated texts as one of several workers uses it; a context manager.

    Args:
        path: The file; made if it is new. Texts of a DuckDB file of the same name, from before version 2 of this cache,
            are taken over once; that file is then called `….imported`.

    Raises:
        StoreError: On entry, if another process holds the file, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._folder = path.with_suffix(".workers")
        self.name = uuid.uuid4().hex
        self._alive = FileLock(self._lock_file(self.name))
        self._connection: Any = None

    def __enter__(self) -> SharedTexts:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._alive.acquire()
        try:
            with self._told():
                self._connection = _connect(self._path)
            with self.transaction() as connection:
                self._prepare(connection)
            earlier = self._path.with_suffix(".duckdb")
            if earlier != self._path and earlier.is_file():
                with self.transaction() as connection:
                    _take_over(connection, earlier)
                earlier.replace(earlier.with_name(f"{earlier.name}.imported"))
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave()  # voids the leases that an error or Ctrl-C left

    def forget(self, prompts: Collection[str]) -> int:
        """Remove all that came of some prompts, by their digests; their bytes in the file are overwritten.

        Returns:
            Texts that were there.
        """
        self._connection.execute("PRAGMA secure_delete = ON")
        with self.transaction() as connection:
            listed = json.dumps(sorted(prompts))
            gone = [
                connection.execute(
                    f"DELETE FROM {table.name} WHERE prompt_hash IN (SELECT value FROM json_each(?))", [listed]
                ).rowcount
                for table in TABLES
            ]  # fmt: skip
        return int(gone[TABLES.index(GENERATION)])

    def counts(self) -> dict[str, int]:
        """Digest of a prompt → texts of it."""
        with self.transaction() as connection:
            rows = connection.execute("SELECT prompt_hash, count(*) FROM generation GROUP BY prompt_hash").fetchall()
        return dict(rows)

    @contextmanager
    def transaction(self, patience: float = _PATIENCE) -> Iterator[Any]:
        """The connection, in a transaction that ends with the block and is undone if the block fails.

        Args:
            patience: Seconds to wait for other processes.

        Raises:
            StoreError: A process does not let go of the file, or it is damaged, or the disk is full.
        """
        with self._told():
            self._connection.execute(f"PRAGMA busy_timeout = {int(1000 * patience)}")
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

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

    def rows(self, model: str, decode: str, prompts: Sequence[str]) -> list[tuple[Any, ...]]:
        """Prompt, index, text, finish reason, prompt and new tokens of a model's texts with some settings."""
        with self.transaction() as connection:
            found: list[tuple[Any, ...]] = connection.execute(_ROWS, [model, decode, json.dumps(prompts)]).fetchall()
        return found

    def take_in(self, connection: Any, rows: Sequence[tuple[Any, ...]]) -> tuple[int, int, int]:
        """Add texts that were made elsewhere; what is here stays, and what had failed here has not.

        Args:
            connection: In a transaction.
            rows: The columns of `generation` but for its checksum.

        Returns:
            How many are new, are here already, and are others here.
        """
        calls: list[Call] = [row[:4] for row in rows]
        _want(connection, calls)
        here = {tuple(row[:4]): row[4] for row in connection.execute(_WANTED_TEXTS).fetchall()}
        fresh = [row for row in rows if row[:4] not in here]
        _insert(connection, GENERATION, fresh, or_="ABORT")
        _delete(connection, GENERATION_FAILURE, [row[:4] for row in fresh])
        same = sum(here.get(row[:4]) == row[4] for row in rows)
        return len(fresh), same, len(rows) - len(fresh) - same

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
        if self._connection is not None:
            self._connection.close()
        self._alive.release()
        self._lock_file(self.name).unlink(missing_ok=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What SQLite says, in our words."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                what, hint = "another process is using it", "wait for it, or find and end a stopped llmcf process"
                raise StoreError(what, code="store-busy", where=str(self._path), hint=hint) from error
            raise self._unreadable(str(error)) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._unreadable(str(error)) from error

    def _unreadable(self, why: str) -> StoreError:
        hint = f"if it is damaged: mv {self._path} {self._path}.damaged; its texts are then generated again"
        return StoreError(f"cannot be read: {why}", code="store-unreadable", where=str(self._path), hint=hint)

    def _prepare(self, connection: Any) -> None:
        """Make the tables of a new file; check those of another."""
        there = connection.execute("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name").fetchall()
        if not there:
            for table in TABLES:
                connection.execute(table.ddl())
            return
        if [sql for (sql,) in there] != sorted(table.ddl() for table in TABLES):
            raise self._unreadable("its tables are of another version")
        found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self._unreadable(found)
        columns = ", ".join(_TEXT)
        wrong = connection.execute(f"SELECT count(*) FROM generation WHERE checksum IS NOT checksum_of({columns})")
        if count := wrong.fetchone()[0]:
            raise self._unreadable(f"{count:,} texts have changed since they were written")


def _connect(path: Path) -> Any:
    connection = sqlite3.connect(path, isolation_level=None, timeout=_PATIENCE)
    connection.execute("PRAGMA journal_mode = TRUNCATE")
    connection.execute("PRAGMA synchronous = FULL")
    connection.create_function("checksum_of", len(_TEXT), _checksum, deterministic=True)
    connection.execute(f"CREATE TEMP TABLE wanted ({_KEY})")
    return connection


def _checksum(*row: Any) -> int:
    return zlib.crc32("\x1f".join(map(str, row)).encode())


def _take_over(connection: Any, earlier: Path) -> None:
    """Copy the texts and failures of a DuckDB file; what is there already stays."""
    with intact(earlier), connect_read(earlier) as old:
        tables = {name for (name,) in old.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        for table in (GENERATION, GENERATION_FAILURE):
            if table.name not in tables:
                continue
            kept = [row[0] for row in old.execute(f"DESCRIBE {table.name}").fetchall()]
            names = [name for name in table.schema.names if name in kept]
            found = old.execute(f"SELECT {', '.join(names)} FROM {table.name}")
            while rows := found.fetchmany(10_000):
                whole = [dict(zip(names, row, strict=True)) for row in rows]
                ordered = [tuple(row.get(name) for name in _written(table)) for row in whole]
                _insert(connection, table, ordered, or_="IGNORE")


def _states(connection: Any, calls: Sequence[Call]) -> dict[Call, CallState]:
    _want(connection, calls)
    rows = connection.execute(_STATES).fetchall()
    return {tuple(row[:4]): CallState(bool(row[4]), row[5], bool(row[6]), *row[7:]) for row in rows}


def _delete(connection: Any, table: Table, calls: Sequence[Call]) -> None:
    _want(connection, calls)
    connection.execute(f"DELETE FROM {table.name} WHERE ({_KEY}) IN (SELECT {_KEY} FROM temp.wanted)")


def _written(table: Table) -> list[str]:
    return list(_TEXT if table is GENERATION else table.schema.names)


def _insert(connection: Any, table: Table, rows: Sequence[tuple[Any, ...]], *, or_: str = "REPLACE") -> None:
    kinds = [_KINDS[field.type] for field in table.schema]
    rows = [tuple(v if v is None else kind(v) for kind, v in zip(kinds, row, strict=False)) for row in rows]
    if table is GENERATION:
        rows = [(*row, _checksum(*row)) for row in rows]
    places = ", ".join("?" * len(table.schema))
    connection.executemany(f"INSERT OR {or_} INTO {table.name} VALUES ({places})", rows)


def _want(connection: Any, calls: Sequence[Call]) -> None:
    """Put some calls into the table `wanted`."""
    connection.execute("DELETE FROM temp.wanted")
    connection.executemany("INSERT INTO temp.wanted VALUES (?, ?, ?, ?)", calls)
