"""What `dataset.derive` and `dataset.filter` say about one table, checked against its columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from llmcf_cli.recipe.expression import ExpressionError, Tree, columns_in, parse
from llmcf_cli.recipe.kinds import Kind, Typed, typed


@dataclass(frozen=True)
class Definition:
    """An expression whose kinds are known.

    Attributes:
        source: Its text.
        typed: Its parts.
    """

    source: str
    typed: Typed


@dataclass(frozen=True)
class Shaping:
    """The derived columns and the condition of a table.

    Attributes:
        derived: Column → its definition, each after those that it reads.
        condition: What a row must fulfil; None: nothing.
        columns: Kind of every column, derived ones included.
        problems: (derived column, or None for the condition; what is wrong with it).
    """

    derived: Mapping[str, Definition] = field(default_factory=dict)
    condition: Definition | None = None
    columns: Mapping[str, Kind] = field(default_factory=dict)
    problems: tuple[tuple[str | None, ExpressionError], ...] = ()


def check_shaping(derive: Mapping[str, str], condition: str | None, columns: Mapping[str, Kind]) -> Shaping:
    """Check expressions against a table's columns.

    A derived column may read other derived columns, whatever their order; one that has the name of a column replaces
    it, and reads the column itself by that name.

    Args:
        derive: New column → expression.
        condition: Expression that holds for the rows to keep; None: all.
        columns: Column of the table → kind.
    """
    problems: list[tuple[str | None, ExpressionError]] = []
    trees: dict[str, Tree] = {}
    for column, source in derive.items():
        try:
            trees[column] = parse(source)
        except ExpressionError as error:
            problems.append((column, error))
    known: dict[str, Kind] = {**columns, **{column: "any" for column in derive if column not in trees}}
    derived: dict[str, Definition] = {}
    waiting = list(trees)
    while waiting:
        ready = [c for c in waiting if not _reads(trees[c], c, waiting)]
        for column in ready:
            try:
                part = typed(trees[column], derive[column], known if column in columns else _without(known, column))
                derived[column] = Definition(derive[column], part)
            except ExpressionError as error:
                problems.append((column, error))
        for column in ready:
            known[column] = _kept(derived[column].typed.kind) if column in derived else "any"
        waiting = [c for c in waiting if c not in ready]
        if not ready:
            for column in waiting:
                seen = _reads(trees[column], column, waiting)
                what = f"reads {seen!r}, which in turn reads {column!r}"
                problems.append((column, ExpressionError(what, derive[column], 0)))
            known |= dict.fromkeys(waiting, "any")
            break
    held = None
    if condition is not None:
        try:
            part = typed(parse(condition), condition, known)
            if part.kind not in ("boolean", "any"):
                raise ExpressionError(f"must be a condition, not a {part.kind}", condition, 0)
            held = Definition(condition, part)
        except ExpressionError as error:
            problems.append((None, error))
    return Shaping(derived, held, known, tuple(problems))


def _reads(tree: Tree, column: str, others: list[str]) -> str:
    """The first other column among those that an expression reads; empty: none."""
    return next((c.name for c in columns_in(tree) if c.name in others and c.name != column), "")


def _without(known: Mapping[str, Kind], column: str) -> dict[str, Kind]:
    return {name: kind for name, kind in known.items() if name != column}


def _kept(kind: Kind) -> Kind:
    return "text" if kind == "null" else kind
