"""Times as whole microseconds since 1970 in UTC, exactly or not at all.

A time is a typed timestamp or date, a number in a unit, or a text: ISO 8601, or as a format says. Nothing is guessed: a
number is of the unit that the format names, seconds if it names none; a time without a zone is of the zone that the
recipe names, UTC if it names none; what may be read in two ways is not read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import available_timezones

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.tabular.sql import name, text
from llmcf_cli.tabular.values import NUMBER, as_id, is_list, is_number, is_structure, present

UNITS = {"seconds": 6, "milliseconds": 3, "microseconds": 0, "nanoseconds": -3}
"""Format of a number that is a time since 1970 → how many digits after the point are microseconds."""
ORDERS = ("day_first", "month_first")
"""Formats of dates that begin with neither year nor zone: 31/12/2009 and 12/31/2009."""
_DIRECTIVES = "YymdHIMSfpbBaAjzgn%"
_UNPADDED = "ymdHIMSj"  # what `-` may stand before
FIRST, LAST = -2_208_988_800_000_000, 7_258_118_400_000_000
"""A time lies from 1900 until before 2200."""
LARGEST_POSITION = 10**12
"""A position is smaller than this."""

_ZONE = r"[zZ]|UTC|GMT|[+-]\d\d(?::?[0-5]\d(?::?[0-5]\d)?)?|[A-Za-z_]+(?:/[A-Za-z0-9_+-]+)*"
_CLOCK = r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d)(?:[.,](\d+))?)?"
_ISO = rf"(\d\d\d\d)-(\d\d)-(\d\d)(?:[Tt ]+{_CLOCK})?\s*({_ZONE})?"
_SLASHED = rf"(\d\d?)[/.-](\d\d?)[/.-](\d\d\d\d|\d\d)(?:,?[Tt\s]+{_CLOCK}\s*([AaPp]\.?[Mm]\.?)?)?\s*({_ZONE})?"
_DIGITS = r"([+-]?)(\d*)(?:\.(\d*))?"
_OFFSET = r"^([+-])(\d\d):?(\d\d)?:?(\d\d)?$"


def format_problem(written: str) -> str | None:
    """What is wrong with a time format; None: nothing."""
    if written in UNITS or written in ORDERS:
        return None
    if "%" not in written:
        return f"unknown format {written!r}"
    known = (*_DIRECTIVES, *(f"-{directive}" for directive in _UNPADDED))
    for directive in re.findall(r"%(-?.?)", written, re.DOTALL):
        if directive == "Z":
            return (
                "%Z is not supported: abbreviations like EST are ambiguous; leave time_format out for ISO 8601 with "
                "an IANA name, write offsets as %z, or name the zone of all times in time_zone"
            )
        if directive not in known:
            return f"unknown directive %{directive}"
    return None


def zone_problem(written: str) -> str | None:
    """What is wrong with the name of a time zone; None: nothing."""
    zones = available_timezones()  # none on a machine without a database of them
    if not zones or written in zones:
        return None
    near = closest(written, zones)
    return f"unknown time zone {written!r}" + (f"; did you mean {near!r}?" if near else "")


@dataclass(frozen=True)
class TimeFormat:
    """How times are written.

    Attributes:
        format: A key of `UNITS`, one of `ORDERS`, or a pattern of `strptime`; None: ISO 8601, and numbers are seconds.
        zone: IANA name of the zone of times that name none; None: UTC.
    """

    format: str | None = None
    zone: str | None = None

    @property
    def unit(self) -> str | None:
        """The unit of numbers; None: numbers are no times."""
        return "seconds" if self.format is None else self.format if self.format in UNITS else None


@dataclass(frozen=True)
class Reading:
    """How a column of times was read: how many of them were what.

    Attributes:
        unit: Of those that are numbers; None where there are none.
        zone: Of those that name none.
        numbers: Read as numbers of that unit.
        local: Read in that zone.
        zoned: With a zone of their own.
        cut: With digits below the microsecond, which were cut off.
        twice: Times that the clocks of their zone showed twice, read as the first.
        first, last: The least and the greatest, in UTC; None where there is none.
    """

    unit: str | None
    zone: str
    numbers: int
    local: int
    zoned: int
    cut: int
    twice: int
    first: str | None
    last: str | None


def count_reading(con: Any, relation: str, form: TimeFormat) -> Reading:
    """The counts of a relation that has the columns of `with_times`."""
    counts = ", ".join(f"count(*) FILTER (time_kind = '{kind}')" for kind in ("number", "local", "zoned"))
    numbers, local, zoned, cut, twice, first, last = con.execute(
        f"SELECT {counts}, count(*) FILTER (time_cut), count(*) FILTER (time_twice), min(time), max(time) "
        f"FROM {relation} WHERE time IS NOT NULL"
    ).fetchone()
    unit, zone = form.unit if numbers else None, form.zone or "UTC"
    return Reading(unit, zone, numbers, local, zoned, cut, twice, *(shown_time(t) for t in (first, last)))


def shown_time(microseconds: int | None) -> str | None:
    """A time in ISO 8601, UTC, with as many digits of the second as it needs."""
    if microseconds is None:
        return None
    return (datetime(1970, 1, 1) + timedelta(microseconds=microseconds)).isoformat(" ")


def as_position(sql: str, kind: str) -> str:
    """A value as a place in an order (BIGINT): a whole number below `LARGEST_POSITION`, else NULL."""
    digits = as_id(sql, kind)
    whole = f"CASE WHEN regexp_full_match({digits}, '[+-]?\\d+') THEN try_cast({digits} AS BIGINT) END"
    # No abs(): that of the smallest BIGINT is none.
    return f"CASE WHEN {whole} > -{LARGEST_POSITION} AND {whole} < {LARGEST_POSITION} THEN {whole} END"


PROBLEMS = {
    "format": "the time is not in the format", "range": "the time is not in the years 1900 to 2199",
    "zone": "the time has an unknown time zone", "gap": "the time does not exist in its time zone (clock change)",
}  # fmt: skip
"""Why a time is unusable: code → words."""


def with_times(con: Any, relation: str, column: str, kind: str, form: TimeFormat) -> str:
    """SQL of a relation with the times of a column.

    Adds five columns: `time` (BIGINT, microseconds since 1970 in UTC; NULL: none), `time_kind` (`number`, `local` or
    `zoned`), `time_cut` (whether digits below the microsecond were cut off), `time_twice` (whether it is a local time
    that the clocks showed twice; it is read as the first) and `time_problem` (a key of `PROBLEMS`; NULL where there is
    a time, or none is given).

    Args:
        con: A connection, asked for the zones that it knows.
        relation: SQL of the relation; none of its columns begins with `t_`.
        column: Its column.
        kind: The column's DuckDB type.
        form: How times are written.

    Raises:
        DataError: The zone is none that DuckDB knows.
    """
    _check_zone(con, form)
    value = name(column)
    staged = _stage(relation, t_text=present(value, kind))
    if is_list(kind) or is_structure(kind) or kind in ("TIME", "INTERVAL", "BOOLEAN"):
        staged = _stage(staged, t_local=_NO_TIME, t_us="0", t_cut="false", t_zone=_NO_TEXT, t_utc=_NO_NUMBER)
    elif kind == "TIMESTAMP WITH TIME ZONE":
        exact = f"CASE WHEN isfinite({value}) THEN epoch_us({value}) END"
        staged = _stage(staged, t_local=_NO_TIME, t_us="0", t_cut="false", t_zone="'Z'", t_utc=exact)
    elif kind.startswith("TIMESTAMP") or kind == "DATE":
        staged = _typed(staged, value, kind)
    else:
        if is_number(kind) and form.unit is None:  # digits that the pattern takes apart
            staged = f"(SELECT * REPLACE ({as_id(value, kind)} AS t_text) FROM {staged})"
        staged = _written(staged, form)
    return _in_zone(staged, form)


_NO_TIME, _NO_TEXT, _NO_NUMBER = "CAST(NULL AS TIMESTAMP)", "CAST(NULL AS VARCHAR)", "CAST(NULL AS HUGEINT)"
_KNOWN_ZONES = "SELECT name FROM pg_timezone_names()"
_IS_UTC = "upper(t_zone) IN ('Z', 'UTC', 'GMT')"
_DAY = 86_400_000_000


def _stage(relation: str, **columns: str) -> str:
    """SQL of a relation with more columns, which later stages may name as often as they like."""
    return f"(SELECT *, {', '.join(f'{sql} AS {column}' for column, sql in columns.items())} FROM {relation})"


def _check_zone(con: Any, form: TimeFormat) -> None:
    if form.zone is None:
        return
    known = {zone for (zone,) in con.execute(_KNOWN_ZONES).fetchall()}
    if form.zone not in known:
        raise DataError(
            f"unknown time zone {form.zone!r}",
            code="zone-unknown",
            allowed=sorted(known),
            hint="use a name like Europe/Berlin",
        )


def _typed(relation: str, value: str, kind: str) -> str:
    if kind == "TIMESTAMP_NS":
        rest = f"((epoch_ns({value}) % 1000) + 1000) % 1000"
        moment, cut = f"make_timestamp((epoch_ns({value}) - {rest}) // 1000)", f"epoch_ns({value}) % 1000 <> 0"
    else:
        moment, cut = f"CAST({value} AS TIMESTAMP)", "false"
    local = f"CASE WHEN isfinite({value}) THEN {moment} END"
    return _stage(relation, t_local=local, t_us="0", t_cut=cut, t_zone=_NO_TEXT, t_utc=_NO_NUMBER)


def _written(relation: str, form: TimeFormat) -> str:
    """Numbers and texts: `t_utc` of a number, or `t_local`, `t_us` and `t_zone`."""
    relation = _number(relation, form.unit)
    if form.format is not None and "%" in form.format:
        return _by_pattern(relation, form.format)
    relation = _stage(relation, t_iso=f"regexp_extract(t_text, {text(f'^{_ISO}$')}, {_names(_ISO_PARTS)})")
    relation = _stage(relation, **{f"t_p_{part}": f"t_iso.{part}" for part in _ISO_PARTS}, t_p_half="''")
    if form.format in ORDERS:
        parts = _SLASHED_PARTS[form.format]
        relation = _stage(relation, t_slash=f"regexp_extract(t_text, {text(f'^{_SLASHED}$')}, {_names(parts)})")
        chosen = ", ".join(
            f"CASE WHEN t_p_y = '' THEN t_slash.{part} ELSE t_p_{part} END AS t_p_{part}"
            for part in (*_ISO_PARTS, "half")
        )
        relation = f"(SELECT * REPLACE ({chosen}) FROM {relation})"
    return _stage(
        relation, t_local=f"CASE WHEN t_p_y <> '' THEN try_cast({_DATE} || ' ' || {_HOURS} AS TIMESTAMP) END",
        t_us="CAST(rpad(t_p_f[:6], 6, '0') AS INTEGER)",
        t_cut="coalesce(t_n_cut OR regexp_matches(t_p_f[7:], '[1-9]'), false)", t_zone="nullif(t_p_z, '')",
        t_utc="t_n_utc",
    )  # fmt: skip


_ISO_PARTS = ("y", "m", "d", "h", "min", "s", "f", "z")
_SLASHED_PARTS = {
    "day_first": ("d", "m", "y", "h", "min", "s", "f", "half", "z"),
    "month_first": ("m", "d", "y", "h", "min", "s", "f", "half", "z"),
}
_CENTURY = "CASE WHEN len(t_p_y) > 2 THEN '' WHEN t_p_y < '69' THEN '20' ELSE '19' END"  # as strptime has it
_DATE = f"{_CENTURY} || t_p_y || '-' || lpad(t_p_m, 2, '0') || '-' || lpad(t_p_d, 2, '0')"
_LATE = "CASE WHEN upper(t_p_half[1]) = 'P' THEN 12 ELSE 0 END"
_OF_TWELVE = f"lpad(CAST(try_cast(t_p_h AS INTEGER) % 12 + {_LATE} AS VARCHAR), 2, '0')"
_HOUR = (
    "CASE WHEN t_p_h = '' THEN '00' WHEN t_p_half = '' THEN lpad(t_p_h, 2, '0') "
    f"WHEN try_cast(t_p_h AS INTEGER) BETWEEN 1 AND 12 THEN {_OF_TWELVE} ELSE '99' END"
)
_HOURS = f"{_HOUR} || ':' || lpad(t_p_min, 2, '0') || ':' || lpad(t_p_s, 2, '0')"


def _names(parts: Sequence[str]) -> str:
    return f"[{', '.join(map(text, parts))}]"


def _by_pattern(relation: str, pattern: str) -> str:
    """A pattern with `%z` gives an instant, others a local time; of the digits of `%n` the last three are cut off."""
    directives = pattern.replace("%%", "")
    found = _stage(relation, t_found=f"try_strptime(t_text, {text(pattern)})")
    if "%n" in directives:  # cut towards the past
        found = _stage(found, t_ns="epoch_ns(t_found)")
        found = _stage(found, t_below="((t_ns % 1000) + 1000) % 1000")
        local, cut = "make_timestamp((t_ns - t_below) // 1000)", "coalesce(t_below <> 0, false)"
    else:
        local, cut = "make_timestamp(epoch_us(t_found))", "false"
    zone = "'Z'" if "%z" in directives else _NO_TEXT
    return _stage(found, t_local=local, t_us="0", t_cut=cut, t_zone=zone, t_utc="t_n_utc")


def _number(relation: str, unit: str | None) -> str:
    """Add `t_n_utc` (HUGEINT, NULL for what is no number) and `t_n_cut`, by digits: no float comes in between."""
    if unit is None:
        return _stage(relation, t_n_utc=_NO_NUMBER, t_n_cut="CAST(NULL AS BOOLEAN)")
    relation = _stage(relation, t_is_number=f"regexp_full_match(t_text, {text(NUMBER)})")
    plain = "CAST(try_cast(t_text AS DECIMAL(38,15)) AS VARCHAR)"
    plain = f"CASE WHEN contains(t_text, 'e') OR contains(t_text, 'E') THEN {plain} ELSE t_text END"
    relation = _stage(relation, t_n_text=f"CASE WHEN t_is_number THEN {plain} END")
    relation = _stage(relation, t_n=f"regexp_extract(t_n_text, {text(f'^{_DIGITS}$')}, ['sign', 'whole', 'part'])")
    kept = UNITS[unit]
    if kept >= 0:
        digits, rest = f"'0' || t_n.whole || rpad(t_n.part[:{kept}], {kept}, '0')", f"t_n.part[{kept + 1}:]"
    else:
        whole = "lpad('0' || t_n.whole, 40, '0')"
        digits, rest = f"({whole})[:{40 + kept}]", f"({whole})[{41 + kept}:] || t_n.part"
    fits = f"t_n_text IS NOT NULL AND len(t_n.whole) < {39 - max(kept, 0)}"
    relation = _stage(
        relation, t_n_size=f"CASE WHEN {fits} THEN try_cast({digits} AS HUGEINT) END",
        t_n_cut=f"regexp_matches({rest}, '[1-9]')",
    )  # fmt: skip
    # Cut towards the past, so that no time passes another; what is too large to be told is out of the range.
    signed = "CASE WHEN t_n.sign = '-' THEN -t_n_size - CAST(t_n_cut AS INTEGER) ELSE t_n_size END"
    return _stage(relation, t_n_utc=f"CASE WHEN t_is_number THEN coalesce({signed}, {LAST}) END")


def _in_zone(relation: str, form: TimeFormat) -> str:
    """From `t_local`, `t_us`, `t_zone` and `t_utc` to the columns of `with_times`."""
    own = text(form.zone) if form.zone else _NO_TEXT
    relation = _stage(
        relation, t_l="epoch_us(t_local)", t_z=f"regexp_extract(t_zone, {text(_OFFSET)}, ['sign', 'h', 'min', 's'])",
        t_z_name=f"CASE WHEN t_zone IN ({_KNOWN_ZONES} WHERE name LIKE '%/%') THEN t_zone WHEN t_zone IS NULL "
                 f"THEN {own} END",
    )  # fmt: skip
    relation = _stage(relation, t_z_offset=_offset(form))
    # A local time is one of two instants, by the offset of the day before and that of the day after. It is both if the
    # clocks were put back in between, none if they were put forward.
    sides = {"before": f"t_l - {_DAY}", "after": f"t_l + {_DAY}"}
    relation = _stage(relation, **{
        f"t_z_{side}": f"CASE WHEN t_z_name IS NOT NULL THEN t_l - ({_shown(near)} - ({near})) END"
        for side, near in sides.items()
    })  # fmt: skip
    relation = _stage(relation, **{
        f"t_ok_{side}": f"coalesce({_shown(f't_z_{side}')} = t_l, false)" for side in sides
    })  # fmt: skip
    named = (
        "CASE WHEN t_ok_before AND t_ok_after THEN least(t_z_before, t_z_after) WHEN t_ok_before THEN t_z_before "
        "WHEN t_ok_after THEN t_z_after END"
    )
    instant = f"CASE WHEN t_z_offset IS NOT NULL THEN t_l - t_z_offset ELSE {named} END"
    relation = _stage(relation, t_u=f"coalesce(t_utc, {instant} + t_us)")
    relation = _stage(relation, t_fits=f"coalesce(t_u >= {FIRST} AND t_u < {LAST}, false)")
    return _stage(
        relation, time="CASE WHEN t_fits THEN CAST(t_u AS BIGINT) END",
        time_kind="CASE WHEN NOT t_fits THEN NULL WHEN t_zone IS NOT NULL THEN 'zoned' WHEN t_utc IS NOT NULL "
                  "THEN 'number' ELSE 'local' END",
        time_cut="coalesce(t_cut AND t_fits, false)",
        time_twice="t_utc IS NULL AND t_z_offset IS NULL AND t_ok_before AND t_ok_after AND t_z_before <> t_z_after",
        time_problem="CASE WHEN t_text IS NULL OR t_fits THEN NULL WHEN t_u IS NOT NULL THEN 'range' "
                     "WHEN t_local IS NULL THEN 'format' WHEN t_z_offset IS NULL AND t_z_name IS NULL THEN 'zone' "
                     "ELSE 'gap' END",
    )  # fmt: skip


def _offset(form: TimeFormat) -> str:
    """Microseconds that a zone without a name is ahead of UTC; NULL for one with a name."""
    parts = (("h", 3600), ("min", 60), ("s", 1))
    seconds = " + ".join(f"{size} * coalesce(try_cast(t_z.{part} AS INTEGER), 0)" for part, size in parts)
    sign = "CASE WHEN t_z.sign = '-' THEN -1000000 ELSE 1000000 END"
    written = f"WHEN t_z.h <> '' AND t_z.h < '24' THEN CAST({seconds} AS BIGINT) * {sign}"
    return f"CASE WHEN {_IS_UTC} THEN 0 {written} {'' if form.zone else 'WHEN t_zone IS NULL THEN 0'} END"


def _shown(instant: str) -> str:
    """What the clocks of `t_z_name` show at an instant, both in microseconds."""
    return f"epoch_us(timezone(t_z_name, make_timestamptz({instant})))"
