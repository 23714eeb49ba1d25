"""Random expressions: a plain Python evaluator against DuckDB, failures counted alike."""

import datetime as dt
import functools
import itertools
import math
import re
from collections import Counter

import duckdb
import pyarrow as pa
import pytest
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.data.shape import shape
from llmcf_cli.recipe.expression import Call, Column, Literal, parse
from llmcf_cli.recipe.shaping import check_shaping

COLUMNS = {"t": "text", "u": "text", "n": "number", "w": "number", "b": "boolean", "d": "time", "l": "texts"}
_words = st.sampled_from(["a", "B b", "ab", "7", "-2.5", "1e3", "nan", "x-y", " é ", "", "\u00a0", "2020-02-03 04:05"])
_reals = st.one_of(st.none(), st.sampled_from([0.0, 1.0, -2.5, 3.25, 1e12, math.nan, 0.1]))
_rows = st.lists(
    st.fixed_dictionaries({
        "t": st.one_of(st.none(), _words), "u": st.one_of(st.none(), _words), "n": _reals,
        "w": st.one_of(st.none(), st.integers(-5, 5), st.just(2**52 + 1)), "b": st.one_of(st.none(), st.booleans()),
        "d": st.one_of(st.none(), st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2100, 1, 1))),
        "l": st.one_of(st.none(), st.lists(st.one_of(st.none(), _words), max_size=3)),
    }),
    min_size=1, max_size=4,
)  # fmt: skip
SCHEMA = pa.schema([
    ("t", pa.string()), ("u", pa.string()), ("n", pa.float64()), ("w", pa.int64()), ("b", pa.bool_()),
    ("d", pa.timestamp("us")), ("l", pa.list_(pa.string())),
])  # fmt: skip


LEAVES = {
    "text": ["t", "u", '"a"', '"7"', "'x-y'"], "number": ["n", "w", "2", "0.5", "-3"],
    "boolean": ["b", "true", "false"], "time": ["d"], "texts": ["l", 'parts(t, "-")'],
}  # fmt: skip
OPERATIONS = {
    "text": [
        ("lower({})", "text"), ("trim({})", "text"), ('replace({}, "a", {})', "text", "text"),
        ('split({}, "-", 2)', "text"), ('split({}, " ", -1)', "text"), ("text({})", "boolean"),
    ],
    "number": [
        *((f"({{}} {sign} {{}})", "number", "number") for sign in "+-*/%"), ("number({})", "text"),
        ("number({})", "boolean"), ("floor({})", "number"), ("abs({})", "number"), ("log({})", "number"),
        ("(-{})", "number"), ("length({})", "text"), ("length({})", "texts"), ("year({})", "time"),
        ("month({})", "time"),
        ("day({})", "time"), ("hour({})", "time"), ("weekday({})", "time"),
    ],
    "boolean": [
        ("({} and {} and {})", "boolean", "boolean", "boolean"), ("({} or {})", "boolean", "boolean"),
        ("(not {})", "boolean"), ("({} is null)", "text"), ("({} is not null)", "number"),
        ('({} in ["a", "7"])', "text"),
        ("({} not in [0, 1.5])", "number"), ("contains({}, {})", "text", "text"), ("contains({}, {})", "texts", "text"),
        ("starts_with({}, {})", "text", "text"), ("ends_with({}, {})", "text", "text"),
        *((f"({{}} {sign} {{}})", kind, kind) for sign in ("=", "!=", "<", "<=", ">", ">=")
          for kind in ("text", "number", "time")),
    ],
    "time": [("time({})", "text"), ('time({}, "%Y-%m-%d %H:%M")', "text"), ("time({})", "time")],
    "texts": [],
}  # fmt: skip
for _kind, _forms in OPERATIONS.items():
    _forms += [("if({}, {}, {})", "boolean", _kind, _kind), ("coalesce({}, {})", _kind, _kind)]


@functools.cache
def _exprs(kind, depth):
    leaf = st.sampled_from(LEAVES[kind])
    if depth == 0:
        return leaf
    forms = [
        st.tuples(*(_exprs(k, depth - 1) for k in kinds)).map(lambda args, template=template: template.format(*args))
        for template, *kinds in OPERATIONS[kind]
    ]
    return st.sampled_from([leaf, *forms]).flatmap(lambda form: form)


_BLANK = " \t\n\r\x0b\x0c\xa0"


def _clean(text):
    return text.strip() or None


def _present(text):
    return None if text.strip() in ("nan", "NaN") else _clean(text)


class Python:
    """One row's values, computed as the documentation says."""

    def __init__(self, row, source):
        self.row, self.source, self.failed = row, source, Counter()

    def value(self, tree):
        if isinstance(tree, Literal):
            return tree.value
        if isinstance(tree, Column):
            value = self.row[tree.name]
            if isinstance(value, str):
                return _present(value)
            if isinstance(value, list):
                return [c for v in value if v is not None and (c := _clean(v)) is not None]
            return None if isinstance(value, float) and math.isnan(value) else value
        name = tree.function
        if name == "and" or name == "or":
            decisive, unknown = name == "or", False
            for arg in tree.args:
                found = self.value(arg)
                if found is decisive:
                    return decisive
                unknown |= found is None
            return None if unknown else not decisive
        if name == "if":
            return self.value(tree.args[1] if self.value(tree.args[0]) else tree.args[2])
        if name == "coalesce":
            *first, last = tree.args
            found = next((v for arg in first if (v := self.foreseen(arg)) is not None), None)
            return self.value(last) if found is None else found
        if name == "is null":
            return self.foreseen(tree.args[0]) is None
        args = [self.value(arg) for arg in tree.args]
        if any(arg is None for arg in args):
            return None
        found = getattr(self, "f_" + NAMES.get(name, name))(*args)
        if found is None and name in ("+", "-", "*", "/", "%", "log", "number", "time"):
            self.failed[tree.start, tree.end] += 1
        return found

    def foreseen(self, tree):
        """A value that may be null: failures do not count."""
        failed = self.failed.copy()
        found = self.value(tree)
        self.failed = failed
        return found

    def f_eq(self, a, b):
        return a == b

    def f_ne(self, a, b):
        return a != b

    def f_lt(self, a, b):
        return a < b

    def f_le(self, a, b):
        return a <= b

    def f_gt(self, a, b):
        return a > b

    def f_ge(self, a, b):
        return a >= b

    def f_in(self, a, *rest):
        return a in rest

    def f_not(self, a):
        return not a

    def f_negative(self, a):
        return -a

    def f_add(self, a, b):
        return _finite(float(a) + float(b))

    def f_sub(self, a, b):
        return _finite(float(a) - float(b))

    def f_mul(self, a, b):
        return _finite(float(a) * float(b))

    def f_div(self, a, b):
        return _finite(float(a) / float(b)) if b else None

    def f_mod(self, a, b):
        return math.fmod(float(a), float(b)) if b else None

    def f_lower(self, a):
        return a.lower()

    def f_trim(self, a):
        return _clean(a)

    def f_replace(self, a, b, c):
        return _clean(a.replace(b, c))

    def f_split(self, a, s, n):
        parts = a.split(s)
        place = n - 1 if n > 0 else len(parts) + n
        return _clean(parts[place]) if 0 <= place < len(parts) else None

    def f_parts(self, a, s):
        return [c for part in a.split(s) if (c := _clean(part)) is not None]

    def f_text(self, a):
        if isinstance(a, bool):
            return str(a).lower()
        raise AssertionError("texts of numbers have tests of their own")

    def f_number(self, a):
        if isinstance(a, bool | int | float):
            return a
        try:
            value = float(a)
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def f_floor(self, a):
        return float(math.floor(a))

    def f_abs(self, a):
        return abs(a)

    def f_log(self, a):
        return math.log(a) if a > 0 else None

    def f_length(self, a):
        return len(a)

    def f_contains(self, a, b):
        return b in a

    def f_starts_with(self, a, b):
        return a.startswith(b)

    def f_ends_with(self, a, b):
        return a.endswith(b)

    def f_year(self, a):
        return a.year

    def f_month(self, a):
        return a.month

    def f_day(self, a):
        return a.day

    def f_hour(self, a):
        return a.hour

    def f_weekday(self, a):
        return a.isoweekday()

    def f_time(self, a, form=None):
        if isinstance(a, dt.datetime):
            return a
        try:
            if form is None and (isinstance(a, int | float) or NUMERAL.fullmatch(a)):
                found = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=float(a))
            else:
                found = dt.datetime.strptime(a, form or "%Y-%m-%d %H:%M")
        except (ValueError, OverflowError):
            return None
        return found if dt.datetime(1900, 1, 1) <= found < dt.datetime(2200, 1, 1) else None


NUMERAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NAMES = {"=": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "+": "add", "-": "sub", "*": "mul",
         "/": "div", "%": "mod"}  # fmt: skip


def _finite(value):
    return value if math.isfinite(value) else None


def _run(rows, derive, where):
    with duckdb.connect() as con:
        con.register("rows", pa.Table.from_pylist(rows, SCHEMA))
        con.execute("SET TimeZone = 'UTC'")
        con.execute("CREATE TABLE t AS SELECT row_number() OVER () AS row_number, * FROM rows")
        relation, count = shape(con, "t", derive, where, into="shaped", table="interactions")
        found = con.sql(f"SELECT * FROM {relation} ORDER BY row_number").to_arrow_table().to_pylist()
    return [{column: _in_utc(value) for column, value in row.items()} for row in found], count


def _in_utc(value):
    return value.astimezone(dt.UTC).replace(tzinfo=None) if isinstance(value, dt.datetime) and value.tzinfo else value


def _check(rows, expressions):
    """Every expression as a derived column: values and failures against Python's."""
    found, count = _run(rows, {f"e{n}": expression for n, expression in enumerate(expressions)}, None)
    by_operation = {(one.column, one.operation): 0 for one in count.failed}
    for one in count.failed:  # an operation may be written twice
        by_operation[one.column, one.operation] += one.count
    wanted_failures = Counter()
    for n, expression in enumerate(expressions):
        tree = parse(expression)
        for row, given_row in zip(found, rows, strict=True):
            python = Python(given_row, expression)
            wanted, value = python.value(tree), row[f"e{n}"]
            for (start, end), failures in python.failed.items():
                wanted_failures[f"e{n}", expression[start:end]] += failures
            if isinstance(wanted, float):
                assert value == pytest.approx(wanted, rel=1e-12), (expression, given_row)
            else:
                assert value == wanted, (expression, given_row)
    assert by_operation == dict(wanted_failures)


@pytest.mark.parametrize("kind", list(LEAVES))
def test_every_operation_on_every_value(kind):
    texts = [None, "a", "B b", "7", "-2.5", "1e3", "nan", "x-y", "\u00a0 é ", "", "2020-02-03 04:05"]
    reals = [None, 0.0, 1.0, -2.5, 3.25, 1e12, math.nan, 0.1, 1e308]
    times = [None, dt.datetime(1999, 12, 31, 23, 59, 59, 999999), dt.datetime(2020, 2, 3, 4, 5)]
    rows = [
        {"t": t, "u": texts[(n + shift) % len(texts)], "n": reals[n % len(reals)],
         "w": (None, 0, 3, -4)[(n + shift) % 4], "b": (None, True, False)[n % 3], "d": times[n % 3],
         "l": (None, [], [t, "a", None])[(n + shift) % 3]}
        for shift in range(4) for n, t in enumerate(texts)
    ]  # fmt: skip
    expressions = [
        template.format(*args) for template, *kinds in OPERATIONS[kind]
        for args in itertools.islice(itertools.product(*(LEAVES[k] for k in kinds)), 25)
    ]  # fmt: skip
    for start in range(0, len(expressions), 200):
        _check(rows, expressions[start : start + 200])


@settings(max_examples=examples(10), deadline=None)
@given(_rows, st.data())
def test_operations_within_operations(rows, data):
    kinds = st.sampled_from(["text", "number", "boolean", "time"])
    _check(rows, [data.draw(_exprs(data.draw(kinds), 3)) for _ in range(3)])


@settings(max_examples=examples(15), deadline=None)
@given(_rows, st.data())
def test_a_filter_keeps_what_python_keeps_and_counts_the_rest_once(rows, data):
    parts = data.draw(st.lists(_exprs("boolean", 2), min_size=1, max_size=3))
    kept, count = _run(rows, {}, " and ".join(f"({part})" for part in parts))
    wanted = []
    for number, row in enumerate(rows, 1):
        values = []
        for part in parts:
            values.append(Python(row, part).value(parse(part)))
            if values[-1] is not True:
                break
        if all(value is True for value in values):
            wanted.append(number)
    assert [row["row_number"] for row in kept] == wanted
    assert count.rows == len(rows)
    assert count.kept == len(wanted)
    assert sum(one.false + one.unknown for one in count.filtered) == len(rows) - len(wanted)


def test_a_number_that_is_none_is_counted_only_where_it_is_needed():
    rows = [{"t": t, "u": None, "n": None, "w": None, "b": None, "d": None, "l": None} for t in ("free", "3", "x", "")]
    found, count = _run(rows, {"p": 'if(t = "free", 0, number(t))'}, None)
    assert [row["p"] for row in found] == [0, 3, None, None]
    assert [(one.column, one.operation, one.count, one.examples) for one in count.failed] == [
        ("p", "number(t)", 1, ("x",))
    ]


def test_filter_parts_are_counted_apart_and_nulls_apart_from_them():
    rows = [{"t": t, "u": u, "n": None, "w": None, "b": None, "d": None, "l": None}
            for t, u in [("6", "UK"), ("-1", "UK"), ("abc", "UK"), ("5", None), ("", "UK"), ("7", "FR")]]  # fmt: skip
    kept, count = _run(rows, {}, 'number(t) > 0 and u = "UK"')
    assert [row["t"] for row in kept] == ["6"]
    assert [(one.condition, one.false, one.unknown) for one in count.filtered] == [
        ("number(t) > 0", 1, 2), ('u = "UK"', 1, 1),
    ]  # fmt: skip


def test_derived_columns_read_each_other_in_any_order_and_themselves_as_the_column():
    rows = [{"t": " 7 ", "u": "x", "n": 2.0, "w": 3, "b": True, "d": None, "l": None}]
    (row,), _ = _run(rows, {"total": "t * w", "t": "number(t) + 1"}, "total = 24")
    assert (row["t"], row["total"]) == (8.0, 24.0)
    problems = check_shaping({"a": "b", "b": "a", "c": "c"}, "a = 1 and zz = 2", {"t": "text"}).problems
    assert {column for column, _ in problems} == {"a", "b", "c", None}


def test_whole_numbers_beyond_doubles_stay_exact():
    rows = [{"t": None, "u": None, "n": None, "w": w, "b": None, "d": None, "l": None} for w in (2**53, 2**53 + 1)]
    kept, _ = _run(rows, {"s": "text(w)"}, f"w = {2**53 + 1}")
    assert [row["s"] for row in kept] == [str(2**53 + 1)]


@pytest.mark.parametrize(
    ("written", "form", "wanted"),
    [
        ("2020-01-02T03:04:05.25+02:00", None, dt.datetime(2020, 1, 2, 1, 4, 5, 250000)),
        ("2020-01-02 03:04Z", None, dt.datetime(2020, 1, 2, 3, 4)),
        ("2020-01-02", None, dt.datetime(2020, 1, 2)),
        ("02/01/2009 12:52", "%d/%m/%Y %H:%M", dt.datetime(2009, 1, 2, 12, 52)),
        ("02/01/2009 12:52", "%m/%d/%Y %H:%M", dt.datetime(2009, 2, 1, 12, 52)),
        ("2009-01-02 12:52 -0300", "%Y-%m-%d %H:%M %z", dt.datetime(2009, 1, 2, 15, 52)),
        ("31/02/2009", "%d/%m/%Y", None),
        ("1230898320", None, dt.datetime(2009, 1, 2, 12, 12)),
        ("1230898320250", "milliseconds", dt.datetime(2009, 1, 2, 12, 12, 0, 250000)),
        ("2/1/2009 1:05 PM", "day_first", dt.datetime(2009, 1, 2, 13, 5)),
        ("1500-01-01", None, None),
    ],
)
def test_times(written, form, wanted):
    rows = [{"t": written, "u": None, "n": None, "w": None, "b": None, "d": None, "l": None}]
    expression = f'time(t, "{form}")' if form else "time(t)"
    (row,), count = _run(rows, {"at": expression}, None)
    assert row["at"] == wanted
    assert len(count.failed) == (wanted is None)


def test_text_in_yaml_never_becomes_sql():
    hostile = "x'); DROP TABLE t; --"
    rows = [{"t": hostile, "u": None, "n": None, "w": None, "b": None, "d": None, "l": None}]
    kept, _ = _run(rows, {'a"b': "t", "c'": f'"{hostile}"'}, f'`t` = "{hostile}"')
    assert kept[0]['a"b'] == kept[0]["c'"] == hostile
    assert isinstance(parse("`a b`"), Column)
    assert isinstance(parse("lower(`a b`)"), Call)


def test_texts_of_numbers_and_times_since_1970():
    rows = [{"t": t, "u": None, "n": n, "w": w, "b": None, "d": d, "l": None}
            for t, n, w, d in [("0.000001", 12.0, 86_400, dt.datetime(2020, 7, 1, 12)), ("1e3", 2.5, -1, None),
                               (None, 1e20, None, None), (None, None, 2**62, None)]]  # fmt: skip
    derive = {
        "s": "text(n)", "at": "time(w)", "ms": 'time(n, "milliseconds")', "exact": "time(t)", "two": "time(w + 0.5)",
        "berlin": 'time(d, null, "Europe/Berlin")', "time": "hour(time(w))",
    }  # fmt: skip
    found, count = _run(rows, derive, None)
    epoch = dt.datetime(1970, 1, 1)
    assert [row["s"] for row in found] == ["12", "2.5", "1e+20", None]
    assert [row["at"] for row in found] == [dt.datetime(1970, 1, 2), epoch - dt.timedelta(seconds=1), None, None]
    assert [row["ms"] for row in found][:2] == [epoch + dt.timedelta(microseconds=us) for us in (12_000, 2_500)]
    assert [row["exact"] - epoch for row in found[:2]] == [dt.timedelta(microseconds=1), dt.timedelta(seconds=1000)]
    assert found[0]["two"] == dt.datetime(1970, 1, 2, 0, 0, 0, 500_000)
    assert found[0]["berlin"] == dt.datetime(2020, 7, 1, 10)
    assert found[0]["time"] == 0
    assert {(one.column, one.count) for one in count.failed} == {("at", 1), ("ms", 1), ("two", 1), ("time", 1)}
    rounded, _ = _run(rows, {"r": "round(n)", "q": "round(n / 3, 2)"}, "n < 100")
    assert [(row["r"], row["q"]) for row in rounded] == [(12, 4), (3, 0.83)]


@pytest.mark.parametrize(
    ("derive", "where", "said"),
    [
        ({"x": "lowr(t)"}, None, "did you mean 'lower'"), ({"x": "lower(tt)"}, None, "unknown column 'tt'"),
        ({}, "t > 3", r"write number\(t\)"), ({}, "number(t)", "must be a condition"), ({}, 't = ""', "is null"),
        ({}, "w = null", "is null"), ({"x": "time(t, '%Q')"}, None, "directive %Q"),
        ({"x": "1 < 2 < 3"}, None, "chain"),
        ({"x": 'time(t, null, "Mars")'}, None, "Mars"), ({}, "t", "must be a condition"),
        ({"x": "year(t)"}, None, r"time\(t"),
        ({"x": "((((t"}, None, "expected"), ({"x": "t +"}, None, "the end"), ({"x": 'split(t, "", 1)'}, None, "empty"),
        ({"x": 'split(t, "a", 0)'}, None, "whole number"), ({"x": "if(t, 1, 2)"}, None, "condition"),
        ({"x": 'if(b, 1, "a")'}, None, "one kind"), ({"x": "lower(t, u)"}, None, "2 arguments"),
        ({"x": "(" * 100 + "w" + ")" * 100}, None, "deep"), ({"x": "w" + "+w" * 100}, None, "deep"),
        ({"x": "w" + " " * 3000}, None, "characters"), ({"x": r'"\q"'}, None, "backslash"),
        ({"x": "a & b"}, None, "and"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_place_and_remedy(derive, where, said):
    with pytest.raises(RecipeError, match=said) as error:
        _run([dict.fromkeys(COLUMNS)], derive, where)
    (problem,) = error.value.problems
    assert str(problem.where) == ("dataset.derive.interactions.x" if derive else "dataset.filter.interactions")
    assert "at character" in problem.what


def test_failures_that_are_foreseen_or_of_rows_that_go_do_not_count():
    texts = ["1", "x", "y", "3", ""]
    rows = [{**dict.fromkeys(COLUMNS), "t": t, "u": u} for t, u in zip(texts, "aabba", strict=True)]
    _, count = _run(rows, {"p": "number(t)"}, None)
    assert [(one.column, one.count, one.examples) for one in count.failed] == [("p", 2, ("x", "y"))]
    for derive, where in [
        ({"p": "coalesce(number(t), 0)"}, None), ({}, "number(t) is not null"), ({"p": "number(t)"}, "p is not null"),
        ({"p": "number(t)"}, "number(t) is not null and number(t) > 2"),
        ({"p": "if(number(t) is null, 0, number(t))"}, None),
    ]:  # fmt: skip
        assert _run(rows, derive, where)[1].failed == (), (derive, where)
    _, count = _run(rows, {"p": "number(t)"}, 'u = "b"')
    assert [(one.column, one.count, one.examples) for one in count.failed] == [("p", 1, ("y",))]
    _, count = _run(rows, {"p": "number(t)"}, "p > 2")  # the condition is unknown for want of the number
    assert [(one.column, one.count, one.examples) for one in count.failed] == [("p", 2, ("x", "y"))]
