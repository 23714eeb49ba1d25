"""What to do about rows that are unusable: the setting that mends their commonest fault, named only where it does."""

from __future__ import annotations

import json
import re
from typing import Any

from llmcf_cli.data.cast import MISSING
from llmcf_cli.data.raw import Meaning
from llmcf_cli.tabular.sql import text
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import AMBIGUOUS_DATE, FIRST, LAST, UNITS, format_of_dates

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GIVE_UP = "or, if these rows may be lost, raise dataset.max_bad_rows"


def in_expression(column: str) -> str:
    """A column as expressions name it."""
    return column if _NAME.fullmatch(column) else f"`{column}`"


def remedy(con: Any, problem: str, table: Table, meaning: Meaning) -> str:
    """What to do about rows of `checked` with a problem.

    Args:
        con: Connection with `checked`.
        problem: A key of `WORDS`, or `lines` for lines that do not parse.
        table: The interactions.
        meaning: What their columns mean.
    """
    columns = {"user": meaning.user, "item": meaning.item, "rating": meaning.rating or "", "time": meaning.order}
    if problem == "lines":
        return table.remedy or f"correct these lines of the file, {_GIVE_UP}"
    if problem in MISSING:
        column = in_expression(columns[MISSING[problem]])
        other = ", or use `label: implicit`, which needs no ratings" if problem == "no rating" else ""
        kept = json.dumps(f"{column} is not null")
        return f"rows without it are left out by dataset.filter: {{interactions: {kept}}}{other}"
    if problem == "rating":
        return _rating(con, columns["rating"])
    if problem == "format":
        return _format(con, meaning)
    if problem == "range":
        return _range(con, meaning)
    if problem == "zone":
        return "write zones as offsets (+01:00) or by their IANA names (Europe/Berlin)"
    if problem == "gap":
        return f"correct {meaning.settings}.time_zone" if meaning.settings else _correct(columns["time"])
    if problem == "position":
        return f"name a column of whole numbers in {meaning.settings}.position"
    return f"{_correct(columns[problem])}, {_GIVE_UP}"


def _correct(column: str) -> str:
    return f"name another column than {column!r}, derive one in dataset.derive, or correct the file"


def _rating(con: Any, column: str) -> str:
    commas = con.execute(
        "SELECT count(*) FILTER (NOT regexp_full_match(value_rating, '[+-]?\\d+,\\d+')) FROM checked "
        "WHERE problem = 'rating'"
    ).fetchone()[0]
    source = in_expression(column)
    if not commas:
        made = f'{{{json.dumps(column)}: \'number(replace({source}, ",", "."))\'}}'
        return f"ratings with a decimal comma are read with dataset.derive: {{interactions: {made}}}"
    kept = json.dumps(f"number({source}) is not null")
    return f"rows without a number are left out by dataset.filter: {{interactions: {kept}}}; or {_correct(column)}"


def _format(con: Any, meaning: Meaning) -> str:
    if not meaning.settings:
        return f"{_correct(meaning.order)}, {_GIVE_UP}"
    setting = f"{meaning.settings}.time_format"
    (dates,) = con.execute(
        f"SELECT count(*) FILTER (regexp_full_match(value_order, {text(AMBIGUOUS_DATE)})) = count(*) "
        "FROM checked WHERE problem = 'format'"
    ).fetchone()
    if dates and meaning.times.format is None:
        return format_of_dates(con, "checked", "value_order", setting)
    if meaning.times.format is not None:
        return f"correct {setting}, which is {meaning.times.format!r}, {_GIVE_UP}"
    return f'name the form in {setting}: {", ".join(UNITS)}, day_first, month_first, or a pattern like "%d %b %Y"'


def _range(con: Any, meaning: Meaning) -> str:
    """Names the unit in which most of the numbers would be times of our age."""
    unit = meaning.times.unit
    if not meaning.settings or unit is None:
        return f"{_correct(meaning.order)}, {_GIVE_UP}"
    value = "try_cast(value_order AS DOUBLE)"
    fits = {
        other: f"count(*) FILTER ({value} * {10.0**digits} BETWEEN {FIRST} AND {LAST} "
               f"AND abs({value} * {10.0**digits}) > {LAST} / 100)"
        for other, digits in UNITS.items() if other != unit
    }  # fmt: skip
    counts = con.execute(f"SELECT {', '.join(fits.values())} FROM checked WHERE problem = 'range'").fetchone()
    best, other = max(zip(counts, fits, strict=True))
    if not best:
        return f"correct {meaning.settings}.time_format, {_GIVE_UP}"
    return f"set {meaning.settings}.time_format: {other}"
