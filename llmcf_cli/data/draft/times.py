"""Which column is a time, and how it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmcf_cli.data.draft.asking import Decisions, Question
from llmcf_cli.data.draft.columns import SHARE, Profile
from llmcf_cli.data.draft.files import File
from llmcf_cli.data.draft.words import POSITION, TIME, words
from llmcf_cli.tabular.dates import order_of_dates
from llmcf_cli.tabular.sql import name, text
from llmcf_cli.tabular.times import ORDERS, UNITS, TimeFormat, count_reading, shown_time, with_times
from llmcf_cli.tabular.values import is_list, is_text

PATTERNS = (
    "%Y/%m/%d", "%Y/%m/%d %H:%M", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d", "%Y.%m.%d %H:%M:%S", "%Y%m%d", "%Y%m%d%H%M%S",
    "%d %b %Y", "%d-%b-%Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d %b %Y %H:%M:%S", "%d-%b-%Y %H:%M:%S",
    "%a %b %d %H:%M:%S %Y", "%a, %d %b %Y %H:%M:%S %z", "%d/%b/%Y:%H:%M:%S %z",
)  # fmt: skip
"""Patterns that are tried, none of which reads what another would read otherwise."""
BEGIN, END = 631_152_000, 4_102_444_800
"""Seconds since 1970 of the years 1990 and 2100, between which numbers are times by their size."""
_SAMPLE = 5_000  # rows that a format is tried on before all are


@dataclass(frozen=True)
class Timed:
    """A column of times.

    Attributes:
        column: Its name.
        format: As `columns.time_format` has it; None: needs none.
        why: The evidence.
        zone: Of times that name none; None: UTC.
    """

    column: str
    format: str | None
    why: str
    zone: str | None = None


def find_time(
    con: Any, file: File, profiles: Mapping[str, Profile], taken: set[str], decisions: Decisions
) -> Timed | str | None:
    """The time; or the name of the column that orders a user's events where there is no time; None: unclear."""
    where = str(file.path)
    position = decisions.told("--position", tuple(profiles), where)
    if position is not None:
        decisions.note("position", position, "as given", "dataset.source.columns.position")
        return position
    told = decisions.told("--time", tuple(profiles), where)
    if told is not None:
        return format_of(con, file, profiles[told], decisions)
    free = {c: p for c, p in profiles.items() if c not in taken and p.present and not is_list(p.kind)}
    named = [c for c in free if set(words(c)) & TIME and _may_be_time(con, file, free[c])]
    found = named or [c for c in free if _may_be_time(con, file, free[c]) and not free[c].numeric]
    found = found or [c for c in free if _may_be_time(con, file, free[c])]
    if len(found) > 1:
        answers = {c: f"e.g. {free[c].example!r}" for c in found}
        chosen = decisions.settle(Question("--time", "several columns are times", answers, where))
        return None if chosen is None else format_of(con, file, free[chosen], decisions)
    if found:
        return format_of(con, file, free[found[0]], decisions)
    return _position(free, where, decisions)


def _position(free: Mapping[str, Profile], where: str, decisions: Decisions) -> str | None:
    """A column of an order, where there is no time."""
    ordered = [c for c, p in free.items() if p.integral and set(words(c)) & POSITION]
    if len(ordered) == 1:
        decisions.note("position", ordered[0], "no column is a time; whole numbers, and its name",
                       "dataset.source.columns.position")  # fmt: skip
        return ordered[0]
    whole = {c: f"e.g. {p.example}" for c, p in free.items() if p.integral and (c in ordered or not ordered)}
    clocks = {c: f"e.g. {p.example}" for c, p in free.items() if set(words(c)) & TIME and c not in whole}
    what = "no column is clearly the time of an event, or its position in the user's order"
    if clocks or not whole:
        seen = ", ".join(f"{c} ({e})" for c, e in clocks.items())
        what += f"; {seen} cannot be read as times" if seen else "; add a column with either to the file"
    return decisions.settle(Question("--position", what, whole or {"COLUMN": "whole numbers, in order"}, where))


def _may_be_time(con: Any, file: File, profile: Profile) -> bool:
    """Whether values look like times, by the first rows."""
    if profile.kind.startswith("TIMESTAMP") or profile.kind == "DATE":
        return True
    if profile.numeric:
        return _unit(profile) is not None or _is_pattern(con, file, profile, "%Y%m%d")
    if not is_text(profile.kind):
        return False
    sample = f"(SELECT * FROM {file.rows} WHERE {name(profile.column)} IS NOT NULL LIMIT {_SAMPLE})"
    return any(_share(con, sample, profile, form) >= SHARE for form in (None, *ORDERS, *PATTERNS))


def format_of(con: Any, file: File, profile: Profile, decisions: Decisions) -> Timed | None:
    """How a column of times is written; None: unclear."""
    found = _format_of(con, file, profile, decisions)
    if found is None:
        return None
    zone = decisions.told("--time-zone")
    form = TimeFormat(found.format, zone)
    reading = count_reading(con, _timed(con, file.rows, profile, form), form)
    span = f"{str(reading.first)[:10]} to {str(reading.last)[:10]}"
    zoned = ""
    if reading.local:
        zoned = f"; no time zone given: read as {zone or 'UTC'}" + ("" if zone else "; change with --time-zone")
    decisions.note("time", f"{profile.column}, {found.format or 'no format needed'}", f"{found.why}; {span}{zoned}",
                   "dataset.source.columns.time")  # fmt: skip
    return replace(found, zone=zone)


def _format_of(con: Any, file: File, profile: Profile, decisions: Decisions) -> Timed | None:
    column, where = profile.column, str(file.path)
    told = decisions.told("--time-format")
    if told is not None:
        return Timed(column, told, "as given")
    if profile.kind.startswith("TIMESTAMP") or profile.kind == "DATE":
        return Timed(column, None, f"of the type {profile.kind}")
    if profile.numeric:
        if _is_pattern(con, file, profile, "%Y%m%d"):
            return Timed(column, "%Y%m%d", f"numbers that are dates, e.g. {profile.example}")
        unit = _unit(profile)
        if unit is not None:
            return Timed(
                column, None if unit == "seconds" else unit, f"numbers; judging by their size, {unit} since 1970"
            )
        answers = {unit: f"since 1970: {_when(profile, unit)}" for unit in UNITS}
        what = f"the numbers in {column}, e.g. {profile.example}, are plausible times in no unit; or give --position"
        answer = decisions.settle(Question("--time-format", what, answers, where))
        return None if answer is None else Timed(column, answer, "as given")
    if _share(con, file.rows, profile, None) >= SHARE:
        return Timed(column, None, f"ISO 8601, e.g. {profile.example}")
    if all(_share(con, file.rows, profile, order) < SHARE for order in ORDERS):
        return _by_pattern(con, file, profile, decisions)
    day, month = order_of_dates(con, file.rows, name(column))
    if (day is None) != (month is None):
        order = "day_first" if day is not None else "month_first"
        return Timed(column, order, f"{day or month!r} can be read in only one way")
    if day is not None:
        what = f"{column} mixes both orders: {day!r} can only begin with the day, {month!r} with the month"
    else:
        what = f"{column} has dates like {profile.example!r}, and none shows which part is the day"
    answers = {"day_first": "31/12/2009", "month_first": "12/31/2009"}
    answer = decisions.settle(Question("--time-format", what, answers, where))
    return None if answer is None else Timed(column, answer, "as given")


def _by_pattern(con: Any, file: File, profile: Profile, decisions: Decisions) -> Timed | None:
    for pattern in PATTERNS:
        if _share(con, file.rows, profile, pattern) >= SHARE:
            return Timed(profile.column, pattern, f"e.g. {profile.example!r}")
    answers = {"PATTERN": "of strptime, e.g. %d %b %Y; docs/data.md has the directives"}
    what = f"{profile.column} has times like {profile.example!r}, which no known format reads"
    decisions.settle(Question("--time-format", what, answers, str(file.path)))
    return None


def _unit(profile: Profile) -> str | None:
    """The unit in which numbers are times of our age."""
    if profile.low is None or profile.high is None:
        return None
    for unit, digits in UNITS.items():
        scale = 10.0 ** (6 - digits)
        if profile.low >= BEGIN * scale and profile.high <= END * scale:
            return unit
    return None


def _when(profile: Profile, unit: str) -> str:
    found = int((profile.least or 0) * 10 ** UNITS[unit]) if UNITS[unit] >= 0 else 0
    try:
        return f"from {shown_time(found)}"
    except (OverflowError, ValueError):
        return "past all years"


def _is_pattern(con: Any, file: File, profile: Profile, pattern: str) -> bool:
    """Whether whole numbers of eight digits are dates."""
    if not profile.integral or profile.low is None or profile.high is None:
        return False
    if profile.low < 19_000_101 or profile.high > 21_001_231:
        return False
    return _share(con, file.rows, profile, pattern) >= SHARE


def _timed(con: Any, relation: str, profile: Profile, form: TimeFormat) -> str:
    """SQL of the column's times alone, as other columns may be called like those of `with_times`."""
    return with_times(con, f"(SELECT {name(profile.column)} AS given FROM {relation})", "given", profile.kind, form)


def _share(con: Any, relation: str, profile: Profile, form: str | None) -> float:
    """Share of the values that are there which a format reads."""
    timed = _timed(con, relation, profile, TimeFormat(form))
    ((read, given),) = con.execute(
        f"SELECT count(*) FILTER (time IS NOT NULL AND time_kind <> {text('number' if form is None else '')}), "
        f"count(*) FILTER (time IS NOT NULL OR time_problem IS NOT NULL) FROM {timed}"
    ).fetchall()
    return read / given if given else 0.0
