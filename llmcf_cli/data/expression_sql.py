"""Typed expressions → DuckDB expressions, in stages so that nothing is written twice, however deep an expression is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.data.operation_sql import (
    ARITHMETIC,
    Value,
    attempt_sql,
    column_value,
    kind_of,
    literal_value,
    plain_sql,
)
from llmcf_cli.recipe.expression import Call, Column, Literal, columns_in
from llmcf_cli.recipe.kinds import Typed
from llmcf_cli.tabular.sql import name
from llmcf_cli.tabular.times import TimeFormat, with_times
from llmcf_cli.tabular.values import as_text, present


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


@dataclass(frozen=True)
class _Stage:
    """What is computed of the columns of the stages before.

    Attributes:
        columns: SQL with its name.
        times: (column, DuckDB type, how times are written, name of the result). Beside it, in columns whose names end
            in `_cut` and `_twice`, stands what `with_times` says of it.
    """

    columns: list[str]
    times: list[tuple[str, str, TimeFormat, str]]


def time_format(call: Typed) -> TimeFormat:
    """How a call of `time` says that times are written."""
    values = [part.tree.value for part in call.args[1:] if isinstance(part.tree, Literal)]
    form, zone = (None if value is None else str(value) for value in [*values, None, None][:2])
    return TimeFormat(form, zone)


class Compiler:
    """Compiles expressions over the columns of one relation.

    Within `relation` every name begins with `_`: `raw` has those of the relation's columns, the others were computed.

    Values of kind `time` are instants in UTC.

    Args:
        columns: Column → DuckDB type.
        zone: Of times that name none; None: UTC.

    Attributes:
        raw: Column → its name within `relation`.
        fallible: Operations that may fail, in the order in which they were compiled.
        times: (text, column of the result) of all that reads times, see `_Stage`.
    """

    def __init__(self, columns: Mapping[str, str], zone: str | None = None) -> None:
        self._types = dict(columns)
        self._zone = zone
        self._stages: list[_Stage] = []
        self._values: dict[str, Value] = {}
        self._defined: set[str] = set()
        self._count = 0
        self.raw = {column: f"_c{number}" for number, column in enumerate(columns)}
        self.fallible: list[Fallible] = []
        self.times: list[tuple[str, str]] = []

    def value(self, column: str) -> Value:
        """A column as expressions read it: of a file, or as it was defined."""
        if column not in self._values:
            raw, sql_type = self.raw[column], self._types[column]
            if self._zone is not None and kind_of(sql_type) == "time":
                self._values[column] = found = self._in_zone(raw, sql_type, TimeFormat(zone=self._zone), 0, column)
                failed = f"{present(raw, sql_type)} IS NOT NULL AND {found.sql} IS NULL"
                self.fallible.append(Fallible(column, failed, f"CAST({raw} AS VARCHAR)"))
            else:
                self._values[column] = self.bind(column_value(raw, sql_type))
        return self._values[column]

    def define(self, column: str, value: Value) -> Value:
        """Give a column another value, or make a new one: expressions compiled later read it."""
        if value.kind == "null":
            value = Value("CAST(NULL AS VARCHAR)", "text", value.stage)
        self._values[column] = found = self.bind(value)
        self._defined.add(column)
        return found

    def compile(self, part: Typed, source: str, needed: Value | None = None) -> Value:
        """SQL of an expression.

        Where an expression asks whether a value is null, or says what to take instead of null, failures are foreseen
        and do not count.

        Args:
            part: The expression with its kinds.
            source: Its text.
            needed: A condition; failures count only where it holds.
        """
        tree = part.tree
        if isinstance(tree, Literal):
            return literal_value(tree, part.kind)
        if isinstance(tree, Column):
            return self.value(tree.name)
        if tree.function in ("and", "or", "coalesce", "if"):
            return self._lazy(part, source, needed)
        foreseen = len(self.fallible) if tree.function == "is null" else None
        args = [self.compile(argument, source, needed) for argument in part.args]
        del self.fallible[foreseen if foreseen is not None else len(self.fallible) :]
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
        column = self._new()
        self._stage(value.stage).columns.append(f"{value.sql} AS {column}")
        return Value(column, value.kind, value.stage + 1, value.whole)

    def relation(self, con: Any, relation: str) -> str:
        """SQL of the relation's columns and all that was compiled.

        Args:
            con: A connection, asked for time zones.
            relation: SQL of the relation.

        Raises:
            DataError: A time zone is unknown.
        """
        named = ", ".join(f"{name(column)} AS {raw}" for column, raw in self.raw.items())
        relation = f"(SELECT {named} FROM {relation})"
        for stage in self._stages:
            if stage.columns:
                relation = f"(SELECT *, {', '.join(stage.columns)} FROM {relation})"
            for column, sql_type, form, into in stage.times:
                timed = with_times(con, relation, column, sql_type, form)
                flags = f"time_cut AS {into}_cut, time_twice AS {into}_twice"
                relation = f"(SELECT COLUMNS('^_'), make_timestamp(time) AS {into}, {flags} FROM {timed})"
        return relation

    def _stage(self, number: int) -> _Stage:
        while len(self._stages) <= number:
            self._stages.append(_Stage([], []))
        return self._stages[number]

    def _new(self) -> str:
        self._count += 1
        return f"_{self._count}"

    def _lazy(self, part: Typed, source: str, needed: Value | None) -> Value:
        """What does not need all its arguments: they count as needed only where those before decide nothing."""
        assert isinstance(part.tree, Call)
        function, args, whole = part.tree.function, list[Value](), True
        for place, argument in enumerate(part.args):
            before = len(self.fallible)
            found = self.bind(self.compile(argument, source, needed))
            if function == "coalesce" and argument is not part.args[-1]:
                del self.fallible[before:]
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
        if tree.function == "time":
            return self._time(part, args[0], source, needed)
        if tree.function in ARITHMETIC or tree.function in ("log", "number"):
            return self._fallible(part, args, stage, source, needed)
        if tree.function == "text":
            return self._as_text(args[0], stage)
        if tree.function == "negative" and args[0].whole:  # the least whole number has no positive
            return Value(f"(-CAST({args[0].sql} AS HUGEINT))", "number", stage, whole=True)
        sql = plain_sql(tree, args)
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
        if tree.function == "number" and of.kind in ("number", "null"):
            return Value(of.sql if of.kind != "null" else "CAST(NULL AS DOUBLE)", "number", stage, of.whole)
        if tree.function == "number" and of.kind == "boolean":
            return Value(f"CAST({of.sql} AS BIGINT)", "number", stage, whole=True)
        bound = [self.bind(Value(arg.sql, arg.kind, stage, arg.whole)) for arg in args]
        raw = self.bind(Value(attempt_sql(tree, bound), "number", stage + 1))
        result = self.bind(Value(f"CASE WHEN isfinite({raw.sql}) THEN {raw.sql} END", "number", raw.stage))
        inputs = [arg.sql for arg in bound]
        given = [present(inputs[0], "VARCHAR")] if tree.function == "number" else inputs
        self._may_fail(tree, source, needed, given, inputs, result)
        return result

    def _time(self, part: Typed, of: Value, source: str, needed: Value | None) -> Value:
        tree, argument = part.tree, part.args[0].tree
        assert isinstance(tree, Call)
        if of.kind == "null":
            return Value("CAST(NULL AS TIMESTAMP)", "time", of.stage)
        form = time_format(part)
        if of.kind == "time" and form.zone is None:
            return of
        form = TimeFormat(form.format, form.zone or self._zone)
        if (
            isinstance(argument, Column) and argument.name not in self._defined
        ):  # a file's column is read as it stands there, as the times of interactions are
            column, sql_type, stage = self.raw[argument.name], self._types[argument.name], of.stage
        else:
            bound = self.bind(of)
            column, stage = bound.sql, bound.stage
            sql_type = {"text": "VARCHAR", "time": "TIMESTAMP"}.get(of.kind, "HUGEINT" if of.whole else "DOUBLE")
        result = self._in_zone(column, sql_type, form, stage, source[tree.start : tree.end])
        self._may_fail(tree, source, needed, [present(column, sql_type)], [column], result)
        return result

    def _in_zone(self, column: str, sql_type: str, form: TimeFormat, stage: int, source: str) -> Value:
        into = self._new()
        self._stage(stage).times.append((column, sql_type, form, into))
        self.times.append((source, into))
        return Value(into, "time", stage + 1)

    def _may_fail(
        self, tree: Call, source: str, needed: Value | None, given: Sequence[str], shown: Sequence[str], result: Value
    ) -> None:  # fmt: skip
        """Keep an operation whose result is NULL where it fails.

        Args:
            needed: Whether the row needs the result.
            given: What is not NULL where there is something to work on.
            shown: What it failed on.
        """
        conditions = [*([needed.sql] if needed else []), *(f"{sql} IS NOT NULL" for sql in given)]
        failed = " AND ".join([*conditions, f"{result.sql} IS NULL"])
        read = {column.name for column in columns_in(tree)}
        if len(read) == 1 and not read & self._defined:
            shown = [self.raw[read.pop()]]
        value = f" || ' {tree.function} ' || ".join(f"CAST({sql} AS VARCHAR)" for sql in shown)
        self.fallible.append(Fallible(source[tree.start : tree.end], failed, value))

    def _as_text(self, value: Value, stage: int) -> Value:
        if value.kind == "text":
            return value
        bound = self.bind(value)
        kind = "DOUBLE" if value.kind == "number" and not value.whole else "BIGINT"
        return Value(as_text(bound.sql, kind), "text", stage + 1)
