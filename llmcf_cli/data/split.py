"""Splits: `interaction` → `event`, the same rows with `split` and ordered by user, time and item."""

from __future__ import annotations

from typing import Any, Protocol

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data.config import GlobalTimeConfig, LeaveOneOutConfig
from llmcf_cli.data.raw import scalar
from llmcf_cli.data.report import Clock

_ORDER = "ORDER BY user_row, time, item_row"


class Split(Protocol):
    """A way to split: built with its configuration."""

    def assign(self, con: Any, clock: Clock, seed: int) -> str:
        """Create `event(user_row, item_row, rating, time, split)` from `interaction`.

        Returns:
            One line for the report, e.g. where the cuts are.

        Raises:
            DataError: The data cannot be split so.
        """


class GlobalTimeSplit:
    """Train before the first cut in time, validation up to the second, test from there on."""

    def __init__(self, config: GlobalTimeConfig) -> None:
        self._config = config

    def assign(self, con: Any, clock: Clock, seed: int) -> str:
        """See `Split.assign`. The cuts are those between two different times that come nearest to the shares."""
        if clock != "global":
            raise DataError(
                "the data have no clock shared by all users, only an order within each", where="dataset.split",
                allowed=("leave_one_out",), hint="use `split: {type: leave_one_out}`",
            )  # fmt: skip
        con.execute(
            "CREATE OR REPLACE TEMP TABLE moment AS SELECT time, sum(count(*)) OVER (ORDER BY time)::BIGINT AS upto, "
            "row_number() OVER (ORDER BY time) AS number FROM interaction GROUP BY time"
        )
        total, moments = con.execute("SELECT max(upto), count(*) FROM moment").fetchone()
        if moments < 3:
            raise DataError(
                f"the interactions have {moments} different times, and a split by time needs three",
                where="dataset.split", hint="check dataset.source.columns.time, or use `split: {type: leave_one_out}`",
            )  # fmt: skip
        share = 1 - self._config.validation - self._config.test
        first, number = _nearest(con, total * share, 0, moments - 2)
        second, _ = _nearest(con, total * (1 - self._config.test), number, moments - 1)
        con.execute(
            f"CREATE OR REPLACE TABLE event AS SELECT *, CASE WHEN time <= {first} THEN 'train' "
            f"WHEN time <= {second} THEN 'validation' ELSE 'test' END AS split FROM interaction {_ORDER}"
        )
        return f"train up to time {first}, validation up to {second}, test after it"


def _nearest(con: Any, target: float, after: int, last: int) -> tuple[int, int]:
    """The last time, and its number in `after` < number ≤ `last`, of a part that should end at `target` rows."""
    return con.execute(
        "SELECT time, number FROM moment WHERE number > ? AND number <= ? ORDER BY abs(upto - ?), number LIMIT 1",
        [after, last, target],
    ).fetchone()


class LeaveOneOutSplit:
    """A user's last event to test, the one before to validation; users with fewer than three events: all train."""

    def __init__(self, config: LeaveOneOutConfig) -> None:
        self._config = config

    def assign(self, con: Any, clock: Clock, seed: int) -> str:
        """See `Split.assign`. Among a user's events at one time the seed decides which counts as the last."""
        salt = derive_seed(seed, "split", "ties")
        con.execute(
            f"""
            CREATE OR REPLACE TABLE event AS
            SELECT user_row, item_row, rating, time, CASE WHEN events < 3 OR back > 2 THEN 'train'
                WHEN back = 1 THEN 'test' ELSE 'validation' END AS split
            FROM (SELECT *, count(*) OVER (PARTITION BY user_row) AS events, row_number() OVER (
                PARTITION BY user_row ORDER BY time DESC, md5(concat_ws(',', {salt}, user_row, item_row))) AS back
                FROM interaction)
            {_ORDER}
            """
        )
        short = scalar(con, "SELECT count(*) FROM (SELECT 1 FROM interaction GROUP BY user_row HAVING count(*) < 3)")
        if scalar(con, "SELECT count(*) FROM event WHERE split = 'test'") == 0:
            raise DataError(
                "no user has three interactions, so nothing can be left out", where="dataset.split",
                hint="check dataset.source.columns.user, or lower dataset.k_core",
            )  # fmt: skip
        return f"{short:,} users have fewer than three events, all train"
