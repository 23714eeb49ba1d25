"""Samples with their histories: what the same user did strictly before.

Legend: E events, all users' one after the other, N samples or users of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from llmcf_cli.data.raw import scalar
from llmcf_cli.recipe.dataset import HistorySection

_BATCH_EVENTS = 10_000_000
"""Events in the histories of a batch, at most."""


def build_samples(con: Any, section: HistorySection, *, after: int | None = None, first_id: int = 0) -> None:
    """Create `sample` from `labelled` and `event`: ids by (time, user, item, label, split), and the histories.

    Also creates `latest(user_row, items, times)` of the users of `event`: what the history of a sample after their last
    event would hold.

    A history holds the most recent `max_length` events of the same user with a time smaller than the sample's, oldest
    first; events at the sample's own time are left out, so neither the target nor its ties can be in it. Among earlier
    events at one time the order is that of `place`, as in the split.

    The events of a user stand side by side, so a history is a stretch of them, and is copied out a batch at a time:
    memory holds four bytes per event, and a batch.

    Args:
        con: Connection.
        section: The recipe's `dataset.history`.
        after: Make samples of later times only; None: of all.
        first_id: Id of the first sample; `sample` is in the order of ids.
    """
    events = {"positive": "labelled WHERE label = 1", "all": "event"}[section.events]
    kept = "" if after is None else f"WHERE time > {after}"
    con.execute(
        f"""
        CREATE OR REPLACE TABLE told AS
        SELECT row_number() OVER () AS position, *
        FROM (SELECT user_row, item_row, time, row_number() OVER (PARTITION BY user_row ORDER BY place) AS number
            FROM {events} ORDER BY user_row, number)
        """
    )
    con.execute(
        f"""
        CREATE OR REPLACE TABLE numbered AS
        SELECT row_number() OVER () - 1 + {first_id} AS sample_id, *
        FROM (SELECT s.user_row, s.item_row, s.label, s.time, s.split, coalesce(p.stop, 0) AS stop,
                least(coalesce(p.number, 0), {section.max_length}) AS length
            FROM (FROM labelled {kept}) s ASOF LEFT JOIN
                (SELECT user_row, time, max(position) AS stop, max(number) AS number FROM told GROUP BY ALL) p
                ON s.user_row = p.user_row AND s.time > p.time
            ORDER BY s.time, s.user_row, s.item_row, s.label, s.split)
        """
    )
    item_E = con.execute("SELECT item_row FROM told ORDER BY position").fetchnumpy()["item_row"]
    con.execute(
        "CREATE OR REPLACE TABLE sample AS SELECT * EXCLUDE (stop, length), []::INTEGER[] AS history FROM numbered "
        "LIMIT 0"
    )
    for rows in _batches(con, "numbered", "sample_id", first_id, section.max_length):
        history = _stretches(item_E, rows)
        _insert(con, "sample", rows.drop_columns(["stop", "length"]).append_column("history", history))
    con.execute("DROP TABLE numbered")
    _build_latest(con, section.max_length, item_E)
    con.execute("DROP TABLE told")


def _build_latest(con: Any, longest: int, item_E: np.ndarray) -> None:
    con.execute(
        f"""
        CREATE OR REPLACE TABLE last_told AS
        SELECT row_number() OVER () - 1 AS n, *
        FROM (SELECT user_row, coalesce(max(position), 0) AS stop, least(count(position), {longest}) AS length
            FROM (SELECT DISTINCT user_row FROM event) LEFT JOIN told USING (user_row) GROUP BY user_row
            ORDER BY user_row)
        """
    )
    con.execute("CREATE OR REPLACE TABLE latest (user_row INTEGER, items INTEGER[], times BIGINT[])")
    time_E = con.execute("SELECT time FROM told ORDER BY position").fetchnumpy()["time"]
    for rows in _batches(con, "last_told", "n", 0, longest):
        columns = [rows["user_row"], _stretches(item_E, rows), _stretches(time_E, rows)]
        _insert(con, "latest", pa.table(columns, ["user_row", "items", "times"]))
    con.execute("DROP TABLE last_told")


def _batches(con: Any, table: str, key: str, first: int, longest: int) -> Iterator[pa.Table]:
    """The rows of a table that are numbered by `key` from `first` on, in that order."""
    size, end = max(1, _BATCH_EVENTS // longest), first + scalar(con, f"SELECT count(*) FROM {table}")
    for start in range(first, end, size):
        yield con.sql(f"FROM {table} WHERE {key} >= {start} AND {key} < {start + size} ORDER BY {key}").to_arrow_table()


def _stretches(value_E: np.ndarray, rows: pa.Table) -> pa.ListArray:
    """Of each row of (stop, length) the `length` values that end before place `stop`."""
    stop_N, length_N = (rows[column].to_numpy().astype(np.int64) for column in ("stop", "length"))
    offset_N = np.append(0, np.cumsum(length_N))
    place = np.arange(offset_N[-1]) + np.repeat(stop_N - offset_N[1:], length_N)
    return pa.ListArray.from_arrays(offset_N.astype(np.int32), value_E[place])


def _insert(con: Any, table: str, rows: pa.Table) -> None:
    con.register("batch", rows)
    con.execute(f"INSERT INTO {table} FROM batch")
    con.unregister("batch")
