"""Checks and filters between the raw relations and the tables: ids, numbers, duplicates, k-core.

Leaves the tables `clean(user_id, item_id, rating, time)`, `item_feature(item_id, …)` and `user_feature(user_id, …)`.
"""

from __future__ import annotations

from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.raw import Entity, RawTables, columns_of, name, reading, scalar
from llmcf_cli.data.report import MAX_BAD_SAMPLES, BadRows, StepLog

_RESERVED = {"item": ("item_row", "item_id", "text"), "user": ("user_row", "user_id", "text")}


def clean_interactions(con: Any, raw: RawTables, *, needs_rating: bool, max_bad_rows: float, log: StepLog) -> None:
    """Create `clean`: rows with ids, a time and a rating that are what they should be, each (user, item, time) once.

    Args:
        needs_rating: Whether a row without a rating is unusable.
        max_bad_rows: Share of unusable rows past which to stop.
        log: Gets the steps `read`, `check values` and `drop duplicates`.

    Raises:
        DataError: Too many rows are unusable, ratings are needed and there are none, or nothing is left.
    """
    where = raw.origin.get("interaction", "interactions")
    if needs_rating and not raw.has_rating:
        raise DataError(
            "has no ratings, but the label needs them", where=where,
            hint="name the rating column in dataset.source.columns.rating, or use `label: {type: implicit}`",
        )  # fmt: skip
    with reading(where):
        _check_values(con, needs_rating)
    lost = raw.unparsable.get("interaction", BadRows())
    read = scalar(con, "SELECT count(*) FROM checked")
    bad = _bad_values(con)
    _stop_if_too_many(lost, bad, read + lost.count, max_bad_rows, where)
    log.add("read interactions", read, lost.count, "lines that do not parse", lost.samples)
    log.add("check values", read - bad.count, bad.count, _problem_counts(con), bad.samples)
    con.execute(
        "CREATE OR REPLACE TABLE clean AS SELECT user_id, item_id, max(rating) AS rating, time FROM checked "
        "WHERE problem IS NULL GROUP BY user_id, item_id, time"
    )
    con.execute("DROP TABLE checked")
    kept = scalar(con, "SELECT count(*) FROM clean")
    log.add("drop duplicates", kept, read - bad.count - kept, "same user, item and time; the highest rating stays")


def _check_values(con: Any, needs_rating: bool) -> None:
    """Create `checked`: typed values as far as they convert, and `problem`, NULL for a usable row."""
    types = columns_of(con, "raw_interaction")
    no_rating = "WHEN rating IS NULL THEN 'no rating' " if needs_rating else ""
    con.execute(
        f"""
        CREATE OR REPLACE TABLE checked AS
        SELECT *, CASE
            WHEN user_id IS NULL THEN 'no user id' WHEN item_id IS NULL THEN 'no item id'
            WHEN raw_rating IS NOT NULL AND rating IS NULL THEN 'the rating is not a number' {no_rating}
            WHEN raw_time IS NULL THEN 'no time' WHEN time IS NULL THEN 'the time is not a number' END AS problem
        FROM (
            SELECT nullif(trim(user_id::VARCHAR), '') AS user_id, nullif(trim(item_id::VARCHAR), '') AS item_id,
                CASE WHEN isfinite(try_cast(rating AS DOUBLE)) THEN try_cast(rating AS DOUBLE) END AS rating,
                {_as_time(types["time"])} AS time,
                nullif(trim(rating::VARCHAR), '') AS raw_rating, nullif(trim(time::VARCHAR), '') AS raw_time
            FROM raw_interaction)
        """
    )


def _as_time(kind: str) -> str:
    """SQL that turns `time`, of a DuckDB type, into whole seconds (of numbers: the whole part) or NULL."""
    if kind.startswith(("TIMESTAMP", "DATE")):
        return "try_cast(floor(epoch(time)) AS BIGINT)"
    number = "try_cast(time AS DOUBLE)"
    whole = f"CASE WHEN isfinite({number}) THEN try_cast(floor({number}) AS BIGINT) END"
    if kind in ("FLOAT", "DOUBLE"):
        return whole
    if kind == "VARCHAR":
        # A cast from text to BIGINT rounds, and one through DOUBLE loses digits past 2^53: each where it is exact.
        exact = r"CASE WHEN regexp_full_match(trim(time), '[+-]?\d+') THEN try_cast(time AS BIGINT) END"
        return f"coalesce({exact}, {whole}, try_cast(floor(epoch(try_cast(time AS TIMESTAMP))) AS BIGINT))"
    return "try_cast(time AS BIGINT)"


def _bad_values(con: Any) -> BadRows:
    rows = con.execute(
        "SELECT count(*) OVER (), problem, user_id, item_id, raw_rating, raw_time FROM checked "
        f"WHERE problem IS NOT NULL ORDER BY ALL LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    samples = tuple(
        f"{problem}: user {user!r}, item {item!r}, rating {rating!r}, time {time!r}"
        for _, problem, user, item, rating, time in rows
    )
    return BadRows(rows[0][0] if rows else 0, samples)


def _problem_counts(con: Any) -> str:
    rows = con.execute(
        "SELECT problem, count(*) FROM checked WHERE problem IS NOT NULL GROUP BY problem ORDER BY problem"
    ).fetchall()
    return "; ".join(f"{problem}: {count:,}" for problem, count in rows) or "all values are as they should be"


def _stop_if_too_many(lost: BadRows, bad: BadRows, total: int, limit: float, where: str) -> None:
    count = lost.count + bad.count
    if total == 0:
        raise DataError("has no rows", where=where, hint="check dataset.source in the recipe")
    if count <= limit * total:
        return
    samples = (lost.samples + bad.samples)[:MAX_BAD_SAMPLES]
    detail = "".join(f"\n  {sample}" for sample in samples)
    raise DataError(
        f"{count:,} of {total:,} rows ({count / total:.1%}) are unusable, more than dataset.max_bad_rows "
        f"({limit:.1%}) allows{detail}",
        where=where,
        hint="check columns, delimiter, quote and encoding under dataset.source, or raise dataset.max_bad_rows",
    )  # fmt: skip


def clean_entity(con: Any, raw: RawTables, entity: Entity, *, max_bad_rows: float, log: StepLog) -> None:
    """Create `item_feature` or `user_feature`: one row per id, blank texts as NULL, lists without blanks.

    A feature called like one of the table's own columns (`text`) gets a trailing underscore.

    Raises:
        DataError: Too many rows have no id, or rows with one id differ.
    """
    key, where = f"{entity}_id", raw.origin.get(entity, f"{entity}s")
    parts = [f"nullif(trim({key}::VARCHAR), '') AS {key}"]
    for column, kind in columns_of(con, f"raw_{entity}").items():
        if column == key:
            continue
        alias = f"{column}_" if column.lower() in _RESERVED[entity] else column
        if kind.endswith("[]"):
            value = f"list_filter(coalesce({name(column)}::VARCHAR[], []), lambda v: trim(coalesce(v, '')) <> '')"
        else:
            value = f"CASE WHEN trim({name(column)}::VARCHAR) <> '' THEN {name(column)}::VARCHAR END"
        parts.append(f"{value} AS {name(alias)}")
    with reading(where):
        con.execute(f"CREATE OR REPLACE TABLE all_rows AS SELECT {', '.join(parts)} FROM raw_{entity}")
    lost = raw.unparsable.get(entity, BadRows())
    total, without_id = con.execute(f"SELECT count(*), count(*) FILTER ({key} IS NULL) FROM all_rows").fetchone()
    if total + lost.count:
        nameless = BadRows(without_id, (f"{without_id:,} rows without {key}",) if without_id else ())
        _stop_if_too_many(lost, nameless, total + lost.count, max_bad_rows, where)
    con.execute(f"CREATE OR REPLACE TABLE {entity}_feature AS SELECT DISTINCT * FROM all_rows WHERE {key} IS NOT NULL")
    con.execute("DROP TABLE all_rows")
    _stop_if_conflicting(con, entity, where)
    if entity in raw.origin:
        kept = scalar(con, f"SELECT count(*) FROM {entity}_feature")
        reason = f"lines that do not parse: {lost.count:,}; no id: {without_id:,}; rest: identical duplicates"
        log.add(f"read {entity}s", kept, total + lost.count - kept, reason, lost.samples)


def _stop_if_conflicting(con: Any, entity: Entity, where: str) -> None:
    key = f"{entity}_id"
    rows = con.execute(
        f"SELECT count(*) OVER (), {key}, rows FROM (SELECT f.{key}, list(f::VARCHAR ORDER BY f::VARCHAR) AS rows "
        f"FROM {entity}_feature f GROUP BY f.{key} HAVING count(*) > 1) ORDER BY {key} LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    if rows:
        detail = "".join(f"\n  {identifier}: {' | '.join(versions[:3])}" for _, identifier, versions in rows)
        raise DataError(
            f"{rows[0][0]:,} {entity} ids have several rows that differ{detail}", where=where,
            hint=f"keep one row per {entity}, or choose fewer columns with dataset.source.{entity}_features",
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
