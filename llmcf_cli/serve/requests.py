"""Requests as users write them, in files or in memory, read by the readers and conversions that ingest uses."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.types import Clock
from llmcf_cli.serve.plain import plain_ids, plain_requests
from llmcf_cli.tabular.csv import DELIMITERS, Dialect, first_line, read_csv
from llmcf_cli.tabular.jsonl import read_json
from llmcf_cli.tabular.lists import as_list, parse_lists
from llmcf_cli.tabular.parquet import read_parquet
from llmcf_cli.tabular.records import read_arrow, read_records
from llmcf_cli.tabular.sql import columns_of, name, scalar
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import PROBLEMS, TimeFormat, as_position, with_times
from llmcf_cli.tabular.unpack import PACKED, plain_suffix
from llmcf_cli.tabular.values import as_id, is_text, present

NEEDED = ("user_id", "item_id")
COLUMNS = (*NEEDED, "history (optional)", "time (optional)")
HISTORIES = ('["242", "50"]', "[]")
"""What a history looks like."""
MAX_HISTORY = 200_000
"""Characters of a history that is written as a text."""
MAX_ID = 100_000
"""Bytes of an id."""
_SHOWN = 120
_JSON = (".jsonl", ".json", ".ndjson")
_ENDINGS = (".csv", *_JSON, ".parquet", ".tsv")
_TABLE, _LISTS = "request", "history_list"

Rows: TypeAlias = pa.Table | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class RequestForm:
    """How requests to a bundle write times: as its data do.

    Attributes:
        clock: `global`: times are times; `per_user`: they are positions, whole numbers.
        times: How times are written.
    """

    clock: Clock = "global"
    times: TimeFormat = TimeFormat()


def read_requests(path: Path, form: RequestForm) -> pa.Table:
    """Requests from a file, by its ending: CSV, TSV, JSON lines, one JSON array, Parquet; `.gz` and `.zst` too.

    Returns:
        See `to_requests`.

    Raises:
        DataError: There is no such file, its ending is unknown, a line of it does not parse, or see `to_requests`.
    """
    import duckdb

    suffix = plain_suffix(path)
    if suffix not in _ENDINGS:
        what = f"cannot read {path.suffix or 'this kind of'} file"
        raise DataError(
            what, code="file-ending", where=str(path), allowed=[*_ENDINGS, *(f"….jsonl{end}" for end in PACKED)]
        )
    if kind_of(path) != "file":
        raise DataError("no such file", code="path-missing", where=str(path))
    with _own_errors(path), duckdb.connect() as con:
        con.execute("SET enable_progress_bar = false")  # it would be printed among the scores
        if suffix == ".parquet":
            table = read_parquet(con, path, _TABLE)
        elif suffix in _JSON:
            table = read_json(con, path, _TABLE)
        else:
            table = _read_csv(con, path)
        if table.bad.count:
            detail = "".join(f"\n  {sample}" for sample in table.bad.samples)
            hint = table.remedy or "correct them; quote values that contain the delimiter, such as histories in CSV"
            raise DataError(
                f"{table.bad.count:,} of the lines cannot be read{detail}",
                code="rows-unusable",
                where=str(path),
                hint=hint,
            )
        return _require_items(_converted(con, table, form), str(path))


@contextmanager
def _own_errors(path: Path) -> Iterator[None]:
    """Say so where requests take more memory than there is."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise DataError(
            "needs more memory than there is",
            code="memory-full",
            where=str(path),
            hint="split the file, and score the parts",
        ) from error


def to_requests(rows: Rows, form: RequestForm) -> pa.Table:
    """Requests from memory.

    Args:
        rows: An Arrow table, or mappings, with user_id, item_id and, if there are any, history and time.
        form: How times are written.

    Returns:
        In the order of the rows: `user_id` and `item_id` (string), as ingest has ids; `history` (list of string), null
        where there is none; `time` (timestamp[us, UTC], of positions int64), null where there is none.

    Raises:
        DataError: A column is missing, a request has no item, an id or history is none, or a time is not of the form.
    """
    return _require_items(_requests(rows, form), "requests")


def to_users(rows: Rows, form: RequestForm) -> pa.Table:
    """Requests about users alone, from memory: what `to_requests` gives, with no `item_id`, whatever the rows have."""
    if isinstance(rows, pa.Table):
        kept = [column for column in rows.column_names if column != "item_id"]
        return _requests(rows.select(kept).append_column("item_id", pa.nulls(rows.num_rows, pa.string())), form)
    return _requests([{"history": None, "time": None, **row, "item_id": None} for row in rows], form)


def _requests(rows: Rows, form: RequestForm) -> pa.Table:
    """What `to_requests` gives, whether or not each has an item."""
    if not isinstance(rows, pa.Table) and (plain := plain_requests(rows, form.clock == "per_user")) is not None:
        return plain
    return converted(rows, form)


def converted(rows: Rows, form: RequestForm) -> pa.Table:
    """`to_requests` by the readers of tables alone."""
    con = _connection()
    try:
        if isinstance(rows, pa.Table):
            table = read_arrow(con, rows, _TABLE, "requests")
        else:
            table = read_records(con, rows, _TABLE, "requests")
        return _converted(con, table, form)
    finally:
        con.unregister(_TABLE)
        for made in (_TABLE, _LISTS):
            con.execute(f"DROP TABLE IF EXISTS {made}")


@dataclass(frozen=True)
class Lists:
    """Users, each with a list of candidates; N candidates of all lists together.

    Attributes:
        users: `user_id`, `history` and `time` of each list, as `to_requests` gives them.
        item_ids: string [N], the candidates list by list.
        list_N: int64 [N], which list each candidate is of.
    """

    users: pa.Table
    item_ids: pa.Array
    list_N: NDArray[np.int64]

    @classmethod
    def of_pairs(cls, asked: pa.Table) -> Lists:
        """Requests of `to_requests` as lists of one candidate each."""
        return cls(asked, asked["item_id"].combine_chunks(), np.arange(asked.num_rows))


def to_lists(rows: Sequence[Mapping[str, Any]], form: RequestForm) -> Lists:
    """Users with lists of candidates from memory; what they have in common is read once per list.

    Args:
        rows: Mappings with user_id, `candidates` (item ids) and, if there are any, history and time.
        form: How times are written.

    Raises:
        DataError: See `to_requests`; or a candidate has no id.
    """
    heads = [{"user_id": row["user_id"], "item_id": None, "history": row.get("history"), "time": row.get("time")}
             for row in rows]  # fmt: skip
    users = _requests(heads, form)
    item_ids = to_ids([item for row in rows for item in row["candidates"]], "candidates")
    list_N = np.repeat(np.arange(len(rows)), [len(row["candidates"]) for row in rows])
    return Lists(users, item_ids, list_N)


def to_ids(values: Sequence[Any], where: str) -> pa.Array:
    """Ids from memory as ingest has them, string [n].

    Args:
        values: As users write them.
        where: What they are, to be named.

    Raises:
        DataError: One is none.
    """
    ids = plain_ids(values)
    if ids is None:
        ids = converted([{"user_id": None, "item_id": item} for item in values], RequestForm())["item_id"]
        ids = ids.combine_chunks()
    if ids.null_count:
        raise DataError(f"{ids.null_count:,} {where} have no id", code="request-value", where=where,
                        hint="an id must be a text or a whole number")  # fmt: skip
    return ids


_OWN = threading.local()


def _connection() -> Any:
    """This thread's connection for requests in memory: making one costs more than what it is used for."""
    import duckdb

    if not hasattr(_OWN, "connection"):
        _OWN.connection = duckdb.connect(config={"threads": 1})
    return _OWN.connection


def _read_csv(con: Any, path: Path) -> Table:
    """A CSV file; the delimiter is the one that splits its first line into most columns."""
    marks = {mark: len(first_line(path, Dialect(mark, '"')).cells) for mark in DELIMITERS}
    return read_csv(con, path, _TABLE, Dialect(max(marks, key=lambda mark: marks[mark]), '"'))


def _converted(con: Any, table: Table, form: RequestForm) -> pa.Table:
    con.execute("SET TimeZone = 'UTC'")
    types = columns_of(con, table.relation)
    _require_columns(list(types), table.origin)
    for column in (*NEEDED, "history", "time"):
        if column in table.objects:
            what = f"{column} holds an object instead of {'ids' if column == 'history' else 'a value'}"
            where = f"{table.origin}:{table.objects[column]}"
            raise DataError(what, code="value-object", where=where, allowed=HISTORIES if column == "history" else ())
    _check_ids(con, table, types)
    picked = {column: (name(column), types[column]) for column in (*NEEDED, "history", "time") if column in types}
    for column in ("history", "time"):
        picked.setdefault(column, ("CAST(NULL AS VARCHAR)", "VARCHAR"))
    chosen = ", ".join(f"{sql} AS {column}_given" for column, (sql, _) in picked.items())
    rows = f"(SELECT row_number() OVER () AS request, {chosen} FROM {table.relation})"
    kinds = {column: kind for column, (_, kind) in picked.items()}
    if "time" not in types:
        rows = f"(SELECT *, CAST(NULL AS BIGINT) AS time, CAST(NULL AS VARCHAR) AS time_problem FROM {rows})"
    elif form.clock == "global":
        rows = with_times(con, rows, "time_given", kinds["time"], form.times)
    else:
        place = as_position("time_given", kinds["time"])
        rows = f"(SELECT *, {place} AS time, CAST(NULL AS VARCHAR) AS time_problem FROM {rows})"
    parsed = None
    if is_text(kinds["history"]) and "history" in types:
        parsed = _LISTS
        _check_length(con, table)
        parse_lists(con, table.relation, "history", parsed)
    values = {column: as_id(f"{column}_given", kinds[column]) for column in NEEDED}
    given = present("history_given", kinds["history"]) if is_text(kinds["history"]) else "history_given"
    values["history"] = (
        f"CASE WHEN {given} IS NOT NULL THEN {as_list('history_given', kinds['history'], None, parsed)} END"
    )
    made = ", ".join(f"{sql} AS {column}" for column, sql in values.items())
    shown = ", ".join(f"{present(f'{column}_given', kind)} AS {column}_shown" for column, kind in kinds.items())
    time = "make_timestamptz(time)" if form.clock == "global" else "time"
    found = con.sql(
        f"SELECT user_id, item_id, history, {time} AS time, time_problem, * LIKE '%_shown' "
        f"FROM (SELECT request, time, time_problem, {made}, {shown} FROM {rows}) ORDER BY request"
    ).to_arrow_table()
    _check(found, table.origin, form)
    return found.select([*NEEDED, "history", "time"])


def _check_ids(con: Any, table: Table, types: Mapping[str, str]) -> None:
    """Raise a `DataError` about ids that are too long to be any: in Parquet a few bytes may stand for many such."""
    for column in NEEDED:
        if is_text(types[column]):
            longest = scalar(con, f"SELECT max(strlen({name(column)})) FROM {table.relation}") or 0
            if longest > MAX_ID:
                raise DataError(f"a {column} has {longest:,} bytes; at most {MAX_ID:,} are allowed",
                        code="request-value", where=table.origin)  # fmt: skip


def _check_length(con: Any, table: Table) -> None:
    """Raise a `DataError` about the first history written as a text that is too long to take apart in time."""
    long = f"length(history) > {MAX_HISTORY}"
    found = con.execute(
        f"SELECT request, length(history) FROM (SELECT row_number() OVER () AS request, history FROM {table.relation}) "
        f"WHERE {long} ORDER BY request LIMIT 1"
    ).fetchone()
    if found is not None:
        what = f"the history has {found[1]:,} characters; at most {MAX_HISTORY:,} are allowed"
        hint = "give only the latest events: the model reads no more"
        raise DataError(what, code="request-value", where=f"{table.origin}, request {found[0]:,}", hint=hint)


def _short(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}…"


def _require_columns(found: Sequence[str], where: str) -> None:
    lacking = [column for column in NEEDED if column not in found]
    if not lacking:
        return
    near = {column: closest(column, found) for column in lacking}
    renamed = ", ".join(f"{there} to {column}" for column, there in near.items() if there)
    names = " and ".join(f'"{column}"' for column in lacking)
    raise DataError(
        f"requests lack the column{'s' * (len(lacking) > 1)} {names}; found: {', '.join(found)}",
        code="column-missing", where=where,
        allowed=COLUMNS, hint=f"rename {renamed}" if renamed else "give each request a user and an item",
    )  # fmt: skip


def _require_items(found: pa.Table, origin: str) -> pa.Table:
    """The requests, if each has an item."""
    none = pc.indices_nonzero(found["item_id"].is_null())
    if len(none):
        raise DataError(
            f"{len(none):,} of {found.num_rows:,} requests have no item_id", code="request-value",
            where=f"{origin}, request {none[0].as_py() + 1:,}",
            hint="leave them out, or give each an item: a request scores one item for a user",
        )  # fmt: skip
    return found


def _check(found: pa.Table, origin: str, form: RequestForm) -> None:
    """Raise a `DataError` about the first value that is there and cannot be read."""
    for column in (*NEEDED, "history", "time"):
        shown = found[f"{column}_shown"]
        bad = pc.indices_nonzero(pc.and_(shown.is_valid(), found[column].is_null()))
        if len(bad) == 0:
            continue
        request = bad[0].as_py()
        value, problem = _short(shown[request].as_py()), found["time_problem"][request].as_py()
        others = f" ({len(bad):,} are not)" if len(bad) > 1 else ""
        where = f"{origin}, request {request + 1:,}"
        if column == "history":
            items = ", ".join(f'"{item}"' for item in re.findall(r"[^\s,;|\[\]()\"'{}]+", value))
            what = f"the history {value!r} is not a list of item ids{others}"
            raise DataError(
                what,
                code="request-value",
                where=where,
                allowed=HISTORIES,
                hint=f"write ids oldest first, separated by commas: [{items}]",
            )
        if column == "time":
            what, hint = _about_time(problem, form)
            raise DataError(f"the time {value!r} {what}{others}", code="request-value", where=where, hint=hint)
        raise DataError(
            f"the {column} {value!r} is not a valid id{others}",
            code="request-value",
            where=where,
            hint="an id must be a text or a whole number",
        )


def _about_time(problem: str | None, form: RequestForm) -> tuple[str, str]:
    if form.clock == "per_user":
        return "is not a position", "a position must be a whole number, as in the bundle's training data"
    unit = f", or a number of {form.times.unit} since 1970" if form.times.unit else ""
    also = "" if form.times.format in (None, form.times.unit) else f", or as {form.times.format}"
    said = PROBLEMS[problem or "format"].removeprefix("the time ")
    return said, f"write times in ISO 8601, e.g. 2020-01-31 12:00:00+01:00{unit}{also}"
