"""Samples with their histories: what the same user did strictly before."""

from __future__ import annotations

from typing import Any

from llmcf_cli.recipe.sections import HistorySection


def build_samples(con: Any, section: HistorySection, *, after: int | None = None, first_id: int = 0) -> None:
    """Create `sample` from `labelled` and `event`: ids by (time, user, item, label, split), and the histories.

    Also creates `latest(user_row, items, times)` of the users of `event`: what the history of a sample after their last
    event would hold.

    A history holds the most recent `max_length` events of the same user with a time smaller than the sample's, oldest
    first; events at the sample's own time are left out, so neither the target nor its ties can be in it. Among earlier
    events at one time the order is that of `place`, as in the split.

    Args:
        con: Connection.
        section: The recipe's `dataset.history`.
        after: Make samples of later times only; None: of all.
        first_id: Id of the first sample.
    """
    events = {"positive": "labelled WHERE label = 1", "all": "event"}[section.events]
    kept = "" if after is None else f"WHERE time > {after}"
    # A window over the last events of a user holds max_length items per row at most, whatever the user's length.
    con.execute(
        f"""
        CREATE OR REPLACE TABLE past AS
        SELECT user_row, time, list(item_row) OVER recent AS items FROM {events}
        WINDOW recent AS (PARTITION BY user_row ORDER BY place
            ROWS BETWEEN {section.max_length - 1} PRECEDING AND CURRENT ROW)
        QUALIFY row_number() OVER (PARTITION BY user_row, time ORDER BY place DESC) = 1
        """
    )
    con.execute(
        f"""
        CREATE OR REPLACE TABLE sample AS
        SELECT row_number() OVER (ORDER BY s.time, s.user_row, s.item_row, s.label, s.split) - 1 + {first_id}
            AS sample_id,
            s.user_row, s.item_row, s.label, s.time, s.split, coalesce(p.items, []::INTEGER[]) AS history
        FROM (FROM labelled {kept}) s ASOF LEFT JOIN past p ON s.user_row = p.user_row AND s.time > p.time
        """
    )
    con.execute("DROP TABLE past")
    con.execute(
        f"""
        CREATE OR REPLACE TABLE latest AS
        SELECT user_row, coalesce(items, []::INTEGER[]) AS items, coalesce(times, []::BIGINT[]) AS times
        FROM (SELECT DISTINCT user_row FROM event) LEFT JOIN (
            SELECT user_row, list(item_row ORDER BY place) AS items, list(time ORDER BY place) AS times
            FROM (FROM {events} QUALIFY row_number() OVER (PARTITION BY user_row ORDER BY place DESC)
                <= {section.max_length}) GROUP BY user_row) USING (user_row)
        """
    )
