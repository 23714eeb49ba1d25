"""A data set by windows of time: the rows before them as a data set of its own, and those of each window as a file."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.ingest import scratch
from llmcf_cli.data.raw import SOURCE, Locate, Meaning, columns_of, name, scalar, text
from llmcf_cli.plugin import registry
from llmcf_cli.tabular.times import shown_time, with_times

SHARE = 0.8
"""Of the rows that lie before the windows, unless told."""


@dataclass(frozen=True)
class WindowFile:
    """The rows of a window.

    Attributes:
        file: Their file, of Parquet.
        first: Start of the window, in microseconds since 1970.
        last: Its end, which is not of it.
        rows: How many.
    """

    file: Path
    first: int
    last: int
    rows: int


@dataclass(frozen=True)
class Windows:
    """A data set by windows.

    Attributes:
        source: Section `dataset.source` of the rows before the windows, paths relative to the folder.
        before: How many these are.
        windows: Those that have rows, oldest first.
        unread: Lines that no reader could read and rows without a time: they are among the rows before, or nowhere.
    """

    source: Mapping[str, Any]
    before: int
    windows: tuple[WindowFile, ...]
    unread: int


def write_windows(
    source: ComponentConfig, folder: Path, *, locate: Locate, width: int, first: int | None = None,
    last: int | None = None,
) -> Windows:  # fmt: skip
    """Write the tables of a source to a folder, interactions by windows of time.

    Args:
        source: Settings of the source.
        folder: Where to write `base.parquet`, `window-NNN.parquet`, and `items.parquet` and `users.parquet` whole.
        locate: File or folder of a reference.
        width: Of a window, in microseconds.
        first: Start of the first window, in microseconds since 1970; None: four fifths of the rows lie before it.
        last: End of the last; None: that of the rows.

    Raises:
        DataError: The rows have no common clock, or none lie before the windows, or none in them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".windows-") as temporary, scratch(Path(temporary)) as con:
        raw = registry().build(SOURCE, source).load(con, locate)
        if raw.meaning.time is None:
            raise DataError("the rows have positions instead of times", code="split-clock", where="dataset.source",
                            hint="replay needs data with times")  # fmt: skip
        events = raw.tables["interactions"]
        columns = columns_of(con, events.relation)
        timed = with_times(con, f"(FROM {events.relation})", raw.meaning.time, columns[raw.meaning.time],
                           raw.meaning.times)  # fmt: skip
        shown = ", ".join(map(name, columns))
        con.execute(f"CREATE TABLE timed AS SELECT {shown}, time AS replay_moment FROM {timed}")
        start = first
        if start is None:
            start = scalar(con, f"SELECT quantile_disc(replay_moment, {SHARE}) FROM timed")
        low, high = con.execute("SELECT min(replay_moment), max(replay_moment) FROM timed").fetchall()[0]
        if start is None or low >= start or high < start:
            between = (
                "no row has a time" if low is None else f"they range from {shown_time(low)} to {shown_time(high)} (UTC)"
            )
            raise DataError(f"there must be rows before and in the windows: {between}", code="cut-outside",
                            where="--from", hint="choose a time between the two")  # fmt: skip
        end = high + 1 if last is None else min(last, high + 1)
        before = f"replay_moment IS NULL OR replay_moment < {start}"
        _write(con, f"SELECT {shown} FROM timed WHERE {before}", folder / "base.parquet")
        windows = []
        for number in range(1, math.ceil((end - start) / width) + 1):
            low, high = start + (number - 1) * width, min(start + number * width, end)
            chosen = f"replay_moment >= {low} AND replay_moment < {high}"
            rows = scalar(con, f"SELECT count(*) FROM timed WHERE {chosen}")
            if rows:
                file = folder / f"window-{number:03}.parquet"
                _write(con, f"SELECT {shown} FROM timed WHERE {chosen}", file)
                windows.append(WindowFile(file, low, high, rows))
        for role in ("items", "users"):
            if role in raw.tables:
                _write(con, f"FROM {raw.tables[role].relation}", folder / f"{role}.parquet")
        unread = scalar(con, "SELECT count(*) FROM timed WHERE replay_moment IS NULL")
        unread += sum(table.bad.count for table in raw.tables.values())
        found = scalar(con, f"SELECT count(*) FROM timed WHERE {before}")
        return Windows(_source(raw.meaning, list(raw.tables)), found, tuple(windows), unread)


def _write(con: Any, query: str, file: Path) -> None:
    con.execute(f"COPY ({query}) TO {text(str(file))} (FORMAT parquet)")


def _source(meaning: Meaning, roles: list[Any]) -> dict[str, Any]:
    """What a recipe says of the files."""
    columns = {
        "user": meaning.user, "item": meaning.item, "rating": meaning.rating, "time": meaning.time,
        "time_format": meaning.times.format, "time_zone": meaning.times.zone,
    }  # fmt: skip
    return {
        "type": "parquet", **{role: f"{role}.parquet" for role in roles}, "interactions": "base.parquet",
        "columns": {key: value for key, value in columns.items() if value is not None},
        "item_key": meaning.keys["item"], "user_key": meaning.keys["user"], "multi": list(meaning.multi),
        "separator": meaning.separator,
    }  # fmt: skip
