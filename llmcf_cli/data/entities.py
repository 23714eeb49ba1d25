"""Items and users as they were read → `item_feature` and `user_feature`: one row per id, values as texts or lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.place import Place
from llmcf_cli.data.cast import too_many, whole_float_notes
from llmcf_cli.data.raw import TABLES, Entity, RawData, columns_of, name, reading, scalar
from llmcf_cli.data.remedies import in_expression, leave_out
from llmcf_cli.data.report import Note, StepLog
from llmcf_cli.recipe.dataset import Conflicts
from llmcf_cli.tabular.lists import as_list, parse_lists
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES, BadRows, Table, require_columns
from llmcf_cli.tabular.values import (
    as_id,
    as_text,
    is_float,
    is_list,
    is_number_text,
    is_text,
    was_whole_float,
)  # fmt: skip

RESERVED = {"item": ("item_row", "item_id", "text"), "user": ("user_row", "user_id", "text")}
_VECTORS = ("FLOAT[", "DOUBLE[")


@dataclass(frozen=True)
class EntityCast:
    """A table of items or users whose values are cast.

    Attributes:
        relation: Table of the id (`item_id` or `user_id`), the columns, and the flags that follow.
        columns: The columns beside the id, VARCHAR or VARCHAR[].
        bad_list: Column of lists → flag: the value is there and no list.
        whole: Flag: the id was a whole float.
        place: Number of the row in the file.
        notes: What was done that a user may not expect.
    """

    relation: str
    columns: tuple[str, ...]
    bad_list: Mapping[str, str]
    whole: str
    place: str
    notes: tuple[str, ...]


def clean_entity(
    con: Any, raw: RawData, entity: Entity, *, max_bad_rows: float, conflicts: Conflicts, log: StepLog
) -> None:
    """Create `item_feature` or `user_feature`: one row per id, blank texts as NULL, lists without blanks.

    Args:
        con: DuckDB connection.
        raw: The data set.
        entity: Which of the two.
        max_bad_rows: Share of rows without an id, and of values of a column that are no lists, past which to stop.
        conflicts: What to do about rows of one id that differ.
        log: Gets the step `read`, and notes.

    Raises:
        DataError: Too many rows have no id, too many values are no lists, or rows with one id differ.
    """
    role, key = TABLES[entity], f"{entity}_id"
    if role not in raw.tables:
        con.execute(f"CREATE OR REPLACE TABLE {entity}_feature ({key} VARCHAR)")
        return
    table = raw.tables[role]
    with reading(table.origin):
        cast = cast_entity(con, raw, entity)
    rows = cast.relation
    total, without_id = con.execute(f"SELECT count(*), count(*) FILTER ({key} IS NULL) FROM {rows}").fetchone()
    _stop_if_nameless(raw, entity, total, without_id, max_bad_rows)
    notes = [*table.notes, *whole_float_notes(con, rows, {entity: (key, cast.whole)}), *cast.notes]
    notes += _list_notes(con, table, role, cast, total, max_bad_rows)
    log.notes += [Note(role, note) for note in notes]
    chosen = ", ".join([key, *map(name, cast.columns)])
    differing = _conflicting(con, f"(SELECT DISTINCT {chosen} FROM {rows})", key)
    if differing.count and conflicts == "stop":
        raise DataError(
            f"{differing.count:,} {entity} ids have several, different rows"
            + "".join(f"\n  {sample}" for sample in differing.samples),
            code="ids-conflict", where=table.origin,
            hint=f"set dataset.conflicts.{role}: first (or last), to say which row of the file to keep",
        )  # fmt: skip
    latest = "DESC" if conflicts == "last" else "ASC"
    con.execute(
        f"CREATE OR REPLACE TABLE {entity}_feature AS SELECT {chosen} FROM {rows} WHERE {key} IS NOT NULL "
        f"QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY {cast.place} {latest}) = 1"
    )
    con.execute(f"DROP TABLE {rows}")
    kept, lost = scalar(con, f"SELECT count(*) FROM {entity}_feature"), table.bad
    reason = f"lines that cannot be parsed: {lost.count:,}; no id: {without_id:,}; rest: " + (
        f"duplicates; for {differing.count:,} ids with differing rows, the {conflicts} is kept" if differing.count
        else "identical duplicates"
    )  # fmt: skip
    log.add(f"read {role}", kept, total + lost.count - kept, reason, lost.samples)


def cast_entity(con: Any, raw: RawData, entity: Entity) -> EntityCast:
    """Cast a table of items or users.

    Lists become lists of ids, other values text. A column of texts that are all numbers is read as numbers are, so that
    1995.0 is 1995. A column called like one of the entity's own (`text`) gets a trailing underscore; vectors and bytes
    are left out, unless the recipe says that they are lists.

    Raises:
        DataError: The id column is missing, or holds objects.
    """
    table, meaning = raw.tables[TABLES[entity]], raw.meaning
    types, key = columns_of(con, table.relation), meaning.keys[entity]
    hint = f"name the id column in dataset.source.{entity}_key" if meaning.settings else "correct the file"
    require_columns([key], list(types), table.origin, hint)
    if key in table.objects:
        raise DataError(
            f"{key} holds an object instead of an id",
            code="value-object",
            where=Place(file=table.origin, line=table.objects[key]),
            hint=hint,
        )
    left_out = [
        c for c, k in types.items() if c not in (key, *meaning.multi) and (k == "BLOB" or k.startswith(_VECTORS))
    ]
    others = {c: k for c, k in types.items() if c != key and c not in left_out}
    single = {c: k for c, k in others.items() if c not in meaning.multi and not is_list(k)}
    numeric = _numeric(con, table.relation, [c for c, k in single.items() if is_text(k)])
    notes = _float_notes(con, table.relation, {c: k for c, k in single.items() if c in numeric or is_float(k)})
    if left_out:
        notes.append(f"columns of vectors or bytes are left out: {', '.join(left_out)}")
    flag = "_"
    while any(column.startswith(flag) for column in types):
        flag += "_"
    kind, names, bad_list = types[key], [], {}
    parts = [
        f"{as_id(name(key), kind)} AS {entity}_id", f"{was_whole_float(name(key), kind)} AS {flag}whole",
        f"row_number() OVER () AS {flag}place",
    ]  # fmt: skip
    for number, (column, kind) in enumerate(others.items()):
        alias = f"{column}_" if column.lower() in RESERVED[entity] else column
        names.append(alias)
        if column in single:
            parts.append(f"{as_text(name(column), kind, numeric=column in numeric)} AS {name(alias)}")
            continue
        parsed = None
        if is_text(kind):
            parsed = f"{entity}_list_{number}"
            parse_lists(con, table.relation, column, parsed)
        value = as_list(name(column), kind, meaning.separator, parsed)
        bad_list[alias] = f"{flag}list_{number}"
        parts += [f"{value} IS NULL AS {bad_list[alias]}", f"coalesce({value}, []) AS {name(alias)}"]
    con.execute(f"CREATE OR REPLACE TABLE {entity}_cast AS SELECT {', '.join(parts)} FROM {table.relation}")
    return EntityCast(f"{entity}_cast", tuple(names), bad_list, f"{flag}whole", f"{flag}place", tuple(notes))


def require_multi(con: Any, raw: RawData, besides: Sequence[str] = ()) -> None:
    """Check that the columns that hold several values are columns of items or users.

    Args:
        con: DuckDB connection.
        raw: The data set.
        besides: Columns that will be there as well.

    Raises:
        DataError: Some are none.
    """
    known = [c for role in TABLES.values() if role in raw.tables for c in columns_of(con, raw.tables[role].relation)]
    known += [column for column in besides if column not in known]
    require_columns(raw.meaning.multi, known, "dataset.source.multi", "name columns of the items or users there")


def _stop_if_nameless(raw: RawData, entity: Entity, total: int, without_id: int, max_bad_rows: float) -> None:
    role, key = TABLES[entity], raw.meaning.keys[entity]
    table = raw.tables[role]
    lost = table.bad
    if lost.count + without_id <= max_bad_rows * (total + lost.count):
        return
    if lost.count >= without_id:
        hint = table.remedy or "correct these lines of the file"
    else:
        kept = leave_out(role, f"{in_expression(key)} is not null", raw.kept.get(role))
        hint = f"to leave out rows without it, set {kept}"
    nameless = BadRows(without_id, (f"{without_id:,} rows without {key}",) if without_id else ())
    raise too_many(lost, nameless, total + lost.count, max_bad_rows, table.origin, hint)


def _numeric(con: Any, relation: str, columns: Sequence[str]) -> set[str]:
    """Those of some columns of texts in which every value is a number."""
    if not columns:
        return set()
    asked = ", ".join(f"bool_and({is_number_text(name(column))})" for column in columns)
    found = con.execute(f"SELECT {asked} FROM {relation}").fetchone()
    return {column for column, numeric in zip(columns, found, strict=True) if numeric}


def _float_notes(con: Any, relation: str, columns: Mapping[str, str]) -> list[str]:
    """Notes about columns in which whole numbers stand as floats."""
    if not columns:
        return []
    flags = {column: was_whole_float(name(column), kind) for column, kind in columns.items()}
    asked = ", ".join(
        f"count(*) FILTER ({flag}), min({as_id(name(column), columns[column])}) FILTER ({flag})"
        for column, flag in flags.items()
    )
    found = con.execute(f"SELECT {asked} FROM {relation}").fetchone()
    return [
        f"{count:,} values of {column} were whole floats, read as integers, e.g. {example}.0 → {example}"
        for column, count, example in zip(columns, found[::2], found[1::2], strict=True) if count
    ]  # fmt: skip


def _list_notes(con: Any, table: Table, role: str, cast: EntityCast, total: int, max_bad_rows: float) -> list[str]:
    """Notes about values that are no lists.

    Raises:
        DataError: A column has too many of them.
    """
    notes = []
    for column, flag in cast.bad_list.items():
        count = scalar(con, f"SELECT count(*) FILTER ({flag}) FROM {cast.relation}")
        if count > max_bad_rows * total:
            raise DataError(
                f"{count:,} of {total:,} values of {column} cannot be read as lists; "
                f"dataset.max_bad_rows allows {max_bad_rows:.1%}", code="lists-unreadable", where=table.origin,
                allowed=("a|b", '["a", "b"]', "['a', 'b']"),
                hint=f"take {column} out of dataset.source.multi, or derive a list in dataset.derive.{role}",
            )  # fmt: skip
        if count:
            notes.append(f"{count:,} values of {column} cannot be read as lists, and count as empty")
    return notes


def _conflicting(con: Any, different: str, key: str) -> BadRows:
    """Ids that have several of some rows that are all different."""
    rows = con.execute(
        f"SELECT count(*) OVER (), {key}, rows FROM (SELECT d.{key}, list(d::VARCHAR ORDER BY d::VARCHAR) AS rows "
        f"FROM {different} d WHERE d.{key} IS NOT NULL GROUP BY d.{key} HAVING count(*) > 1) "
        f"ORDER BY {key} LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    samples = tuple(f"{identifier}: {' | '.join(versions[:3])}" for _, identifier, versions in rows)
    return BadRows(rows[0][0] if rows else 0, samples)
