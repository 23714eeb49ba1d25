"""Times against Python's datetime, zoneinfo and fractions: equal to the microsecond, or none and why."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcf_cli.core.errors import DataError
from llmcf_cli.tabular.dates import format_of_dates
from llmcf_cli.tabular.times import (
    FIRST,
    LAST,
    UNITS,
    TimeFormat,
    as_position,
    count_reading,
    format_problem,
    shown_time,
    with_times,
    zone_problem,
)  # fmt: skip

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia", "UTC"]
moments = st.datetimes(dt.datetime(1900, 1, 2), dt.datetime(2199, 12, 30))
recent = st.datetimes(dt.datetime(1975, 1, 1), dt.datetime(2035, 1, 1))  # zones' rules are known
offsets = st.integers(-14 * 60, 14 * 60).map(lambda m: dt.timezone(dt.timedelta(minutes=m)))


@pytest.fixture(scope="module")
def con():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'America/New_York'")  # must not matter
        yield connection


def read(con, values, form=TimeFormat(), kind="VARCHAR"):
    """(time, kind, cut, twice, problem) of each value."""
    con.execute(f"CREATE OR REPLACE TABLE given (number INTEGER, v {kind})")
    con.executemany("INSERT INTO given VALUES (?, ?)", list(enumerate(values)))
    return con.execute(
        "SELECT time, time_kind, time_cut, time_twice, time_problem FROM "
        f"{with_times(con, 'given', 'v', kind, form)} ORDER BY number"
    ).fetchall()


def since(moment: dt.datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


@given(st.lists(st.tuples(moments, st.one_of(st.none(), offsets), st.sampled_from([" ", "T"])), min_size=1, max_size=8))
def test_iso_times_are_those_of_datetime(con, cases):
    times = [moment.replace(tzinfo=zone) for moment, zone, _ in cases]
    found = read(con, [time.isoformat(sep) for time, (_, _, sep) in zip(times, cases, strict=True)])
    for time, result in zip(times, found, strict=True):
        kind = "local" if time.tzinfo is None else "zoned"
        assert result == (since(time if time.tzinfo else time.replace(tzinfo=dt.UTC)), kind, False, False, None)


@given(st.lists(recent, min_size=1, max_size=8), st.sampled_from(ZONES))
def test_local_times_are_those_of_zoneinfo(con, moments, zone):
    found = read(con, [moment.isoformat(" ") for moment in moments], TimeFormat(zone=zone))
    named = read(con, [f"{moment.isoformat(' ')} {zone}" for moment in moments])
    for moment, (time, _, _, twice, problem), other in zip(moments, found, named, strict=True):
        first, second = (moment.replace(tzinfo=ZoneInfo(zone), fold=fold) for fold in (0, 1))
        if first.astimezone(dt.UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) != moment:
            assert (time, problem) == (None, "gap"), "the clocks never showed it"
            continue
        assert time == since(first.astimezone(dt.UTC))
        assert twice == (first.utcoffset() != second.utcoffset())
        assert other[0] == time or "/" not in zone


@pytest.mark.parametrize("zone", ZONES[:-1])
def test_every_change_of_the_clocks(con, zone):
    """Each quarter of an hour of a year in which they change."""
    year = 2011 if zone == "Pacific/Apia" else 2019
    start = dt.datetime(year, 1, 1)
    moments = [start + dt.timedelta(minutes=15 * n) for n in range(4 * 24 * 365)]
    con.execute("CREATE OR REPLACE TABLE given AS SELECT unnest($moments) AS v", {"moments": moments})
    relation = with_times(con, "given", "v", "TIMESTAMP", TimeFormat(zone=zone))
    found = dict(con.execute(f"SELECT v, time FROM {relation}").fetchall())
    for moment in moments:
        first = moment.replace(tzinfo=ZoneInfo(zone))
        real = first.astimezone(dt.UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None) == moment
        assert found[moment] == (since(first.astimezone(dt.UTC)) if real else None), moment


def numeral(value: Fraction, digits: int) -> str:
    sign, size = "-" if value < 0 else "", abs(value)
    whole = size.numerator // size.denominator
    part = (size - whole) * 10**digits
    return f"{sign}{whole}" + (f".{part.numerator // part.denominator:0{digits}d}" if digits else "")


@given(st.lists(st.tuples(st.integers(-(10**28), 10**28), st.integers(0, 18)), min_size=1, max_size=8),
       st.sampled_from(list(UNITS)))  # fmt: skip
def test_numbers_keep_all_digits(con, cases, unit):
    values = [numeral(Fraction(digits, 10**places), places) for digits, places in cases]
    for written, (time, kind, cut, _, problem) in zip(values, read(con, values, TimeFormat(unit)), strict=True):
        exact = Fraction(written) * Fraction(10) ** UNITS[unit]
        if FIRST <= math.floor(exact) < LAST:
            assert (time, kind, cut, problem) == (math.floor(exact), "number", exact.denominator != 1, None), written
        else:
            assert (time, problem) == (None, "range"), written


@given(st.lists(st.floats(0, 4e9, allow_subnormal=False), min_size=1, max_size=8))
def test_floats_are_read_as_python_writes_them(con, values):
    for value, (time, *_, problem) in zip(values, read(con, values, kind="DOUBLE"), strict=True):
        assert (time, problem) == (math.floor(Fraction(repr(value)) * 10**6), None)
    assert [row[0] for row in read(con, list(map(repr, values)))] == [
        row[0] for row in read(con, values, kind="DOUBLE")
    ]


@given(
    st.lists(st.text(max_size=20), min_size=1, max_size=10), st.sampled_from([None, "day_first", "%Y%m%d", "seconds"])
)
def test_any_text_is_a_time_or_a_problem_or_missing(con, values, form):
    for value, (time, kind, _, _, problem) in zip(values, read(con, values, TimeFormat(form)), strict=True):
        missing = value.strip().strip("\ufeff").strip() in ("", "nan", "NaN")
        assert (time is None) == (kind is None)
        assert missing or (time is None) != (problem is None)
        assert not missing or (time, problem) == (None, None)


@given(st.lists(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(2068, 12, 31)), min_size=1, max_size=8),
       st.sampled_from(["{d}/{m}/{y} {H}:{M:02d}", "{d:02d}.{m:02d}.{y}, {H:02d}:{M:02d}:{S:02d}", "{d}-{m}-{s:02d}",
                        "{d}/{m}/{y} {h}:{M:02d} {p}"]))  # fmt: skip
def test_dates_by_the_order_of_day_and_month(con, moments, pattern):
    for form, day, month in (("day_first", "d", "m"), ("month_first", "m", "d")):
        written, expected = [], []
        for moment in moments:
            fields = {day: moment.day, month: moment.month, "y": moment.year, "s": moment.year % 100, "H": moment.hour,
                      "h": moment.hour % 12 or 12, "p": "PM" if moment.hour > 11 else "am", "M": moment.minute,
                      "S": moment.second}  # fmt: skip
            written.append(pattern.format(**fields))
            moment = moment.replace(microsecond=0, tzinfo=dt.UTC)
            moment = moment if "{S" in pattern else moment.replace(second=0)
            if "{M" not in pattern:
                century = 1900 if moment.year % 100 >= 69 else 2000
                moment = moment.replace(hour=0, minute=0, year=century + moment.year % 100)
            expected.append(since(moment))
        assert [row[0] for row in read(con, written, TimeFormat(form))] == expected


@pytest.mark.parametrize(
    ("kind", "value", "form", "expected"),
    [
        ("TIMESTAMP", dt.datetime(2020, 1, 1, 0, 0, 0, 7), TimeFormat(), "2020-01-01 00:00:00.000007"),
        ("TIMESTAMP_NS", "2020-01-01 00:00:00.000000999", TimeFormat(), "2020-01-01 00:00:00"),
        ("TIMESTAMP_NS", "1969-12-31 23:59:59.999999999", TimeFormat(), "1969-12-31 23:59:59.999999"),
        ("DATE", dt.date(2020, 7, 1), TimeFormat(zone="Europe/Berlin"), "2020-06-30 22:00:00"),
        ("TIMESTAMP WITH TIME ZONE", "2020-07-01 00:00:00+09", TimeFormat(zone="Europe/Berlin"), "2020-06-30 15:00:00"),
        ("BIGINT", 20200131, TimeFormat("%Y%m%d"), "2020-01-31 00:00:00"),
        ("DOUBLE", 20200131.0, TimeFormat("%Y%m%d"), "2020-01-31 00:00:00"),
        ("DECIMAL(18,3)", Decimal("1600000000.125"), TimeFormat(), "2020-09-13 12:26:40.125000"),
        ("BIGINT", 1600000000123456789, TimeFormat("nanoseconds"), "2020-09-13 12:26:40.123456"),
        ("VARCHAR", "31 Jan 2020 +0100", TimeFormat("%d %b %Y %z"), "2020-01-30 23:00:00"),
        ("VARCHAR", "\u00a01600000000 ", TimeFormat(), "2020-09-13 12:26:40"),
        ("ENUM('2020-01-01')", "2020-01-01", TimeFormat(), "2020-01-01 00:00:00"),
    ],
)  # fmt: skip
def test_types_and_formats(con, kind, value, form, expected):
    ((time, *_),) = read(con, [value], form, kind)
    assert shown_time(time) == expected


@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        ("12/01/2009", "VARCHAR", "format"), ("2020-01-01 00:00 EST", "VARCHAR", "zone"),
        ("2020-02-30", "VARCHAR", "format"),
        ("2020-01-01 24:00", "VARCHAR", "format"), ("0001-01-01", "VARCHAR", "range"), ("inf", "VARCHAR", "format"),
        ("2020-01-01T00:00 Nowhere/Land", "VARCHAR", "zone"), ("2020-01-01+25:00", "VARCHAR", "zone"),
        (1600000000123, "BIGINT", "range"), (math.inf, "DOUBLE", "format"), (True, "BOOLEAN", "format"),
        ("infinity", "TIMESTAMP", "format"), (["2020-01-01"], "VARCHAR[]", "format"), ("nan", "VARCHAR", None),
        (math.nan, "DOUBLE", None), (None, "TIMESTAMP", None), (" ", "VARCHAR", None),
    ],
)  # fmt: skip
def test_what_is_no_time_says_why(con, value, kind, problem):
    assert read(con, [value], kind=kind) == [(None, None, False, False, problem)]


@given(st.lists(st.tuples(recent, st.integers(0, 999)), min_size=1, max_size=8), st.sampled_from([6, 9]), st.booleans())
def test_fractions_of_patterns_are_exact_or_counted(con, cases, digits, zoned):
    """`%f` has up to 6 digits, `%n` up to 9; with `%n` what is below the microsecond is cut off and counted."""
    offset = dt.timezone(dt.timedelta(hours=5, minutes=45))
    written = []
    for moment, below in cases:
        fraction = f"{moment.microsecond:06d}{below:03d}"[:digits]
        written.append(f"{moment:%Y-%m-%d %H:%M:%S}.{fraction}" + (" +0545" if zoned else ""))
    form = TimeFormat("%Y-%m-%d %H:%M:%S." + {6: "%f", 9: "%n"}[digits] + (" %z" if zoned else ""))
    for (moment, below), (time, kind, cut, _, problem) in zip(cases, read(con, written, form), strict=True):
        assert time == since(moment.replace(tzinfo=offset if zoned else dt.UTC))
        assert (kind, cut, problem) == ("zoned" if zoned else "local", digits == 9 and below > 0, None)


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("2020-01-01 00:00:00.1234567", "%Y-%m-%d %H:%M:%S.%f"), ("2020-01-01 00:00:00.1234", "%Y-%m-%d %H:%M:%S.%g"),
        ("2020-01-01 00:00:00.1234567891", "%Y-%m-%d %H:%M:%S.%n"), ("2020-01-01 00:00 EST", "%Y-%m-%d %H:%M %z"),
    ],
)  # fmt: skip
def test_what_a_pattern_does_not_hold_is_no_time(con, value, form):
    assert read(con, [value], TimeFormat(form)) == [(None, None, False, False, "format")]


def test_readings_are_counted(con):
    values = ["1600000000", "1600000000.1234567", "2020-10-25 02:30", "2020-10-25 02:30Z", "soon", None]
    con.execute("CREATE OR REPLACE TABLE given AS SELECT unnest($values) AS v", {"values": values})
    form = TimeFormat(zone="Europe/Berlin")
    reading = count_reading(con, with_times(con, "given", "v", "VARCHAR", form), form)
    assert (reading.numbers, reading.local, reading.zoned, reading.cut, reading.twice) == (2, 1, 1, 1, 1)
    assert (reading.unit, reading.zone) == ("seconds", "Europe/Berlin")
    assert (reading.first, reading.last) == ("2020-09-13 12:26:40", "2020-10-25 02:30:00")


@given(st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=5)), min_size=1, max_size=8))
@example([-(2**63), 2**63, 2**63 - 1])
def test_positions_are_whole_numbers(con, values):
    con.execute("CREATE OR REPLACE TABLE given (number INTEGER, v VARCHAR)")
    con.executemany("INSERT INTO given VALUES (?, ?)", [(n, str(value)) for n, value in enumerate(values)])
    found = con.execute(f"SELECT {as_position('v', 'VARCHAR')} FROM given ORDER BY number").fetchall()
    for value, (place,) in zip(values, found, strict=True):
        if isinstance(value, str):
            assert place is None or place == float(value.strip("\ufeff"))
        elif isinstance(value, int) or "e" not in repr(value):
            whole = value == value and abs(value) < 10**12 and value == int(value)
            assert place == (int(value) if whole else None)


@pytest.mark.parametrize(
    ("dates", "said"),
    [(["12/01/2009", "13/01/2009"], "day_first, as '13/01/2009' shows"), (["1.2.2009", "1.13.2009"], "month_first, as"),
     (["12/01/2009"], "no value shows"), (["13/01/2009", "01/13/2009"], "no value shows")],
)  # fmt: skip
def test_a_value_that_decides_between_day_and_month_is_shown(con, dates, said):
    con.execute("CREATE OR REPLACE TABLE given AS SELECT unnest($dates) AS v", {"dates": dates})
    assert said in format_of_dates(con, "given", "v", "time_format")


@pytest.mark.parametrize(
    ("form", "fine"),
    [
        ("seconds", True),
        ("day_first", True),
        ("%Y-%m-%d", True),
        ("%q", False),
        ("hours", False),
        ("", False),
        ("%Y %Z", False),
        ("%-d.%-m.%Y %-H:%M:%S.%n %z", True),
        ("%Y %-n", False),
        ("%Y %%Z", True),
    ],
)
def test_formats_and_zones_are_checked(con, form, fine):
    assert (format_problem(form) is None) == fine
    assert zone_problem("Europe/Berlin") is None
    assert zone_problem("Europe/Bonn") is not None
    with pytest.raises(DataError):
        read(con, ["2020-01-01"], TimeFormat(zone="Europe/Bonn"))
