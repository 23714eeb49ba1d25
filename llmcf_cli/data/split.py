"""Splits: `placed` → `event`, the same rows with their `split`.

`placed` is `interaction` with `place`, an event's number in its user's order of time. Events at one time are ordered
by a seeded hash of their ids, once: splits and histories read that one order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.config import FixedCutConfig, GlobalTimeConfig, LeaveOneOutConfig
from llmcf_cli.data.cut import Cuts, read_cuts
from llmcf_cli.data.raw import Meaning, scalar
from llmcf_cli.plugin import Kind
from llmcf_cli.tabular.times import shown_time

_ORDER = "ORDER BY user_row, place"


def place_events(con: Any, seed: int) -> int:
    """Create `placed` from `interaction`: the same with the column `place`.

    Returns:
        Events that share their user and time with another, so that the seed decided their order.
    """
    con.execute(
        "CREATE OR REPLACE TABLE placed AS SELECT *, (row_number() OVER (PARTITION BY user_row ORDER BY time, "
        f"md5(concat_ws(',', {seed}, pair))))::INTEGER AS place FROM interaction"
    )
    tied = "SELECT count(*) AS events FROM placed GROUP BY user_row, time HAVING count(*) > 1"
    return int(scalar(con, f"SELECT coalesce(sum(events), 0) FROM ({tied})"))


@dataclass(frozen=True)
class Assigned:
    """What a split did.

    Attributes:
        line: For the report, e.g. where the cuts are.
        cuts: The cuts that gave every event its split; later rows are split by the same ones. None: the split is by
            something else, so rows cannot be added later.
    """

    line: str
    cuts: Cuts | None = None


class Split(Protocol):
    """A way to split: built with its configuration."""

    def assign(self, con: Any, meaning: Meaning) -> Assigned:
        """Create `event`, which is `placed` with the column `split`.

        Args:
            con: DuckDB connection.
            meaning: What the columns of the interactions mean, their clock among it.

        Raises:
            DataError: The data cannot be split so.
        """


SPLIT: Kind[Split] = Kind("split")


class GlobalTimeSplit:
    """Train before the first cut in time, validation up to the second, test from there on."""

    def __init__(self, config: GlobalTimeConfig) -> None:
        self._config = config

    def assign(self, con: Any, meaning: Meaning) -> Assigned:
        """See `Split.assign`. The cuts are those between two different times that come nearest to the shares."""
        _require_clock(meaning)
        con.execute(
            "CREATE OR REPLACE TEMP TABLE moment AS SELECT time, sum(count(*)) OVER (ORDER BY time)::BIGINT AS upto, "
            "row_number() OVER (ORDER BY time) AS number FROM placed GROUP BY time"
        )
        total, moments = con.execute("SELECT max(upto), count(*) FROM moment").fetchone()
        if moments < 3:
            raise DataError(
                f"the interactions have {moments} different times, but a split by time needs three",
                code="split-impossible", where="dataset.split",
                hint="check dataset.source.columns.time, or use `split: {type: leave_one_out}`",
            )  # fmt: skip
        share = 1 - self._config.validation - self._config.test
        first, number = _nearest(con, total * share, 0, moments - 2)
        second, _ = _nearest(con, total * (1 - self._config.test), number, moments - 1)
        cuts = Cuts(first + 1, second + 1)
        cut_events(con, cuts)
        line = f"train up to {shown_time(first)}, validation up to {shown_time(second)} (UTC), test after it"
        return Assigned(line, cuts)


class FixedCutSplit:
    """Train before the first cut in time, validation up to the second, test from there on."""

    def __init__(self, config: FixedCutConfig) -> None:
        self._config = config

    def assign(self, con: Any, meaning: Meaning) -> Assigned:
        """See `Split.assign`."""
        _require_clock(meaning)
        written = {"validation_from": self._config.validation_from, "test_from": self._config.test_from}
        cuts = read_cuts(con, written, meaning.times, "dataset.split")
        first, last, before = con.execute(
            f"SELECT min(time), max(time), count(*) FILTER (time < {cuts.validation_from}) FROM placed"
        ).fetchone()
        if before == 0 or last < cuts.validation_from:
            raise DataError(
                f"all interactions are {'after' if before == 0 else 'before'} validation_from, "
                f"{shown_time(cuts.validation_from)}: they range from {shown_time(first)} to {shown_time(last)} (UTC)",
                code="cut-outside", where="dataset.split.validation_from",
                hint="choose a time between the two; rows of dataset.added come later and do not count",
            )  # fmt: skip
        cut_events(con, cuts)
        return Assigned(str(cuts), cuts)


def cut_events(con: Any, cuts: Cuts) -> None:
    """Create `event` from `placed`, split by the cuts."""
    con.execute(f"CREATE OR REPLACE TABLE event AS SELECT *, {cuts.split()} AS split FROM placed {_ORDER}")


def _require_clock(meaning: Meaning) -> None:
    if meaning.clock != "global":
        raise DataError(
            "the data have no times that compare between users, only an order within each user",
            code="split-clock", where="dataset.split",
            allowed=("leave_one_out",), hint="use `split: {type: leave_one_out}`",
        )  # fmt: skip


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

    def assign(self, con: Any, meaning: Meaning) -> Assigned:
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
                "no user has three interactions, so there is nothing to leave out",
                code="split-impossible", where="dataset.split",
                hint="check dataset.source.columns.user, or lower dataset.k_core",
            )  # fmt: skip
        tied = scalar(
            con,
            "SELECT count(DISTINCT late.user_row) FROM event late JOIN event early USING (user_row, time) "
            "WHERE late.place = early.place + 1 AND late.split <> early.split",
        )
        drawn = f"; for {tied:,} users the last events are at the same time, and the seed chose which to leave out"
        return Assigned(f"{short:,} users have fewer than three events, all in train" + (drawn if tied else ""))
