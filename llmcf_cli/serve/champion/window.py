"""The newest samples with their labels, as requests.

Legend: N samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.types import Clock
from llmcf_cli.features.batch import encode_rows
from llmcf_cli.features.spec import list_parts
from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.tasks.base import ListTask, Task
from llmcf_cli.recipe.promotion import PromoteSection
from llmcf_cli.store.open import connect_read
from llmcf_cli.tabular.sql import scalar

_DAY = 86_400_000_000
"""In microseconds."""


@dataclass(frozen=True)
class Window:
    """Test samples that no model was trained or chosen on.

    Attributes:
        asked: Requests as `serve.requests.to_requests` gives them: user_id, item_id, history (item ids) and time.
        truth: What is so, [N] in their order; items by the rows that `items` has them in.
        items: Ids of the catalogue's items, in the order of their rows, which begin with 1.
        available: Samples of the window; more than N where a part was drawn.
        clock: How times compare.
        first: Time or position of the earliest sample.
        last: Time or position of the latest sample.
    """

    asked: pa.Table
    truth: Truth
    items: pa.Array
    available: int
    clock: Clock
    first: str
    last: str


def newest(database: Path, task: Task, section: PromoteSection) -> Window:
    """The samples that decide about a promotion.

    Args:
        database: What ingest made.
        task: What both bundles predict.
        section: The window, and how many of its samples are drawn at most.

    Raises:
        DataError: There are none, or a window in days is asked for where only positions are known.
        StoreError: The database cannot be read.
    """
    with connect_read(database) as con:
        clock: Clock = scalar(con, "SELECT value FROM meta WHERE key = 'clock'")
        latest = scalar(con, "SELECT max(time) FROM sample WHERE split = 'test'")
        chosen = f"split = 'test' AND ({task.condition})"
        if section.window_days is not None:
            if clock != "global":
                raise DataError("the data have positions instead of times, so there are no days", code="promote-window",
                                where="promote.window_days", hint="leave promote.window_days out")  # fmt: skip
            if latest is not None:
                chosen += f" AND time > {latest - round(section.window_days * _DAY)}"
        available = scalar(con, f"SELECT count(*) FROM sample WHERE {chosen}")
        if available < 2:
            raise DataError(f"the window has {available} samples", code="promote-window", where="promote",
                            hint="raise promote.window_days, or ingest newer rows")  # fmt: skip
        kept = con.sql(f"SELECT sample_id FROM sample WHERE {chosen} ORDER BY sample_id").to_arrow_table()
        if available > section.rows:
            drawn_n = np.random.default_rng(0).choice(available, section.rows, replace=False)
            kept = kept.take(np.sort(drawn_n))
        return _window(con, task, kept, available, clock)


def between(database: Path, task: Task, first: int, last: int) -> Window:
    """All samples of a stretch of time, whatever their split.

    Args:
        database: What ingest made.
        task: What is predicted.
        first: Start of the stretch, in microseconds since 1970.
        last: Its end, which is not of it.
    """
    with connect_read(database) as con:
        chosen = f"time >= {first} AND time < {last} AND ({task.condition})"
        kept = con.sql(f"SELECT sample_id FROM sample WHERE {chosen} ORDER BY sample_id").to_arrow_table()
        return _window(con, task, kept, kept.num_rows, "global")


def _window(con: Any, task: Task, kept: pa.Table, available: int, clock: Clock) -> Window:
    con.register("kept", kept)
    rows = con.sql(
        'SELECT s.*, u.user_id, i.item_id FROM sample s SEMI JOIN kept USING (sample_id) JOIN "user" u '
        "USING (user_row) JOIN item i USING (item_row) ORDER BY sample_id"
    ).to_arrow_table()
    items = con.sql("SELECT item_id FROM item ORDER BY item_row").to_arrow_table()["item_id"].combine_chunks()
    target_N = task.target(con, encode_rows(rows, 1))
    taken_I = _taken(con, len(items)) if isinstance(task, ListTask) else None
    truth = Truth(np.asarray(target_N, np.float32), rows["user_row"].to_numpy(), taken_I)
    bounds = pc.min_max(rows["time"]).as_py()
    return Window(_requests(rows, items, clock), truth, items, available, clock, _shown(bounds["min"], clock),
                  _shown(bounds["max"], clock))  # fmt: skip


def _taken(con: Any, items: int) -> NDArray[np.int64]:
    """How often each item was taken in train, int64 [I + 1]."""
    found = con.execute(
        "SELECT item_row, count(*) AS n FROM sample WHERE split = 'train' AND label > 0.5 GROUP BY item_row"
    ).fetchnumpy()
    taken_I = np.zeros(items + 1, np.int64)
    taken_I[found["item_row"]] = found["n"]
    return taken_I


def _requests(rows: pa.Table, items: pa.Array, clock: Clock) -> pa.Table:
    """Samples as requests."""
    values, length_N = list_parts(rows["history"].combine_chunks())
    offsets = pa.array(np.concatenate([[0], np.cumsum(length_N)]).astype(np.int32))
    history = pa.ListArray.from_arrays(offsets, items.take(pc.subtract(values, 1)))
    time = rows["time"].combine_chunks().cast(pa.int64())
    if clock == "global":
        time = time.cast(pa.timestamp("us", tz="UTC"))
    return pa.table({"user_id": rows["user_id"], "item_id": rows["item_id"], "history": history, "time": time})


def _shown(time: Any, clock: Clock) -> str:
    if clock != "global":
        return str(time)
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)).isoformat(timespec="seconds")
