"""Single constants, columns and operations of expressions → SQL of DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmcf_cli.recipe.expression import COMPARISONS, Call, Literal
from llmcf_cli.recipe.kinds import Kind
from llmcf_cli.tabular.sql import text
from llmcf_cli.tabular.values import (
    WHITE,
    as_number,
    as_varchar,
    is_float,
    is_list,
    is_number,
    is_structure,
    is_text,
    is_whole,
    present,
)


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


def kind_of(sql_type: str) -> Kind:
    """What an expression takes the values of a DuckDB type for."""
    if is_list(sql_type):
        inner = kind_of(sql_type[: sql_type.rindex("[")])
        return "texts" if inner in ("text", "number", "boolean", "time") else "other"
    if is_structure(sql_type):
        return "other"
    if is_text(sql_type) or sql_type == "UUID":
        return "text"
    if is_number(sql_type):
        return "number"
    if sql_type == "BOOLEAN":
        return "boolean"
    return "time" if sql_type.startswith(("TIMESTAMP", "DATE")) else "other"


def clean_text(sql: str) -> str:
    """SQL of a text without white space around it, NULL where nothing is left."""
    return f"nullif(trim({sql}, {text(WHITE)}), '')"


ARITHMETIC = ("+", "-", "*", "/", "%")
"""Functions of two numbers that may have no result."""


def literal_value(tree: Literal, kind: Kind) -> Value:
    """A constant."""
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


def column_value(found: str, sql_type: str) -> Value:
    """A column of a file: texts trimmed, blanks and NaN as NULL, times in UTC."""
    kind = kind_of(sql_type)
    if kind == "time":
        zoned = (
            f"make_timestamp(epoch_us({found}))"
            if sql_type == "TIMESTAMP WITH TIME ZONE"
            else f"CAST({found} AS TIMESTAMP)"
        )
        return Value(f"CASE WHEN isfinite({found}) THEN {zoned} END", kind, 0)
    if kind == "text":
        written = as_varchar(found, sql_type) if is_text(sql_type) else f"CAST({found} AS VARCHAR)"
        return Value(present(written, "VARCHAR"), kind, 0)
    if kind == "texts":
        trimmed = f"list_transform(CAST({found} AS VARCHAR[]), lambda v: {clean_text('v')})"
        return Value(f"list_filter({trimmed}, lambda v: v IS NOT NULL)", kind, 0)
    if kind == "number":
        sql = f"CASE WHEN isfinite({found}) THEN {found} END" if is_float(sql_type) else found
        return Value(sql, kind, 0, whole=is_whole(sql_type))
    return Value(found, kind, 0)


def attempt_sql(tree: Call, args: Sequence[Value]) -> str:
    """SQL of an operation on numbers, or to a number; NULL or not finite where it has no result."""
    first = args[0].sql
    if tree.function in ARITHMETIC:
        return f"CAST({first} AS DOUBLE) {tree.function} CAST({args[1].sql} AS DOUBLE)"
    if tree.function == "log":
        return f"CASE WHEN {first} > 0 THEN ln(CAST({first} AS DOUBLE)) END"
    return as_number(first, "VARCHAR")


def plain_sql(tree: Call, args: Sequence[Value]) -> str:
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
