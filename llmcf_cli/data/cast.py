"""Interactions as they were read → `checked`: ids, ratings and times, exact or NULL, and what is wrong with a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.place import Place
from llmcf_cli.data.raw import Meaning
from llmcf_cli.tabular.sql import columns_of, name
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES, BadRows, Table, require_columns
from llmcf_cli.tabular.times import PROBLEMS, Reading, as_position, with_times
from llmcf_cli.tabular.values import as_id, as_number, present, was_whole_float

WORDS: Mapping[str, str] = {
    "no user": "no user id", "user": "unusable user id", "no item": "no item id", "item": "unusable item id",
    "rating": "the rating is not a number", "no rating": "no rating", "no time": "no time",
    "position": "the position is not a whole number", **PROBLEMS,
}  # fmt: skip
"""Why a row is unusable: code → words."""
MISSING: Mapping[str, str] = {"no user": "user", "no item": "item", "no rating": "rating", "no time": "time"}
"""Of these, what is missing: code → value."""
_VALUES = ("user", "item", "rating", "order")


def cast_interactions(con: Any, table: Table, meaning: Meaning, *, needs_rating: bool) -> None:
    """Create `checked(user_id, item_id, rating, time, …)` of the interactions.

    `problem` is a key of `WORDS`, NULL for a usable row; `value_user`, `value_item`, `value_rating` and `value_order`
    are what stood in an unusable one; `user_whole` and `item_whole` say whether the id was a whole float. The rest is
    as in `with_times`.

    Raises:
        DataError: A column is missing, or holds objects.
    """
    columns = {"user": meaning.user, "item": meaning.item, "rating": meaning.rating, "order": meaning.order}
    types = require_meant(con, table, meaning)
    kinds = {key: types[column] if column is not None else "DOUBLE" for key, column in columns.items()}
    picked = ", ".join(
        f"{name(column) if column is not None else 'CAST(NULL AS DOUBLE)'} AS c_{key}"
        for key, column in columns.items()
    )
    rows = f"(SELECT {picked} FROM {table.relation})"
    if meaning.time is not None:
        rows = with_times(con, rows, "c_order", kinds["order"], meaning.times)
    else:
        given = present("c_order", kinds["order"])
        rows = (
            f"(SELECT *, CASE WHEN {given} IS NOT NULL AND time IS NULL THEN 'position' END AS time_problem FROM "
            f"(SELECT *, {as_position('c_order', kinds['order'])} AS time, 'position' AS time_kind, "
            f"false AS time_cut, false AS time_twice FROM {rows}))"
        )
    values = ", ".join(f"{present(f'c_{key}', kinds[key])} AS v_{key}" for key in _VALUES)
    no_rating = "WHEN rating IS NULL THEN 'no rating' " if needs_rating else ""
    shown = ", ".join(f"CASE WHEN problem IS NOT NULL THEN v_{key} END AS value_{key}" for key in _VALUES)
    con.execute(
        f"""
        CREATE OR REPLACE TABLE checked AS
        SELECT user_id, item_id, rating, time, user_whole, item_whole, time_kind, time_cut, time_twice, problem, {shown}
        FROM (SELECT *, CASE
            WHEN v_user IS NULL THEN 'no user' WHEN user_id IS NULL THEN 'user'
            WHEN v_item IS NULL THEN 'no item' WHEN item_id IS NULL THEN 'item'
            WHEN v_rating IS NOT NULL AND rating IS NULL THEN 'rating' {no_rating}
            WHEN v_order IS NULL THEN 'no time' WHEN time IS NULL THEN time_problem END AS problem
            FROM (SELECT *, {values},
                {as_id("c_user", kinds["user"])} AS user_id, {as_id("c_item", kinds["item"])} AS item_id,
                {was_whole_float("c_user", kinds["user"])} AS user_whole,
                {was_whole_float("c_item", kinds["item"])} AS item_whole,
                {as_number("c_rating", kinds["rating"])} AS rating FROM {rows}))
        """
    )


def require_meant(con: Any, table: Table, meaning: Meaning, derived: Sequence[str] = ()) -> dict[str, str]:
    """The columns of the interactions → DuckDB type.

    Args:
        con: DuckDB connection.
        table: The interactions.
        meaning: What their columns mean.
        derived: Columns that will be there besides.

    Raises:
        DataError: One that has a meaning is missing, or holds objects.
    """
    named = (meaning.user, meaning.item, meaning.rating, meaning.order)
    wanted = [column for column in named if column is not None and column not in derived]
    types = columns_of(con, table.relation)
    hint = f"correct the names under {meaning.settings or 'dataset.source'}, or derive the column in dataset.derive"
    require_columns(wanted, list(types), table.origin, hint)
    _stop_at_objects(table, wanted)
    return types


def _stop_at_objects(table: Table, wanted: list[str]) -> None:
    for column in wanted:
        if column in table.objects:
            raise DataError(
                f"{column} holds an object instead of a value",
                code="value-object", where=Place(file=table.origin, line=table.objects[column]),
                hint="write the part you need as a key of its own",
            )  # fmt: skip


def bad_values(con: Any) -> BadRows:
    """The unusable rows of `checked`."""
    rows = con.execute(
        "SELECT count(*) OVER (), problem, value_user, value_item, value_rating, value_order FROM checked "
        f"WHERE problem IS NOT NULL ORDER BY ALL LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    samples = tuple(
        f"{WORDS[problem]}: user {user!r}, item {item!r}, rating {rating!r}, time {time!r}"
        for _, problem, user, item, rating, time in rows
    )
    return BadRows(rows[0][0] if rows else 0, samples)


def problem_counts(con: Any) -> dict[str, int]:
    """Problem → rows of `checked` that have it, most first."""
    rows = con.execute(
        "SELECT problem, count(*) FROM checked WHERE problem IS NOT NULL GROUP BY problem ORDER BY 2 DESC, 1"
    ).fetchall()
    return dict(rows)


def whole_float_notes(con: Any, relation: str, ids: Mapping[str, tuple[str, str]]) -> list[str]:
    """Notes about ids that were whole floats.

    Args:
        con: DuckDB connection.
        relation: Where they are.
        ids: What they are → (id column, column that says whether it was one).
    """
    notes = []
    for what, (column, flag) in ids.items():
        count, example = con.execute(f"SELECT count(*), min({column}) FROM {relation} WHERE {flag}").fetchone()
        if count:
            notes.append(f"{count:,} {what} ids were whole floats, read as integers, e.g. {example}.0 → {example}")
    return notes


def time_notes(reading: Reading) -> list[str]:
    """What was assumed of times, in words."""
    notes = []
    if reading.numbers:
        notes.append(f"{reading.numbers:,} times are numbers, read as {reading.unit} since 1970")
    if reading.local:
        notes.append(f"{reading.local:,} times have no time zone, read as {reading.zone}")
    if reading.zoned:
        notes.append(f"{reading.zoned:,} times have a time zone")
    if reading.cut:
        notes.append(f"{reading.cut:,} times had digits below the microsecond, which were cut off")
    if reading.twice:
        notes.append(f"{reading.twice:,} times occur twice in their time zone (clock change), read as the first")
    if reading.first is not None:
        notes.append(f"times range from {reading.first} to {reading.last} UTC")
    return notes


def time_warnings(con: Any, table: Table, meaning: Meaning, reading: Reading) -> list[str]:
    """What makes it doubtful that times of `checked` were meant as they were read."""
    found = []
    if columns_of(con, table.relation)[meaning.order] == "FLOAT":
        found.append(
            "times are 32-bit floats, which cannot tell times less than 128 seconds apart: write them as 64-bit numbers"
        )
    if reading.unit == "seconds" and reading.numbers:
        digits = "CAST(time // 1000000 AS VARCHAR)"
        date = f"time % 1000000 = 0 AND len({digits}) = 8 AND try_strptime({digits}, '%Y%m%d') IS NOT NULL"
        dates, example = con.execute(
            f"SELECT bool_and({date}), min({digits}) FROM checked WHERE time_kind = 'number' AND problem IS NULL"
        ).fetchone()
        if dates:
            found.append(f"all times in seconds look like dates, e.g. {example}; if they are, set time_format: %Y%m%d")
    return found


def too_many(lost: BadRows, bad: BadRows, total: int, limit: float, where: str, hint: str) -> DataError:
    """The error of a table with more unusable rows than `dataset.max_bad_rows` allows."""
    count = lost.count + bad.count
    detail = "".join(f"\n  {sample}" for sample in (lost.samples + bad.samples)[:MAX_BAD_SAMPLES])
    return DataError(
        f"{count:,} of {total:,} rows ({count / total:.1%}) are unusable; dataset.max_bad_rows allows "
        f"{limit:.1%}{detail}", code="rows-unusable", where=where, hint=hint,
    )  # fmt: skip
