"""Splits: `placed` → `event`, the same rows with their `split`.

`placed` is `interaction` with `place`, an event's number in its user's order of time. Events at one time are ordered
by a seeded hash, once: splits and histories read that one order.
"""

from __future__ import annotations

from typing import Any, Protocol

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.types import Clock
from llmcf_cli.data.config import GlobalTimeConfig, LeaveOneOutConfig
from llmcf_cli.data.raw import scalar
from llmcf_cli.plugin import Kind
from llmcf_cli.tabular.times import shown_time

_ORDER = "ORDER BY user_row, place"


def place_events(con: Any, seed: int) -> int:
    """Create `placed(user_row, item_row, rating, time, place)` from `interaction`.

    Returns:
        Events that share their user and time with another, so that the seed decided their order.
    """
    con.execute(
        "CREATE OR REPLACE TABLE placed AS SELECT *, (row_number() OVER (PARTITION BY user_row ORDER BY time, "
        f"md5(concat_ws(',', {seed}, user_row, item_row))))::INTEGER AS place FROM interaction"
    )
    tied = "SELECT count(*) AS events FROM placed GROUP BY user_row, time HAVING count(*) > 1"
    return int(scalar(con, f"SELECT coalesce(sum(events), 0) FROM ({tied})"))


class Split(Protocol):
    """A way to split: built with its configuration."""

    def assign(self, con: Any, clock: Clock) -> str:
        """Create `event(user_row, item_row, rating, time, place, split)` from `placed`.

        Returns:
            One line for the report, e.g. where the cuts are.

        Raises:
            DataError: The data cannot be split so.
        """


SPLIT: Kind[Split] = Kind("split")


class GlobalTimeSplit:
    """Train before the first cut in time, validation up to the second, test from there on."""

    def __init__(self, config: GlobalTimeConfig) -> None:
        self._config = config

    def assign(self, con: Any, clock: Clock) -> str:
        """See `Split.assign`. The cuts are those between two different times that come nearest to the shares."""
        if clock != "global":
            raise DataError(
                "the data have no clock shared by all users, only an order within each",
                code="split-clock", where="dataset.split",
                allowed=("leave_one_out",), hint="use `split: {type: leave_one_out}`",
            )  # fmt: skip
        con.execute(
            "CREATE OR REPLACE TEMP TABLE moment AS SELECT time, sum(count(*)) OVER (ORDER BY time)::BIGINT AS upto, "
            "row_number() OVER (ORDER BY time) AS number FROM placed GROUP BY time"
        )
        total, moments = con.execute("SELECT max(upto), count(*) FROM moment").fetchone()
        if moments < 3:
            raise DataError(
                f"the interactions have {moments} different times, and a split by time needs three",
                code="split-impossible", where="dataset.split",
                hint="check dataset.source.columns.time, or use `split: {type: leave_one_out}`",
            )  # fmt: skip
        share = 1 - self._config.validation - self._config.test
        first, number = _nearest(con, total * share, 0, moments - 2)
        second, _ = _nearest(con, total * (1 - self._config.test), number, moments - 1)
        con.execute(
            f"CREATE OR REPLACE TABLE event AS SELECT *, CASE WHEN time <= {first} THEN 'train' "
            f"WHEN time <= {second} THEN 'validation' ELSE 'test' END AS split FROM placed {_ORDER}"
        )
        return f"train up to {shown_time(first)}, validation up to {shown_time(second)} (UTC), test after it"


def _nearest(con: Any, target: float, after: int, last: int) -> tuple[int, int]:
    """The last time, and its number in `after` < number ≤ `last`, of a part that should end at `target` rows."""
    found: tuple[int, int] = con.execute(
        "SELECT time, number FROM moment WHERE number > ? AND number <= ? ORDER BY abs(upto - ?), number LIMIT 1",
        [after, last, target],
    ).fetchone()
    return found


class LeaveOneOutSplit:
    """A user's last event to test, the one before to validation; users with fewer than three events: all train."""

    def __init__(self, config: LeaveOneOutConfig) -> None:
        self._config = config

    def assign(self, con: Any, clock: Clock) -> str:
        """See `Split.assign`."""
        con.execute(
            f"""
            CREATE OR REPLACE TABLE event AS
            SELECT * EXCLUDE events, CASE WHEN events < 3 OR place < events - 1 THEN 'train'
                WHEN place = events THEN 'test' ELSE 'validation' END AS split
            FROM (SELECT *, count(*) OVER (PARTITION BY user_row) AS events FROM placed)
            {_ORDER}
            """
        )
        users, short = con.execute(
            "SELECT count(*), count(*) FILTER (n < 3) FROM (SELECT count(*) AS n FROM placed GROUP BY user_row)"
        ).fetchone()
        if short == users:
            raise DataError(
                "no user has three interactions, so nothing can be left out",
                code="split-impossible", where="dataset.split",
                hint="check dataset.source.columns.user, or lower dataset.k_core",
            )  # fmt: skip
        tied = scalar(
            con,
            "SELECT count(DISTINCT late.user_row) FROM event late JOIN event early USING (user_row, time) "
            "WHERE late.place = early.place + 1 AND late.split <> early.split",
        )
        drawn = f"; of {tied:,} users the last events are at one time, and the seed decided which is left out"
        return f"{short:,} users have fewer than three events, all train" + (drawn if tied else "")
