"""Dates like 12/01/2009: which format they may have, and what to say of them."""

from __future__ import annotations

from typing import Any

from llmcf_cli.tabular.times import ORDERS, TimeFormat, with_times

AMBIGUOUS_DATE = r"\d\d?[/.-]\d\d?[/.-]\d\d(\d\d)?\b.*"
"""A date of which only a format says what is the day and what the month."""
NEARLY_ALL = 0.99
"""Share of values that a format must read to be named: the few others are no times at all."""


def fitting_format(con: Any, relation: str, column: str, form: TimeFormat) -> tuple[str, int, int, str] | None:
    """Another named format that reads (nearly) all of some texts: its name, how many it reads of how many, and one.

    Args:
        con: DuckDB connection.
        relation: Relation with the texts.
        column: The column of them, VARCHAR.
        form: How they were not read.
    """
    texts = f"(SELECT {column} AS given FROM {relation})"
    for other in (order for order in ORDERS if order != form.format):
        timed = with_times(con, texts, "given", "VARCHAR", TimeFormat(other, form.zone))
        total, read, example = con.execute(
            f"SELECT count(*), count(*) FILTER (time_problem IS DISTINCT FROM 'format'), "
            f"min(given) FILTER (time_problem IS DISTINCT FROM 'format') FROM {timed}"
        ).fetchone()
        if read and read >= NEARLY_ALL * total:
            return other, read, total, example
    return None


def order_of_dates(con: Any, relation: str, column: str) -> tuple[str | None, str | None]:
    """Of dates like 12/01/2009 one whose first number can only be a day, and one whose second can; None: there is none.

    Args:
        con: DuckDB connection.
        relation: Relation with such dates.
        column: The column of them, VARCHAR.
    """
    part = "try_cast(regexp_extract({}, '^\\s*(\\d\\d?)[/.-](\\d\\d?)[/.-]', {}) AS INTEGER)"
    first, second = part.format(column, 1), part.format(column, 2)
    ((day, month),) = con.execute(
        f"SELECT min({column}) FILTER ({first} > 12), min({column}) FILTER ({second} > 12) FROM {relation}"
    ).fetchall()
    return day, month


def format_of_dates(con: Any, relation: str, column: str, setting: str) -> str:
    """What to do about dates like 12/01/2009, of which only a format says what is the day.

    Args:
        con: DuckDB connection.
        relation: Relation with such dates.
        column: The column of them, VARCHAR.
        setting: The setting that names the format.
    """
    day, month = order_of_dates(con, relation, column)
    if day is not None and month is None:
        return f"set {setting}: day_first, as {day!r} shows"
    if month is not None and day is None:
        return f"set {setting}: month_first, as {month!r} shows"
    return f"set {setting}: day_first (31/12/2009) or month_first (12/31/2009); no value shows which"
