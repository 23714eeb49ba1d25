"""Checks and filters between what was read and the tables: ids, numbers, times, duplicates, k-core.

Leaves the tables `clean(user_id, item_id, rating, time)`, `item_feature(item_id, …)` and `user_feature(user_id, …)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.cast import (
    WORDS,
    bad_values,
    cast_interactions,
    problem_counts,
    time_notes,
    time_warnings,
    too_many,
    whole_float_notes,
)  # fmt: skip
from llmcf_cli.data.raw import Meaning, RawData, reading, scalar
from llmcf_cli.data.remedies import remedy, unread_format
from llmcf_cli.data.report import Alarm, Note, StepLog
from llmcf_cli.tabular.times import ORDERS, count_reading


def clean_interactions(con: Any, raw: RawData, *, needs_rating: bool, max_bad_rows: float, log: StepLog) -> None:
    """Create `clean`: rows with ids, a time and a rating that are what they should be, each (user, item, time) once.

    `time` is BIGINT: microseconds since 1970 in UTC, or the position.

    Args:
        needs_rating: Whether a row without a rating is unusable.
        max_bad_rows: Share of unusable rows past which to stop.
        log: Gets the steps `read`, `check values` and `drop duplicates`, and notes.

    Raises:
        DataError: Too many rows are unusable, ratings are needed and there are none, or nothing is left.
    """
    table, meaning = raw.tables["interactions"], raw.meaning
    where = table.origin
    if needs_rating and meaning.rating is None:
        raise DataError(
            "has no ratings, but the label needs them", code="ratings-missing", where=where,
            hint=f"name the rating column in {meaning.settings or 'dataset.source.columns'}.rating, "
            "or use `label: {type: implicit}`",
        )  # fmt: skip
    with reading(where):
        cast_interactions(con, table, meaning, needs_rating=needs_rating)
    lost, bad, problems = table.bad, bad_values(con), problem_counts(con)
    read = scalar(con, "SELECT count(*) FROM checked")
    if read + lost.count == 0:
        raise DataError(
            "has no rows", code="data-empty", where=where, hint="check dataset.source and dataset.filter in the recipe"
        )
    if lost.count + bad.count > max_bad_rows * (read + lost.count):
        worst = next(iter(problems), "lines")
        worst = "lines" if lost.count > problems.get(worst, 0) else worst
        raise too_many(lost, bad, read + lost.count, max_bad_rows, where, remedy(con, worst, raw))
    log.add("read interactions", read, lost.count, "lines that do not parse", lost.samples)
    reasons = "; ".join(f"{WORDS[problem]}: {count:,}" for problem, count in sorted(problems.items()))
    log.add("check values", read - bad.count, bad.count, reasons or "all values are as they should be", bad.samples)
    log.alarms += _swapped(con, problems, meaning)
    notes = list(table.notes)
    ids = {"user": ("user_id", "user_whole"), "item": ("item_id", "item_whole")}
    notes += whole_float_notes(con, "checked", ids)
    if meaning.time is not None:
        log.times = count_reading(con, "(FROM checked WHERE problem IS NULL)", meaning.times)
        notes += [*time_notes(log.times), *time_warnings(con, table, meaning, log.times)]
    log.notes += [Note("interactions", note) for note in notes]
    con.execute(
        "CREATE OR REPLACE TABLE clean AS SELECT user_id, item_id, max(rating) AS rating, time FROM checked "
        "WHERE problem IS NULL GROUP BY user_id, item_id, time"
    )
    con.execute("DROP TABLE checked")
    kept = scalar(con, "SELECT count(*) FROM clean")
    stays = "" if meaning.rating is None else "; the highest rating stays"
    log.add("drop duplicates", kept, read - bad.count - kept, f"same user, item and time{stays}")


def _swapped(con: Any, problems: Mapping[str, int], meaning: Meaning) -> Iterator[Alarm]:
    """That the times which could not be read are all of another format: those that were read may be misread."""
    other = unread_format(con, meaning) if problems.get("format") and meaning.times.format in ORDERS else None
    if other is not None:
        yield Alarm(
            "other_format", f"{meaning.order} is read as {meaning.times.format}, but there is {other[0]}, {other[1]}: "
            "the times that were read likely have day and month swapped",
            f"set {meaning.settings}.time_format: {other[0]}" if meaning.settings else "",
        )  # fmt: skip


def sample_users(con: Any, most: int | None, seed: int, log: StepLog) -> None:
    """Keep `most` users in `clean`, those with the least seeded hash of their id; None keeps all."""
    if most is None:
        return
    before = scalar(con, "SELECT count(*) FROM clean")
    con.execute(
        f"DELETE FROM clean WHERE user_id NOT IN (SELECT user_id FROM clean GROUP BY user_id "
        f"ORDER BY md5(concat_ws(',', {seed}, user_id)), user_id LIMIT {most})"
    )
    kept, users = con.execute("SELECT count(*), count(DISTINCT user_id) FROM clean").fetchone()
    log.add("sample users", kept, before - kept, f"{users:,} users drawn at random; dataset.max_users is {most:,}")


def k_core(con: Any, user_least: int, item_least: int, log: StepLog) -> None:
    """Drop users and items with too few interactions from `clean`, again and again until none is left to drop.

    Raises:
        DataError: Nothing is left.
    """
    before = kept = scalar(con, "SELECT count(*) FROM clean")
    rounds, last = 0, -1
    while kept != last:
        last, rounds = kept, rounds + 1
        for column, least in (("user_id", user_least), ("item_id", item_least)):
            if least > 1:
                con.execute(
                    f"DELETE FROM clean WHERE {column} IN "
                    f"(SELECT {column} FROM clean GROUP BY {column} HAVING count(*) < {least})"
                )
        kept = scalar(con, "SELECT count(*) FROM clean")
    reason = f"fewer than {user_least} per user or {item_least} per item; stable after {rounds} rounds"
    log.add("k-core", kept, before - kept, reason if max(user_least, item_least) > 1 else "no filter")


def assign_rows(con: Any, log: StepLog) -> None:
    """Number users and items from 1 in the order of their ids, and create `interaction` with those numbers.

    Creates `user_number(user_row, user_id)`, `item_number(item_row, item_id)` and `interaction(user_row, item_row,
    rating, time)`. Users and items without interactions get no number: an item nobody ever chose would be an
    unmistakable negative.
    """
    for entity in ("user", "item"):
        con.execute(
            f"CREATE OR REPLACE TABLE {entity}_number AS SELECT (row_number() OVER (ORDER BY {entity}_id))::INTEGER "
            f"AS {entity}_row, {entity}_id FROM (SELECT DISTINCT {entity}_id FROM clean)"
        )
        kept = scalar(con, f"SELECT count(*) FROM {entity}_number")
        known = scalar(con, f"SELECT count(*) FROM {entity}_feature SEMI JOIN {entity}_number USING ({entity}_id)")
        listed = scalar(con, f"SELECT count(*) FROM {entity}_feature")
        reason = f"without interactions; {kept - known:,} of the kept have no row in the {entity} table"
        if not listed:
            reason = f"there is no {entity} table"
        log.add(f"number {entity}s", kept, listed - known, reason)
    con.execute(
        "CREATE OR REPLACE TABLE interaction AS SELECT user_row, item_row, rating, time FROM clean "
        "JOIN user_number USING (user_id) JOIN item_number USING (item_id) ORDER BY user_row, time, item_row"
    )
    con.execute("DROP TABLE clean")
