"""`dataset.derive` and `dataset.filter`: new columns and fewer rows of a table, before its columns get a meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from llmcf_cli.core.errors import DataError, LlmcfError, RecipeError
from llmcf_cli.core.place import Place
from llmcf_cli.data.expression_sql import Compiler, time_format
from llmcf_cli.data.operation_sql import Value, kind_of
from llmcf_cli.data.raw import RawData, Role, reading
from llmcf_cli.data.remedies import in_expression, leave_out, quoted
from llmcf_cli.data.report import StepLog
from llmcf_cli.recipe.expression import Call, Column, ExpressionError
from llmcf_cli.recipe.features import DeriveSection, FilterSection
from llmcf_cli.recipe.kinds import Typed
from llmcf_cli.recipe.shaping import Definition, Shaping, check_shaping
from llmcf_cli.tabular.sql import columns_of, name
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES, Table
from llmcf_cli.tabular.times import ORDERS, UNITS, format_problem, zone_problem

PlaceOf = Callable[[Role, "str | None"], Place | str]
_LONGEST = 80  # characters of a value


@dataclass(frozen=True)
class FailedValues:
    """Values that an operation of an expression had no result for, where it was needed; they count as null.

    Attributes:
        column: The derived column; None: the filter.
        operation: The operation as written, e.g. `number(price)`.
        count: Rows.
        examples: Up to `MAX_BAD_SAMPLES` different values, the most frequent first; as the file has them where the
            operation reads one of its columns.
    """

    column: str | None
    operation: str
    count: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class InexactTimes:
    """Times that an expression read, and not wholly as they were written.

    Attributes:
        operation: The operation as written, or the column.
        cut: Values with digits below the microsecond, which were cut off.
        twice: Local times that the clocks of their zone showed twice, read as the first.
    """

    operation: str
    cut: int
    twice: int


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
        times: Times that were not read wholly as they were written.
    """

    rows: int
    kept: int
    derived: tuple[str, ...]
    failed: tuple[FailedValues, ...]
    filtered: tuple[FilterCount, ...]
    times: tuple[InexactTimes, ...]


def reshape(
    con: Any, raw: RawData, derive: DeriveSection, where: FilterSection, *, max_bad_rows: float = 1.0,
    log: StepLog | None = None, place: PlaceOf | None = None,
) -> RawData:  # fmt: skip
    """A data set whose tables have the derived columns, and the rows that the filter keeps.

    Args:
        con: DuckDB connection of the tables.
        raw: The tables as they were read.
        derive: The recipe's `dataset.derive`.
        where: The recipe's `dataset.filter`.
        max_bad_rows: Share of a table's rows for which an operation may have no result.
        log: Gets the steps `derive` and `filter` of each table.
        place: Where the expression of a derived column, or of the filter (None), of a table stands.

    Raises:
        RecipeError: Expressions do not fit the columns, or are about a table that there is not; all of them.
        DataError: Too many values are unusable, or no row is left.
    """
    problems: list[LlmcfError] = []
    place = place or place_of
    for role in get_args(Role):
        if role not in raw.tables and (getattr(derive, role) or getattr(where, role) is not None):
            what = f"the data set has no {role} table"
            at = next(iter(getattr(derive, role)), None)
            problems.append(LlmcfError(what, code="table-missing", where=place(role, at), allowed=tuple(raw.tables)))

    def change(role: Role, table: Table) -> Table:
        try:
            with reading(table.origin):
                relation, count = shape(
                    con, table.relation, getattr(derive, role), getattr(where, role), into=f"shaped_{role}", table=role,
                    place=place, zone=raw.meaning.times.zone if role == "interactions" else None,
                )  # fmt: skip
        except RecipeError as error:
            problems.extend(error.problems)
            return table
        if count is None:
            return table
        _stop_at_failures(count, role, max_bad_rows, place, getattr(derive, role), getattr(where, role))
        if log is not None and count.rows:
            _log(log, role, count)
        notes = (*map(_note, count.failed), *_time_notes(count.times))
        return replace(table, relation=relation, notes=(*table.notes, *notes))

    found = raw.reshaped(change)
    if problems:
        raise RecipeError(problems)
    kept = {role: text for role in found.tables if (text := getattr(where, role)) is not None}
    return replace(found, kept=kept)


def shape(
    con: Any, relation: str, derive: Mapping[str, str], where: str | None, *, into: str, table: Role,
    place: PlaceOf | None = None, zone: str | None = None,
) -> tuple[str, ShapeCount | None]:  # fmt: skip
    """Create the view `into` over a relation: its columns, the derived ones, and the rows that the filter keeps.

    The relation is read once for the counts. Expressions read texts without white space around them, and blanks and
    NaN as null. Derived times of interactions have a zone, so that whoever reads them next shifts none twice.

    Args:
        con: DuckDB connection.
        relation: Table, view or table function in SQL.
        derive: New column → expression.
        where: Condition of the rows to keep; None: all.
        into: Name of the view.
        table: Which table it is.
        place: See `reshape`.
        zone: Of times that name none; None: UTC.

    Returns:
        The relation to go on with, and what was done; the relation itself and None where there is nothing to do.

    Raises:
        RecipeError: An expression is wrong, or does not fit the columns.
    """
    if not derive and where is None:
        return relation, None
    types = columns_of(con, relation)
    shaping = check_shaping(derive, where, {column: kind_of(kind) for column, kind in types.items()})
    problems = [*shaping.problems, *_time_problems(shaping)]
    if problems:
        where_at = place or place_of
        raise RecipeError([
            LlmcfError(
                error.what, code="expression-invalid", where=where_at(table, column), allowed=error.allowed
            )
            for column, error in problems
        ])  # fmt: skip
    compiler = Compiler(types, zone)
    owners: list[str | None] = list(_define(compiler, shaping))
    parts = _conditions(compiler, shaping.condition)
    owners += [None] * (len(compiler.fallible) - len(owners))
    staged = compiler.relation(con, relation)
    count = _count(con, staged, compiler, owners, parts, tuple(derive))
    values = compiler.raw | {column: _derived(compiler.value(column), table) for column in derive}
    columns = [f"{values[column]} AS {name(column)}" for column in [*types, *(c for c in derive if c not in types)]]
    kept = f" WHERE {parts[-1].held.sql}" if parts else ""
    con.execute(f"CREATE OR REPLACE VIEW {name(into)} AS SELECT {', '.join(columns)} FROM {staged}{kept}")
    return name(into), count


def _derived(value: Value, table: Role) -> str:
    """SQL of a derived column."""
    if value.kind == "time" and table == "interactions":
        return f"make_timestamptz(epoch_us({value.sql}))"
    return value.sql


def _stop_at_failures(
    count: ShapeCount, role: Role, limit: float, place: PlaceOf, derive: Mapping[str, str], where: str | None
) -> None:  # fmt: skip
    for failed in count.failed:
        if failed.count > limit * count.rows:
            operation, column = failed.operation, failed.column
            if column is None:
                hint = f"to leave these rows out, set {leave_out(role, f'{operation} is not null', where)}"
            else:
                made = derive[column].replace(operation, f"coalesce({operation}, null)")
                out = leave_out(role, f"{in_expression(column)} is not null", where)
                hint = f"to make these values null, set dataset.derive.{role}.{column}: {quoted(made)}; to leave out " \
                       f"rows without the value, set {out}"  # fmt: skip
            raise DataError(
                f"{operation} has no result for {failed.count:,} of {count.rows:,} rows, e.g. for "
                f"{_shown(failed.examples)}; dataset.max_bad_rows allows {limit:.1%}",
                code="derivation-failed", where=place(role, column), hint=f"{hint}; or raise dataset.max_bad_rows",
            )  # fmt: skip


def _log(log: StepLog, role: Role, count: ShapeCount) -> None:
    if count.derived:
        failed = [_note(one) for one in count.failed if one.column is not None] + [*_time_notes(count.times)]
        log.add(f"derive {role}", count.rows, 0, "; ".join([f"columns: {', '.join(count.derived)}", *failed]))
    if count.filtered:
        parts = [
            f"{part.condition}: false for {part.false:,}" + (f", unknown for {part.unknown:,}" if part.unknown else "")
            for part in count.filtered
        ]
        failed = [_note(one) for one in count.failed if one.column is None]
        log.add(f"filter {role}", count.kept, count.rows - count.kept, "; ".join([*parts, *failed]))


def _note(failed: FailedValues) -> str:
    rows = f"{failed.count:,} row{'s' * (failed.count != 1)}"
    return f"{failed.operation} has no result for {rows}: {_shown(failed.examples)}"


def _time_notes(times: Sequence[InexactTimes]) -> Iterator[str]:
    for one in times:
        if one.cut:
            yield f"{one.operation}: {one.cut:,} times had digits below the microsecond, which were cut off"
        if one.twice:
            yield f"{one.operation}: {one.twice:,} times occur twice in their zone (clock change), read as the first"


def _shown(examples: Sequence[str]) -> str:
    return ", ".join(repr(value[:_LONGEST]) for value in examples)


def _time_problems(shaping: Shaping) -> Iterator[tuple[str | None, ExpressionError]]:
    """Formats and zones of times that mean nothing."""
    definitions: list[tuple[str | None, Definition]] = [*shaping.derived.items()]
    if shaping.condition is not None:
        definitions.append((None, shaping.condition))
    made: set[str] = set()  # what is derived before
    for column, definition in definitions:
        for call in _calls(definition.typed, "time"):
            form, of = time_format(call), call.args[0]
            of_file = isinstance(of.tree, Column) and of.tree.name not in made
            if form.zone is not None and of.kind == "time" and not of_file:
                what = "these times already have a zone; name it where they are read, in `time` of the text"
                yield column, ExpressionError(what, definition.source, call.args[-1].tree.start)
                continue
            problem = form.format is not None and format_problem(form.format)
            place = call.args[1].tree if problem else call.args[-1].tree
            problem = problem or (form.zone is not None and zone_problem(form.zone))
            if problem:
                allowed = (*UNITS, *ORDERS, "a pattern like %d/%m/%Y %H:%M") if place is call.args[1].tree else ()
                yield column, ExpressionError(problem, definition.source, place.start, allowed)
        if column is not None:
            made.add(column)


def _calls(part: Typed, function: str) -> Iterator[Typed]:
    if isinstance(part.tree, Call) and part.tree.function == function:
        yield part
    for argument in part.args:
        yield from _calls(argument, function)


def place_of(table: str, column: str | None) -> str:
    """Where the expression of a derived column, or of the filter, is in a recipe."""
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
    con: Any, staged: str, compiler: Compiler, owners: Sequence[str | None], parts: Sequence[_Part],
    derived: tuple[str, ...],
) -> ShapeCount:  # fmt: skip
    """Count what fails in rows that are kept, or dropped as a condition is unknown.

    A row that is dropped as a condition is false needs no values.
    """
    falses, unknowns, before = [], [], "true"
    for part in parts:
        falses.append(f"{before} AND {part.value.sql} IS FALSE")
        unknowns.append(f"{before} AND {part.value.sql} IS NULL")
        before = part.held.sql
    out = " OR ".join(f"({condition})" for condition in falses) or "false"
    rows_of = f"(SELECT *, {out} AS _out FROM {staged})"
    fallible = compiler.fallible
    failures = [f"{one.failed} AND NOT _out" for one in fallible]
    inexact = [f"{into}_{flag} AND NOT _out" for _, into in compiler.times for flag in ("cut", "twice")]
    counted = ["true", *inexact, *failures, *falses, *unknowns]
    sums = ", ".join(f"count(*) FILTER ({condition})" for condition in counted)
    rows, *counts = con.execute(f"SELECT {sums} FROM {rows_of}").fetchone()
    pairs = zip(counts[: len(inexact) : 2], counts[1 : len(inexact) : 2], strict=True)
    times = tuple(
        InexactTimes(source, *pair) for (source, _), pair in zip(compiler.times, pairs, strict=True) if any(pair)
    )
    counts = counts[len(inexact) :]
    failed = []
    for one, owner, condition, count in zip(fallible, owners, failures, counts, strict=False):
        if count:
            examples = con.execute(
                f"SELECT {one.value} AS value, count(*) FROM {rows_of} WHERE {condition} GROUP BY value "
                f"ORDER BY 2 DESC, 1 LIMIT {MAX_BAD_SAMPLES}"
            ).fetchall()
            failed.append(FailedValues(owner, one.source, count, tuple(value for value, _ in examples)))
    rest = counts[len(fallible) :]
    filtered = tuple(
        FilterCount(part.source, false, unknown)
        for part, false, unknown in zip(parts, rest[: len(parts)], rest[len(parts) :], strict=True)
    )
    kept = rows - sum(one.false + one.unknown for one in filtered)
    return ShapeCount(rows, kept, derived, tuple(failed), filtered, times)
