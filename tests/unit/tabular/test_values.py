"""Any value that Python writes is read as it is, or is NULL, which is counted: against Python's own conversions."""

from __future__ import annotations

import contextlib
import json
import math
from decimal import Decimal
from fractions import Fraction

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.tabular.lists import as_list, parse_list, parse_lists
from llmcf_cli.tabular.values import WHITE, as_id, as_number, as_text, present, was_whole_float

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
spaces = st.text(st.sampled_from(WHITE), max_size=3)


@pytest.fixture(scope="module")
def con():
    with duckdb.connect() as connection:
        yield connection


def convert(con, values, kind, *expressions):
    con.execute(f"CREATE OR REPLACE TABLE given (n INTEGER, v {kind})")
    con.executemany("INSERT INTO given VALUES (?, ?)", list(enumerate(values)))
    return con.execute(f"SELECT {', '.join(expressions)} FROM given ORDER BY n").fetchall()


def bare(value: str) -> str | None:
    """A text as `str.strip` has it, the byte order mark taken for white space too."""
    value = value.strip(WHITE)
    return None if value in ("", "nan", "NaN") else value


def test_white_space_is_pythons():
    assert {chr(n) for n in range(0x110000) if chr(n).isspace()} | {"\ufeff"} == set(WHITE)


@given(st.lists(st.tuples(spaces, texts, spaces), min_size=1, max_size=8))
def test_texts_lose_the_white_space_around_them(con, parts):
    values = ["".join(part) for part in parts]
    found = convert(con, values, "VARCHAR", present("v", "VARCHAR"), as_text("v", "VARCHAR"))
    assert found == [(bare(value), bare(value)) for value in values]


@given(st.lists(st.floats(), min_size=1, max_size=8))
def test_ids_of_floats(con, values):
    found = convert(
        con, values, "DOUBLE", as_id("v", "DOUBLE"), was_whole_float("v", "DOUBLE"), as_number("v", "DOUBLE")
    )
    for value, (identifier, whole, number) in zip(values, found, strict=True):
        if not math.isfinite(value):
            assert (identifier, whole, number) == (None, False, None)
            continue
        assert number == value
        if abs(value) >= 2**53:
            assert (identifier, whole) == (None, False), "it may not be the number that was meant"
        elif value == int(value):
            assert (identifier, whole) == (str(int(value)), True)
        else:
            assert (float(identifier), whole) == (value, False)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=8))
def test_ids_of_whole_numbers(con, values):
    assert convert(con, values, "BIGINT", as_id("v", "BIGINT")) == [(str(value),) for value in values]
    assert convert(con, list(map(str, values)), "VARCHAR", as_id("v", "VARCHAR")) == [(str(v),) for v in values]


@given(st.lists(st.floats(-(2.0**52), 2.0**52).map(lambda x: float(round(x))), min_size=1, max_size=8))
def test_a_whole_float_is_the_same_id_in_every_format(con, values):
    expected = [(str(int(value)), True) for value in values]
    for kind in ("DOUBLE", "VARCHAR"):
        given_values = values if kind == "DOUBLE" else [f"{value:.1f}" for value in values]
        assert convert(con, given_values, kind, as_id("v", kind), was_whole_float("v", kind)) == expected


@given(st.lists(st.one_of(texts, st.floats().map(repr), st.integers().map(str), st.decimals().map(str)), min_size=1))
def test_numbers_of_texts_are_the_nearest_or_none(con, values):
    found = convert(con, values, "VARCHAR", as_number("v", "VARCHAR"))
    for value, (number,) in zip(values, found, strict=True):
        if number is not None:
            assert number == float(value.strip(WHITE)), value
            continue
        with contextlib.suppress(ValueError):  # Python reads digits of other scripts, and 1_000: we do not
            assert not math.isfinite(float(value)) or not value.strip(WHITE).isascii() or "_" in value, value


@pytest.mark.parametrize(
    ("kind", "value", "identifier", "text"),
    [
        ("DECIMAL(10,2)", Decimal("12.00"), "12", "12"), ("DECIMAL(10,2)", Decimal("12.50"), "12.50", "12.50"),
        ("FLOAT", 16777218.0, None, "16777218"), ("FLOAT", 0.5, "0.5", "0.5"), ("BOOLEAN", True, "true", "true"),
        ("VARCHAR", "-0.0", "0", "-0.0"), ("VARCHAR", "007.0", "007", "007.0"), ("VARCHAR", "1.50", "1.50", "1.50"),
        ("BLOB", b" abc ", "abc", "abc"), ("BLOB", b"\xff", None, None), ("VARCHAR[]", ["a"], None, '["a"]'),
    ],
)  # fmt: skip
def test_other_types(con, kind, value, identifier, text):
    assert convert(con, [value], kind, as_id("v", kind), as_text("v", kind)) == [(identifier, text)]


parts_of_lists = st.lists(
    st.one_of(texts, st.integers(), st.none(), st.booleans(), st.floats(allow_nan=False)), max_size=5
)


@given(parts_of_lists, st.sampled_from([repr, json.dumps, lambda v: json.dumps(v, ensure_ascii=False)]))
def test_lists_that_python_writes_are_parsed_or_refused(parts, write):
    scalar = str if write is repr else json.dumps
    assert parse_list(write(parts)) == [p if isinstance(p, str) else scalar(p) for p in parts if p is not None]


@pytest.mark.parametrize(
    "written",
    ["['a' 'b']", "[1 2 3]", "[{'id': 1}]", '[{"id": 1}]', "['it''s']", "[a,,b]", "[,]", "[", "]", "[a] [b]", "[[a]",
     "[Science Fiction]", "(1, 2)", "['a\nb' c]", "['open]", "", "a", r"['\ud800']", "[1, 2]]"],
)  # fmt: skip
def test_what_is_no_list_is_refused(written):
    assert parse_list(written) is None


def test_lists_of_texts(con):
    values = ["Drama, Comedy", '["a", " b ", "12.0"]', "['Drama', 'Comedy']", "[bad list]", None, "  ", "nan", "[]",
              "[['a', 'b'], ['c']]", " one ", ",,a, ,"]  # fmt: skip
    con.execute("CREATE OR REPLACE TABLE given (n INTEGER, v VARCHAR)")
    con.executemany("INSERT INTO given VALUES (?, ?)", list(enumerate(values)))
    parse_lists(con, "given", "v", "parsed")
    found = con.execute(f"SELECT {as_list('v', 'VARCHAR', ',', 'parsed')} FROM given ORDER BY n").fetchall()
    assert [row[0] for row in found] == [
        ["Drama", "Comedy"], ["a", "b", "12"], ["Drama", "Comedy"], None, [], [], [], [], ["a > b", "c"], ["one"],
        ["a"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("VARCHAR[]", [" a ", "", None, "12.0", "nan", "\u00a0"], ["a", "12"]),
        ("DOUBLE[]", [1.0, 2.5, math.nan], ["1", "2.5"]),
        ("BIGINT[]", [7, None], ["7"]), ("VARCHAR[][]", [["a", "b"], ["c"]], ["a > b", "c"]), ("VARCHAR[]", None, []),
        ("INTEGER[2]", [1, 2], ["1", "2"]), ("BIGINT", 7, None), ("BIGINT", None, []),
    ],
)  # fmt: skip
def test_columns_of_lists(con, kind, value, expected):
    assert convert(con, [value], kind, as_list("v", kind, None)) == [(expected,)]


def test_fractions_are_not_rounded_twice(con):
    value = "0.1000000000000000055511151231257827021181583404541015625000000000001"
    ((number,),) = convert(con, [value], "VARCHAR", as_number("v", "VARCHAR"))
    assert abs(Fraction(number) - Fraction(value)) <= abs(Fraction(math.nextafter(number, 1)) - Fraction(value))
