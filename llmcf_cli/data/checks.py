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
from llmcf_cli.data.negatives import PAIR
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
            "no ratings, but dataset.label needs them", code="ratings-missing", where=where,
            hint=f"name the rating column in {meaning.settings or 'dataset.source.columns'}.rating, "
            "or use `label: {type: implicit}`",
        )  # fmt: skip
    with reading(where):
        cast_interactions(con, table, meaning, needs_rating=needs_rating)
    lost, bad, problems = table.bad, bad_values(con), problem_counts(con)
    read = scalar(con, "SELECT count(*) FROM checked")
    if read + lost.count < log.least:
        raise DataError(
            "no rows", code="data-empty", where=where, hint="check dataset.source and dataset.filter in the recipe"
        )
    if lost.count + bad.count > max_bad_rows * (read + lost.count):
        worst = next(iter(problems), "lines")
        worst = "lines" if lost.count > problems.get(worst, 0) else worst
        raise too_many(lost, bad, read + lost.count, max_bad_rows, where, remedy(con, worst, raw))
    log.add("read interactions", read, lost.count, "lines that cannot be parsed", lost.samples)
    reasons = "; ".join(f"{WORDS[problem]}: {count:,}" for problem, count in sorted(problems.items()))
    log.add("check values", read - bad.count, bad.count, reasons or "no bad values", bad.samples)
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
    stays = "" if meaning.rating is None else "; the highest rating is kept"
    log.add("drop duplicates", kept, read - bad.count - kept, f"same user, item and time{stays}")


def _swapped(con: Any, problems: Mapping[str, int], meaning: Meaning) -> Iterator[Alarm]:
    """That the times which could not be read are all of another format: those that were read may be misread."""
    other = unread_format(con, meaning) if problems.get("format") and meaning.times.format in ORDERS else None
    if other is not None:
        yield Alarm(
            "other_format", f"{meaning.order} is read as {meaning.times.format}, but there is {other[0]}, {other[1]}: "
            "the times that were read probably have day and month swapped",
            f"set {meaning.settings}.time_format: {other[0]}" if meaning.settings else "",
        )  # fmt: skip


def sample_users(con: Any, most: int | None, seed: int, log: StepLog) -> str | None:
    """Keep `most` users in `clean`, those with the least seeded hash of their id; None keeps all.

    Returns:
        The greatest hash that was kept, by which `keep_sampled` takes or leaves later users; None: all are kept.
    """
    if most is None:
        return None
    bound = con.execute(
        f"SELECT max(draw), count(*) FROM (SELECT DISTINCT {_draw(seed)} AS draw, user_id FROM clean "
        f"ORDER BY draw LIMIT {most})"
    ).fetchone()
    keep_sampled(con, bound[0] if bound[1] == most else None, seed, f"dataset.max_users is {most:,}", log)
    return bound[0] if bound[1] == most else None


def keep_sampled(con: Any, bound: str | None, seed: int, why: str, log: StepLog) -> None:
    """Keep users in `clean` whose seeded hash is not above a bound; None keeps all, and no step is noted."""
    if bound is None:
        return
    before = scalar(con, "SELECT count(*) FROM clean")
    con.execute(f"DELETE FROM clean WHERE {_draw(seed)} > '{bound}'")
    kept, users = con.execute("SELECT count(*), count(DISTINCT user_id) FROM clean").fetchone()
    log.add("sample users", kept, before - kept, f"{users:,} users drawn at random; {why}")


def _draw(seed: int) -> str:
    return f"md5(concat_ws(',', {seed}, user_id))"


def know_nobody(con: Any) -> None:
    """Create `known_user` and `known_item` without a row: the users and items of a base that there is not."""
    for entity in ("user", "item"):
        con.execute(f"CREATE OR REPLACE TABLE known_{entity} ({entity}_row INTEGER, {entity}_id VARCHAR)")


def k_core(con: Any, user_least: int, item_least: int, log: StepLog) -> None:
    """Drop users and items with too few interactions from `clean`, again and again until none is left to drop.

    Those of `known_user` and `known_item` stay, however few they have here.

    Raises:
        DataError: Nothing is left.
    """
    before = kept = scalar(con, "SELECT count(*) FROM clean")
    rounds, last = 0, -1
    while kept != last:
        last, rounds = kept, rounds + 1
        for entity, least in (("user", user_least), ("item", item_least)):
            if least > 1:
                con.execute(
                    f"DELETE FROM clean WHERE {entity}_id IN (SELECT {entity}_id FROM clean ANTI JOIN known_{entity} "
                    f"USING ({entity}_id) GROUP BY {entity}_id HAVING count(*) < {least})"
                )
        kept = scalar(con, "SELECT count(*) FROM clean")
    reason = f"fewer than {user_least} per user or {item_least} per item; stable after {rounds} rounds"
    log.add("k-core", kept, before - kept, reason if max(user_least, item_least) > 1 else "no filter")


def assign_rows(con: Any, log: StepLog) -> None:
    """Number users and items and create `interaction` with those numbers.

    Those of `known_user` and `known_item` keep theirs; new ones get the next, in the order of their ids. Users and
    items without interactions get no number: an item nobody ever chose would be an unmistakable negative.

    Creates `user_number(user_row, user_id)` and `item_number(item_row, item_id)` of the new ones, and
    `interaction(user_row, item_row, rating, time, pair)`, where `pair` is the hash `PAIR`.
    """
    for entity in ("user", "item"):
        con.execute(
            f"CREATE OR REPLACE TABLE {entity}_number AS SELECT (row_number() OVER (ORDER BY {entity}_id) + "
            f"(SELECT coalesce(max({entity}_row), 0) FROM known_{entity}))::INTEGER AS {entity}_row, {entity}_id "
            f"FROM (SELECT DISTINCT {entity}_id FROM clean ANTI JOIN known_{entity} USING ({entity}_id))"
        )
        kept = scalar(con, f"SELECT count(*) FROM {entity}_number")
        known = scalar(con, f"SELECT count(*) FROM {entity}_feature SEMI JOIN {entity}_number USING ({entity}_id)")
        listed = scalar(con, f"SELECT count(*) FROM {entity}_feature")
        numbered = scalar(con, f"SELECT count(*) FROM {entity}_feature SEMI JOIN known_{entity} USING ({entity}_id)")
        before = f"{numbered:,} numbered before, {listed - known - numbered:,} " if numbered else ""
        reason = f"{before}without interactions; {kept - known:,} of those kept have no row in the {entity} table"
        if not listed:
            reason = f"no {entity} table"
        log.add(f"number {entity}s", kept, listed - known, reason)
    con.execute(
        f"CREATE OR REPLACE TABLE interaction AS SELECT user_row, item_row, rating, time, {PAIR} AS pair FROM clean "
        "JOIN (FROM known_user UNION ALL FROM user_number) USING (user_id) "
        "JOIN (FROM known_item UNION ALL FROM item_number) USING (item_id) ORDER BY user_row, time, item_row"
    )
    con.execute("DROP TABLE clean")
