"""What a reader hands over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from llmcf_cli.core.errors import DataError, closest

MAX_BAD_SAMPLES = 5
MAX_COLUMNS = 2_048
"""Of a table in a text format."""


@dataclass(frozen=True)
class BadRows:
    """Rows that were dropped as unreadable.

    Attributes:
        count: How many.
        samples: Up to `MAX_BAD_SAMPLES` of them, as found, with what is wrong.
    """

    count: int = 0
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table as it was read: values as the file has them, nothing converted yet.

    Attributes:
        relation: Table or view of a DuckDB connection, quoted. Its columns differ in more than case. Of text formats
            (CSV, JSON) every column is VARCHAR, or VARCHAR[] where JSON has a list in it.
        origin: File or folder that it was read from.
        bad: Lines that did not parse and are not in the relation.
        remedy: What to do about them, if that is known.
        notes: What the reader did that a user may not expect, a sentence each.
        objects: Columns in which JSON has objects, which are kept as their JSON text → the first such line.
        whole: Whether all was read, so that a column that is missing is in no row.
    """

    relation: str
    origin: str
    bad: BadRows = BadRows()
    remedy: str = ""
    notes: tuple[str, ...] = ()
    objects: Mapping[str, int] = field(default_factory=dict)
    whole: bool = True


def require_columns(wanted: Sequence[str], available: Sequence[str], where: str, hint: str) -> None:
    """Check that a table has the columns that are wanted.

    Raises:
        DataError: Some are missing; names each with the closest existing one, and all that exist.
    """
    missing = [column for column in dict.fromkeys(wanted) if column not in available]
    if not missing:
        return
    parts = []
    for column in missing:
        near = closest(column, available)
        parts.append(f'"{column}"' + (f' (did you mean "{near}"?)' if near else ""))
    plural = "s" if len(missing) > 1 else ""
    raise DataError(
        f"no column{plural} {', '.join(parts)}",
        code="column-missing",
        where=where,
        allowed=tuple(available),
        hint=hint,
    )


def check_count(columns: int, where: str) -> None:
    """Refuse a table with more columns than are read.

    Raises:
        DataError: It has more than `MAX_COLUMNS`.
    """
    if columns > MAX_COLUMNS:
        what = f"has {columns:,} columns; at most {MAX_COLUMNS:,} are allowed"
        raise DataError(
            what,
            code="columns-limit",
            where=where,
            hint="leave out unused columns, or write the file as Parquet",
        )


def distinct_names(names: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """Column names that differ in more than case, as DuckDB needs, and a note for each that was changed.

    A name that is empty becomes `column_N`; one that an earlier name has but for case gets a number.
    """
    taken: set[str] = set()
    found, notes = [], []
    written = {column.lower() for column in names}
    for place, column in enumerate(names, 1):
        new, number = column or f"column_{place}", 1
        while new.lower() in taken or (new != column and new.lower() in written):
            number += 1
            new = f"{column or f'column_{place}'}_{number}"
        taken.add(new.lower())
        found.append(new)
        if not column:
            notes.append(f"column {place} has no name and is read as {new}")
        elif new != column:
            notes.append(
                f"column {place}, {column!r}, repeats an earlier column's name except for case and is read as {new!r}"
            )
    return found, tuple(notes)
