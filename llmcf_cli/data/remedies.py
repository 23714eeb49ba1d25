"""What to do about rows that are unusable: the setting that mends their commonest fault, named only where it does."""

from __future__ import annotations

import json
import re
from typing import Any

from llmcf_cli.data.cast import MISSING
from llmcf_cli.data.raw import Meaning, RawData, Role
from llmcf_cli.recipe.expression import Call, parse
from llmcf_cli.tabular.dates import AMBIGUOUS_DATE, NEARLY_ALL, fitting_format, format_of_dates
from llmcf_cli.tabular.sql import text
from llmcf_cli.tabular.times import FIRST, LAST, UNITS
from llmcf_cli.tabular.values import NUMBER, WHITE

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_GIVE_UP = "or, if you can do without these rows, raise dataset.max_bad_rows"


def in_expression(column: str) -> str:
    """A column as expressions name it."""
    return column if _NAME.fullmatch(column) else f"`{column}`"


def quoted(expression: str) -> str:
    """An expression as YAML takes it, on one line where that changes none of its texts."""
    lines = [line.strip() for line in expression.strip().splitlines()]
    if all(line.count(mark) % 2 == 0 for line in lines for mark in "\"'`"):
        expression = " ".join(line for line in lines if line)
    if "\n" in expression or "\r" in expression:
        return json.dumps(expression, ensure_ascii=False)
    return "'" + expression.replace("'", "''") + "'"


def leave_out(role: Role, condition: str, kept: str | None) -> str:
    """The setting that keeps the rows of a table that fulfil a condition, with what its filter asks already.

    Args:
        role: The table.
        condition: What rows must fulfil besides.
        kept: Its filter; None: there is none.
    """
    if kept is None:
        return f"dataset.filter.{role}: {quoted(condition)}"
    tree = parse(kept)
    other = f"({kept.strip()})" if isinstance(tree, Call) and tree.function == "or" else kept.strip()
    return f"dataset.filter.{role}: {quoted(f'{condition} and {other}')} (your filter and `{condition}`)"


def number_expression(con: Any, relation: str, column: str, source: str) -> str | None:
    """An expression that reads the texts of a column as the numbers that most of them are written like.

    Signs and words that many of them have (a currency) are taken out; points and commas are what all of them together
    allow: 1.299,00 or 1,299.00. None where they allow both or neither.

    Args:
        con: DuckDB connection.
        relation: Where the texts are.
        column: SQL of them, VARCHAR.
        source: What the expression shall read.
    """
    texts = f"(SELECT {column} AS given FROM {relation} WHERE {column} IS NOT NULL)"
    marks = [
        mark for (mark,) in con.execute(
            f"SELECT mark FROM (SELECT unnest(list_distinct(regexp_extract_all(given, {text(_MARK)}))) AS mark "
            f"FROM {texts}) GROUP BY mark HAVING count(*) >= {_OFTEN} * (SELECT count(*) FROM {texts}) "
            "ORDER BY len(mark) DESC, mark LIMIT 4"
        ).fetchall()
    ]  # fmt: skip
    bare = "given"
    for mark in marks:
        bare = f"replace({bare}, {text(mark)}, '')"
        source = f'replace({source}, {json.dumps(mark, ensure_ascii=False)}, "")'
    bare = f"trim({bare}, {text(WHITE)})"
    wanted = [NUMBER, _COMMA, _POINT, r".*\..*"]
    counts = ", ".join(f"count(*) FILTER (regexp_full_match({bare}, {text(form)}))" for form in wanted)
    total, plain, comma, point, dots = con.execute(f"SELECT count(*), {counts} FROM {texts}").fetchone()
    best = max(plain, comma, point)
    if not total or 2 * best < total or (comma == point and best > plain):
        return None
    if comma == best and comma > point:
        source = f'replace({source}, ".", "")' if dots else source
        source = f'replace({source}, ",", ".")'
    elif point == best and best > plain:
        source = f'replace({source}, ",", "")'
    return f"number({source})" if best == total else f"coalesce(number({source}), null)"


_MARK = r"[^\d.,+\s\x{a0}\x{202f}-]+"
_OFTEN = 0.05
_COMMA = r"[+-]?(\d{1,3}(\.\d{3})+|\d+)(,\d+)?"
_POINT = r"[+-]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?"


def remedy(con: Any, problem: str, raw: RawData) -> str:
    """What to do about interactions with a problem.

    Args:
        con: Connection with `checked`.
        problem: A key of `WORDS`, or `lines` for lines that do not parse.
        raw: The data set.
    """
    table, meaning = raw.tables["interactions"], raw.meaning
    columns = {"user": meaning.user, "item": meaning.item, "rating": meaning.rating or "", "time": meaning.order}
    if problem == "lines":
        return table.remedy or f"correct these lines of the file, {_GIVE_UP}"
    if problem in MISSING:
        column = in_expression(columns[MISSING[problem]])
        other = "; or use `label: implicit`, which needs no ratings" if problem == "no rating" else ""
        kept = leave_out("interactions", f"{column} is not null", raw.kept.get("interactions"))
        return f"to leave out rows without it, set {kept}{other}"
    if problem == "rating":
        return _rating(con, columns["rating"], raw.kept.get("interactions"))
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
    return f"name a column other than {column!r}, derive one in dataset.derive, or correct the file"


def _rating(con: Any, column: str, kept: str | None) -> str:
    source = in_expression(column)
    made = number_expression(con, "checked", "value_rating", source)
    if made is not None:
        return f"to read such numbers, set dataset.derive.interactions: {{{json.dumps(column)}: {quoted(made)}}}"
    out = leave_out("interactions", f"number({source}) is not null", kept)
    return f"to leave out rows without a number, set {out}; or {_correct(column)}"


def _format(con: Any, meaning: Meaning) -> str:
    if not meaning.settings:
        return f"{_correct(meaning.order)}, {_GIVE_UP}"
    setting = f"{meaning.settings}.time_format"
    (dates,) = con.execute(
        f"SELECT count(*) FILTER (regexp_full_match(value_order, {text(AMBIGUOUS_DATE)})) >= {NEARLY_ALL} * count(*) "
        "FROM checked WHERE problem = 'format'"
    ).fetchone()
    if dates and meaning.times.format is None:
        return format_of_dates(con, "checked", "value_order", setting)
    other = unread_format(con, meaning)
    if other is not None:
        return f"set {setting}: {other[0]}, {other[1]}"
    if meaning.times.format is not None:
        return f"correct {setting}, which is {meaning.times.format!r}, {_GIVE_UP}"
    return f'name the format in {setting}: {", ".join(UNITS)}, day_first, month_first, or a pattern like "%d %b %Y"'


def unread_format(con: Any, meaning: Meaning) -> tuple[str, str] | None:
    """A named format that reads the times of `checked` which the recipe's does not, and in words, which it reads."""
    unread = "(FROM checked WHERE problem = 'format')"
    found = fitting_format(con, unread, "CAST(value_order AS VARCHAR)", meaning.times)
    if found is None:
        return None
    other, read, total, example = found
    return other, f"which reads {read:,} of the {total:,} unreadable times, e.g. {example!r}"


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
