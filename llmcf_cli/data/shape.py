"""`dataset.derive` and `dataset.filter`: new columns and fewer rows of a table, before its columns get a meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.data.expression_sql import Compiler, Value, kind_of, time_format
from llmcf_cli.recipe.expression import Call, ExpressionError
from llmcf_cli.recipe.kinds import Typed
from llmcf_cli.recipe.shaping import Definition, Shaping, check_shaping
from llmcf_cli.tabular.sql import columns_of, name
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES
from llmcf_cli.tabular.times import ORDERS, UNITS, format_problem, zone_problem


@dataclass(frozen=True)
class FailedValues:
    """Values that an operation of an expression had no result for, where it was needed; they count as null.

    Attributes:
        column: The derived column; empty: the filter.
        operation: The operation as written, e.g. `number(price)`.
        count: Rows.
        examples: Up to `MAX_BAD_SAMPLES` different values.
    """

    column: str
    operation: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class FilterCount:
    """What a part of a filter dropped: rows that all parts before it keep.

    Attributes:
        condition: The part as written.
        false: Rows for which it does not hold.
        unknown: Rows for which it is null, as a value that it reads is.
    """

    condition: str
    false: int
    unknown: int


@dataclass(frozen=True)
class ShapeCount:
    """What deriving and filtering did to a table.

    Attributes:
        rows: Rows before.
        kept: Rows after.
        derived: New columns, or new values of columns.
        failed: Operations without a result.
        filtered: The parts of the filter, in order.
    """

    rows: int
    kept: int
    derived: tuple[str, ...]
    failed: tuple[FailedValues, ...]
    filtered: tuple[FilterCount, ...]


def shape(
    con: Any, relation: str, derive: Mapping[str, str], where: str | None, *, into: str, table: str
) -> tuple[str, ShapeCount | None]:
    """Create the view `into` over a relation: its columns, the derived ones, and the rows that the filter keeps.

    The relation is read once for the counts. Expressions read texts without white space around them, and blanks and
    NaN as null.

    Args:
        con: DuckDB connection.
        relation: Table, view or table function in SQL.
        derive: New column → expression.
        where: Condition of the rows to keep; None: all.
        into: Name of the view.
        table: Key of the table below `dataset.derive` and `dataset.filter`, for errors.

    Returns:
        The relation to go on with, and what was done; the relation itself and None where there is nothing to do.

    Raises:
        RecipeError: An expression is wrong, or does not fit the columns.
    """
    if not derive and where is None:
        return relation, None
    types = columns_of(con, relation)
    shaping = check_shaping(derive, where, {column: kind_of(kind) for column, kind in types.items()})
    shaping = replace(shaping, problems=(*shaping.problems, *_time_problems(shaping)))
    if shaping.problems:
        raise RecipeError([
            LlmcfError(error.what, where=place_of(table, column), allowed=error.allowed)
            for column, error in shaping.problems
        ])  # fmt: skip
    compiler = Compiler(types)
    owners = _define(compiler, shaping)
    parts = _conditions(compiler, shaping.condition)
    owners += [""] * (len(compiler.fallible) - len(owners))
    staged = compiler.relation(con, relation)
    count = _count(con, staged, compiler, owners, parts, tuple(derive))
    values = compiler.raw | {column: compiler.value(column).sql for column in derive}
    columns = [f"{values[column]} AS {name(column)}" for column in [*types, *(c for c in derive if c not in types)]]
    kept = f" WHERE {parts[-1].held.sql}" if parts else ""
    con.execute(f"CREATE OR REPLACE VIEW {name(into)} AS SELECT {', '.join(columns)} FROM {staged}{kept}")
    return name(into), count


def _time_problems(shaping: Shaping) -> Iterator[tuple[str | None, ExpressionError]]:
    """Formats and zones of times that mean nothing."""
    definitions: dict[str | None, Definition] = dict(shaping.derived)
    if shaping.condition is not None:
        definitions[None] = shaping.condition
    for column, definition in definitions.items():
        for call in _calls(definition.typed, "time"):
            form = time_format(call)
            problem = form.format is not None and format_problem(form.format)
            place = call.args[1].tree if problem else call.args[-1].tree
            problem = problem or (form.zone is not None and zone_problem(form.zone))
            if problem:
                allowed = (*UNITS, *ORDERS, "a pattern like %d/%m/%Y %H:%M") if place is call.args[1].tree else ()
                yield column, ExpressionError(problem, definition.source, place.start, allowed)


def _calls(part: Typed, function: str) -> Iterator[Typed]:
    if isinstance(part.tree, Call) and part.tree.function == function:
        yield part
    for argument in part.args:
        yield from _calls(argument, function)


def place_of(table: str, column: str | None) -> str:
    """Where the expression of a derived column, or of the filter, stands in a recipe."""
    return f"dataset.filter.{table}" if column is None else f"dataset.derive.{table}.{column}"


@dataclass(frozen=True)
class _Part:
    """A part of the filter: its text, its value, and the condition that it and all before it hold."""

    source: str
    value: Value
    held: Value


def _define(compiler: Compiler, shaping: Shaping) -> list[str]:
    """Compile the derived columns; returns the column that each operation without a sure result belongs to."""
    owners: list[str] = []
    for column, definition in shaping.derived.items():
        compiler.define(column, compiler.compile(definition.typed, definition.source))
        owners += [column] * (len(compiler.fallible) - len(owners))
    return owners


def _conditions(compiler: Compiler, condition: Definition | None) -> list[_Part]:
    """Compile the filter, one part after the other: a part is asked about rows that those before it keep."""
    found: list[_Part] = []
    held: Value | None = None
    for part in _parts(condition.typed) if condition else ():
        assert condition is not None
        value = compiler.bind(compiler.compile(part, condition.source, held))
        held = compiler.holds(value, held)
        found.append(_Part(condition.source[part.tree.start : part.tree.end], value, held))
    return found


def _parts(condition: Typed) -> tuple[Typed, ...]:
    tree = condition.tree
    return condition.args if isinstance(tree, Call) and tree.function == "and" else (condition,)


def _count(
    con: Any, staged: str, compiler: Compiler, owners: list[str], parts: list[_Part], derived: tuple[str, ...]
) -> ShapeCount:  # fmt: skip
    asked = ["true", *(one.failed for one in compiler.fallible)]
    before = "true"
    for part in parts:
        asked += [f"{before} AND {part.value.sql} IS FALSE", f"{before} AND {part.value.sql} IS NULL"]
        before = part.held.sql
    sums = ", ".join(f"count(*) FILTER ({condition})" for condition in asked)
    rows, *counts = con.execute(f"SELECT {sums} FROM {staged}").fetchone()
    failed = []
    for one, owner, count in zip(compiler.fallible, owners, counts, strict=False):
        if count:
            examples = con.execute(
                f"SELECT DISTINCT {one.value} FROM {staged} WHERE {one.failed} ORDER BY ALL LIMIT {MAX_BAD_SAMPLES}"
            ).fetchall()
            failed.append(FailedValues(owner, one.source, count, tuple(value for (value,) in examples)))
    pairs = counts[len(compiler.fallible) :]
    filtered = tuple(
        FilterCount(part.source, pairs[2 * n], pairs[2 * n + 1]) for n, part in enumerate(parts)
    )  # fmt: skip
    kept = rows - sum(one.false + one.unknown for one in filtered)
    return ShapeCount(rows, kept, derived, tuple(failed), filtered)
