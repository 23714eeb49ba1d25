"""Typed expressions → DuckDB expressions, in stages so that nothing is written twice, however deep an expression is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmcf_cli.data.raw import name, text
from llmcf_cli.recipe.expression import COMPARISONS, Call, Column, Literal
from llmcf_cli.recipe.kinds import TIME_UNITS, Kind, Typed

BLANKS = "".join(map(chr, [*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
                           0x202F, 0x205F, 0x3000, 0xFEFF]))  # fmt: skip
"""White space of any kind."""
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_ISO = r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?)?"
_ZONE = r" ?(Z|[+-]\d{2}(:?\d{2})?)"
_WHOLE = (
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "HUGEINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "UHUGEINT",
)
_MAX_WHOLE = 1 << 53
_LAST_SECOND = 253402300799  # of the year 9999


@dataclass(frozen=True)
class Value:
    """SQL of a part of an expression.

    Attributes:
        sql: An expression over the columns of a stage.
        kind: What it gives.
        stage: The least stage whose columns it can read; 0: those of the relation.
        whole: Of a number: whether its SQL type holds whole numbers only.
    """

    sql: str
    kind: Kind
    stage: int
    whole: bool = False


@dataclass(frozen=True)
class Fallible:
    """An operation that may have no result although it has its inputs.

    Attributes:
        source: Its text in the expression.
        failed: SQL: whether it was needed and failed, for one row.
        value: SQL: what it failed on, as text.
    """

    source: str
    failed: str
    value: str


def kind_of(sql_type: str) -> Kind:
    """What an expression takes the values of a DuckDB type for."""
    if sql_type.endswith("[]"):
        return "texts" if kind_of(sql_type[:-2]) in ("text", "number", "boolean", "time") else "other"
    if sql_type in ("VARCHAR", "UUID", "JSON") or sql_type.startswith("ENUM"):
        return "text"
    if sql_type in (*_WHOLE, "FLOAT", "DOUBLE") or sql_type.startswith("DECIMAL"):
        return "number"
    if sql_type == "BOOLEAN":
        return "boolean"
    return "time" if sql_type.startswith(("TIMESTAMP", "DATE")) else "other"


def clean_text(sql: str) -> str:
    """SQL of a text without white space around it, NULL where nothing is left."""
    return f"nullif(trim({sql}, {text(BLANKS)}), '')"


def number_of_text(sql: str) -> str:
    """SQL of a text as a number (DOUBLE), NULL where it is written in no decimal notation; may be infinite."""
    return f"CASE WHEN regexp_full_match({sql}, {text(_NUMBER)}) THEN try_cast({sql} AS DOUBLE) END"


class Compiler:
    """Compiles expressions over the columns of one relation.

    Args:
        columns: Column → DuckDB type.
    """

    def __init__(self, columns: Mapping[str, str]) -> None:
        self._types = dict(columns)
        self._stages: list[list[str]] = []
        self._values: dict[str, Value] = {}
        self._prefix = "_"
        while any(column.lower().startswith(self._prefix) for column in columns):
            self._prefix += "_"
        self._count = 0
        self.fallible: list[Fallible] = []

    def value(self, column: str) -> Value:
        """A column as expressions read it: of a file, or as it was defined."""
        if column not in self._values:
            self._values[column] = self.bind(_read(column, self._types[column]))
        return self._values[column]

    def define(self, column: str, value: Value) -> Value:
        """Give a column another value, or make a new one: expressions compiled later read it."""
        if value.kind == "null":
            value = Value("CAST(NULL AS VARCHAR)", "text", value.stage)
        self._values[column] = found = self.bind(value)
        return found

    def compile(self, part: Typed, source: str, needed: Value | None = None) -> Value:
        """SQL of an expression.

        Args:
            part: The expression with its kinds.
            source: Its text.
            needed: A condition; failures count only where it holds.
        """
        tree = part.tree
        if isinstance(tree, Literal):
            return _literal(tree, part.kind)
        if isinstance(tree, Column):
            return self.value(tree.name)
        if tree.function in ("and", "or", "coalesce", "if"):
            return self._lazy(part, source, needed)
        args = [self.compile(argument, source, needed) for argument in part.args]
        return self._eager(part, args, source, needed)

    def holds(self, condition: Value, needed: Value | None) -> Value:
        """A condition that holds where both are true, never NULL."""
        first = f"{needed.sql} AND " if needed else ""
        stage = max(condition.stage, needed.stage if needed else 0)
        return self.bind(Value(f"{first}({condition.sql}) IS TRUE", "boolean", stage))

    def bind(self, value: Value) -> Value:
        """The value as a column of the next stage, so that it may be named often."""
        if value.kind == "null":
            return value
        while len(self._stages) <= value.stage:
            self._stages.append([])
        self._count += 1
        column = f"{self._prefix}{self._count}"
        self._stages[value.stage].append(f"{value.sql} AS {column}")
        return Value(column, value.kind, value.stage + 1, value.whole)

    def relation(self, relation: str) -> str:
        """SQL of the relation with all that was compiled as further columns."""
        for stage in self._stages:
            relation = f"(SELECT *, {', '.join(stage)} FROM {relation})"
        return relation

    def _lazy(self, part: Typed, source: str, needed: Value | None) -> Value:
        """What does not need all its arguments: they count as needed only where those before decide nothing."""
        assert isinstance(part.tree, Call)
        function, args, whole = part.tree.function, list[Value](), True
        for place, argument in enumerate(part.args):
            found = self.bind(self.compile(argument, source, needed))
            args.append(found)
            if function == "if" and place == 0:
                needed, other = self.holds(found, needed), self._unless(f"{found.sql} IS TRUE", found, needed)
            elif function == "if":
                needed = other
            else:
                decided = {"and": "IS FALSE", "or": "IS TRUE", "coalesce": "IS NOT NULL"}[function]
                needed = self._unless(f"{found.sql} {decided}", found, needed)
        stage = max(arg.stage for arg in args)
        values = args[1:] if function == "if" else args
        whole = all(arg.whole or arg.kind == "null" for arg in values)
        if function == "if":
            sql = f"CASE WHEN {args[0].sql} THEN {args[1].sql} ELSE {args[2].sql} END"
        elif function == "coalesce":
            sql = f"coalesce({', '.join(arg.sql for arg in args)})"
        else:
            sql = f"({f' {function.upper()} '.join(arg.sql for arg in args)})"
        return self.bind(Value(sql, part.kind, stage, whole))

    def _unless(self, decided: str, value: Value, needed: Value | None) -> Value:
        first = f"{needed.sql} AND " if needed else ""
        stage = max(value.stage, needed.stage if needed else 0)
        return self.bind(Value(f"{first}NOT ({decided})", "boolean", stage))

    def _eager(self, part: Typed, args: Sequence[Value], source: str, needed: Value | None) -> Value:
        tree = part.tree
        assert isinstance(tree, Call)
        stage = max(arg.stage for arg in args)
        if tree.function in _ARITHMETIC or tree.function in ("log", "number", "time"):
            return self._fallible(part, args, stage, source, needed)
        if tree.function == "text":
            return self._as_text(args[0], stage)
        if tree.function == "negative" and args[0].whole:  # the least whole number has no positive
            return Value(f"(-CAST({args[0].sql} AS HUGEINT))", "number", stage, whole=True)
        sql = _plain(tree, args)
        whole = tree.function in ("length", "year", "month", "day", "hour", "weekday") or (
            tree.function == "abs" and args[0].whole
        )
        return Value(sql, part.kind, stage, whole)

    def _fallible(
        self, part: Typed, args: Sequence[Value], stage: int, source: str, needed: Value | None
    ) -> Value:  # fmt: skip
        """An operation that may have no result: it gives NULL, and whether it failed is kept."""
        tree, of = part.tree, args[0]
        assert isinstance(tree, Call)
        if tree.function in ("number", "time") and of.kind in (tree.function, "null"):
            return Value(of.sql if of.kind != "null" else "CAST(NULL AS VARCHAR)", part.kind, stage, of.whole)
        if tree.function == "number" and of.kind == "boolean":
            return Value(f"CAST({of.sql} AS BIGINT)", "number", stage, whole=True)
        bound = [self.bind(Value(arg.sql, arg.kind, stage, arg.whole)) for arg in args]
        inputs = [arg.sql for arg in bound]
        sql = _attempt(tree, bound, part.args)
        if part.kind == "number":
            raw = self.bind(Value(sql, "number", stage + 1))
            sql, stage = f"CASE WHEN isfinite({raw.sql}) THEN {raw.sql} END", raw.stage
        else:
            stage += 1
        result = self.bind(Value(sql, part.kind, stage))
        given = [f"{sql} IS NOT NULL" for sql in inputs]
        if tree.function == "number":
            given.append(f"lower({inputs[0]}) <> 'nan'")  # how tables write that there is none
        guard = [f"{needed.sql}"] if needed else []
        shown = inputs[:1] if tree.function in ("number", "time", "log") else inputs
        self.fallible.append(Fallible(
            source[tree.start : tree.end], " AND ".join([*guard, *given, f"{result.sql} IS NULL"]),
            f" || ' {tree.function} ' || ".join(f"CAST({sql} AS VARCHAR)" for sql in shown),
        ))  # fmt: skip
        return result

    def _as_text(self, value: Value, stage: int) -> Value:
        if value.kind == "text":
            return value
        if value.kind != "number" or value.whole:
            return Value(f"CAST({value.sql} AS VARCHAR)", "text", stage)
        number = self.bind(value).sql
        whole = f"{number} = trunc({number}) AND abs({number}) <= {_MAX_WHOLE}"
        sql = f"CASE WHEN {whole} THEN CAST(CAST({number} AS BIGINT) AS VARCHAR) ELSE CAST({number} AS VARCHAR) END"
        return Value(sql, "text", stage + 1)


_ARITHMETIC = ("+", "-", "*", "/", "%")


def _literal(tree: Literal, kind: Kind) -> Value:
    value = tree.value
    if value is None:
        return Value("NULL", "null", 0, whole=True)
    if isinstance(value, bool):
        return Value(str(value).upper(), kind, 0)
    if isinstance(value, str):
        return Value(text(value), kind, 0)
    if isinstance(value, int):
        return Value(f"CAST({value} AS BIGINT)", kind, 0, whole=True)
    return Value(f"CAST({text(repr(value))} AS DOUBLE)", kind, 0)


def _read(column: str, sql_type: str) -> Value:
    """A column of a file: texts trimmed, blanks and NaN as NULL, times in UTC."""
    found, kind = name(column), kind_of(sql_type)
    if kind == "text":
        return Value(clean_text(f"CAST({found} AS VARCHAR)"), kind, 0)
    if kind == "texts":
        trimmed = f"list_transform(CAST({found} AS VARCHAR[]), lambda v: {clean_text('v')})"
        return Value(f"list_filter({trimmed}, lambda v: v IS NOT NULL)", kind, 0)
    if kind == "time":
        zone = sql_type == "TIMESTAMP WITH TIME ZONE"
        return Value(f"make_timestamp(epoch_us({found}))" if zone else f"CAST({found} AS TIMESTAMP)", kind, 0)
    if kind == "number":
        real = sql_type in ("FLOAT", "DOUBLE")
        sql = f"CASE WHEN NOT isnan({found}) THEN {found} END" if real else found
        return Value(sql, kind, 0, whole=sql_type in _WHOLE)
    return Value(found, kind, 0)


def _attempt(tree: Call, args: Sequence[Value], parts: Sequence[Typed]) -> str:
    """SQL of an operation, NULL or not finite where it has no result."""
    first = args[0].sql
    if tree.function in _ARITHMETIC:
        return f"CAST({first} AS DOUBLE) {tree.function} CAST({args[1].sql} AS DOUBLE)"
    if tree.function == "log":
        return f"CASE WHEN {first} > 0 THEN ln(CAST({first} AS DOUBLE)) END"
    if tree.function == "number":
        return number_of_text(first)
    form = parts[1].tree.value if len(parts) > 1 else None  # type: ignore[union-attr]
    if args[0].kind == "number":
        factor = TIME_UNITS[str(form)]
        micros = f"CAST({first} AS HUGEINT) * {factor}" if args[0].whole else f"round({first} * {factor})"
        inside = f"{first} BETWEEN {-_LAST_SECOND * 1_000_000 // factor} AND {_LAST_SECOND * 1_000_000 // factor}"
        return f"CASE WHEN {inside} THEN make_timestamp(CAST({micros} AS BIGINT)) END"
    if form is None:
        zoned = f"regexp_full_match({first}, {text(_ISO + _ZONE)})"
        plain = f"regexp_full_match({first}, {text(_ISO)})"
        return (
            f"CASE WHEN {zoned} THEN make_timestamp(epoch_us(try_cast({first} AS TIMESTAMPTZ))) "
            f"WHEN {plain} THEN try_cast({first} AS TIMESTAMP) END"
        )
    return f"make_timestamp(epoch_us(try_strptime({first}, {text(str(form))})))"


def _plain(tree: Call, args: Sequence[Value]) -> str:
    """SQL of an operation that has a result wherever it has its inputs."""
    sql = [arg.sql for arg in args]
    if tree.function in COMPARISONS:
        return f"({sql[0]} {tree.function} {sql[1]})"
    if tree.function == "in":
        return f"({sql[0]} IN ({', '.join(sql[1:])}))"
    if tree.function in _FORMS:
        return _FORMS[tree.function].format(*sql)
    if tree.function == "contains" and args[0].kind == "texts":
        return f"list_contains({sql[0]}, {sql[1]})"
    if tree.function == "length" and args[0].kind == "texts":
        return f"len({sql[0]})"
    if tree.function in ("replace", "trim"):
        return clean_text(f"replace({', '.join(sql)})" if tree.function == "replace" else sql[0])
    if tree.function == "split":
        return clean_text(f"list_extract(string_split({sql[0]}, {sql[1]}), {sql[2]})")
    if tree.function == "parts":
        trimmed = f"list_transform(string_split({sql[0]}, {sql[1]}), lambda v: {clean_text('v')})"
        return f"list_filter({trimmed}, lambda v: v IS NOT NULL)"
    if tree.function == "abs":
        return f"abs(CAST({sql[0]} AS {'HUGEINT' if args[0].whole else 'DOUBLE'}))"
    if tree.function == "round":
        return f"round(CAST({sql[0]} AS DOUBLE), CAST({sql[1] if sql[1:] else 0} AS INTEGER))"
    return f"{tree.function}({', '.join(sql)})"


_FORMS = {
    "not": "(NOT {0})", "is null": "({0} IS NULL)", "negative": "(-CAST({0} AS DOUBLE))",
    "floor": "floor(CAST({0} AS DOUBLE))", "weekday": "isodow({0})",
}  # fmt: skip
