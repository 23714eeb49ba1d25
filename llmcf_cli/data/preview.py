"""A look at the beginnings of a data set's files, by the code that reads all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from llmcf_cli.core.errors import DataError, LlmcfError, RecipeError
from llmcf_cli.data.cast import MISSING, WORDS, cast_interactions, problem_counts, require_meant
from llmcf_cli.data.entities import cast_entity, require_multi
from llmcf_cli.data.raw import SOURCE, TABLES, Entity, Locate, RawData, Role, columns_of, scalar
from llmcf_cli.data.remedies import remedy
from llmcf_cli.plugin import registry
from llmcf_cli.tabular.table import Table

ROWS = 1_000
"""Rows of each table that are looked at."""


@dataclass
class Preview:
    """What the beginnings of the files say.

    Attributes:
        columns: Columns of items and users beside the id → DuckDB type, empty where that is not known yet; no columns
            where there is no such table.
        whole: Whether these are all of them: a later line of JSON may have more.
        wrong: What no row further on can mend.
        notes: What looks wrong, or was not as one may expect.
    """

    columns: dict[Entity, dict[str, str]] = field(default_factory=dict)
    whole: dict[Entity, bool] = field(default_factory=dict)
    wrong: list[LlmcfError] = field(default_factory=list)
    notes: list[LlmcfError] = field(default_factory=list)


def look(
    config: Any, locate: Locate, reshape: Callable[[Any, RawData], RawData] = lambda con, raw: raw, *,
    derived: Mapping[Role, Sequence[str]] = MappingProxyType({}), max_bad_rows: float = 0.0, times: bool = True,
) -> Preview:  # fmt: skip
    """Look at a data set.

    Args:
        config: Settings of its source.
        locate: File or folder of a reference.
        reshape: What derives and filters, given a connection and the tables.
        derived: Columns that it derives.
        max_bad_rows: Share of unusable rows past which ingest stops.
        times: Whether the source's settings of times are those that are meant.
    """
    import duckdb

    found = Preview()
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        try:
            raw = read = registry().build(SOURCE, config).load(con, locate, ROWS)
        except LlmcfError as error:
            found.wrong.append(error)
            return found
        for table in read.tables.values():
            _look_at_lines(con, table, max_bad_rows, found)
        shaped = False
        try:
            raw, shaped = reshape(con, read), True
        except RecipeError as error:
            whole = all(table.whole for table in read.tables.values())
            (found.wrong if whole else found.notes).extend(error.problems)
        except LlmcfError as error:
            found.wrong.append(error)
        for table in raw.tables.values():
            found.notes += [LlmcfError(note, where=table.origin) for note in table.notes]
        lacking = () if shaped else derived.get("interactions", ())
        _look_at_interactions(con, raw, found, lacking, values=shaped and times)
        for entity, role in TABLES.items():
            found.columns[entity], found.whole[entity] = {}, True
            if role in raw.tables:
                _look_at_entity(con, raw, entity, found, () if shaped else derived.get(role, ()))
        if all(found.whole.values()) and raw.meaning.multi:
            known = [column for columns in found.columns.values() for column in columns]
            try:
                require_multi(con, raw, known)
            except DataError as error:
                found.wrong.append(error)
    return found


def _look_at_lines(con: Any, table: Table, max_bad_rows: float, found: Preview) -> None:
    """Lines that the reader could not read."""
    bad = table.bad
    if not bad.count:
        return
    rows = bad.count + scalar(con, f"SELECT count(*) FROM {table.relation}")
    detail = "".join(f"\n  {sample}" for sample in bad.samples)
    most = f" (dataset.max_bad_rows allows {max_bad_rows:.1%})" if bad.count > max_bad_rows * rows else ""
    found.notes.append(DataError(
        f"{bad.count:,} of the first {rows:,} lines cannot be read{most}{detail}", code="lines-damaged",
        where=table.origin,
        hint=table.remedy or "correct these lines of the file",
    ))  # fmt: skip


def _look_at_interactions(
    con: Any, raw: RawData, found: Preview, derived: Sequence[str], *, values: bool
) -> None:  # fmt: skip
    table = raw.tables["interactions"]
    try:
        require_meant(con, table, raw.meaning, derived)
        if not values:
            return
        cast_interactions(con, table, raw.meaning, needs_rating=False)
    except DataError as error:
        (found.wrong if table.whole else found.notes).append(error)
        return
    rows = scalar(con, "SELECT count(*) FROM checked")
    for problem, count in problem_counts(con).items():
        all_of_them = count == rows and problem not in MISSING
        what = f"{WORDS[problem]}: {count:,} of the first {rows:,} rows"
        told = DataError(what, code="rows-unusable", where=table.origin, hint=remedy(con, problem, raw))
        (found.wrong if all_of_them else found.notes).append(told)


def _look_at_entity(con: Any, raw: RawData, entity: Entity, found: Preview, derived: Sequence[str]) -> None:
    table = raw.tables[TABLES[entity]]
    found.whole[entity] = table.whole
    try:
        cast = cast_entity(con, raw, entity)
    except DataError as error:
        (found.wrong if table.whole else found.notes).append(error)
        found.columns[entity] = dict.fromkeys([*columns_of(con, table.relation), *derived], "")
        return
    types = columns_of(con, cast.relation)
    found.columns[entity] = {column: types[column] for column in cast.columns} | dict.fromkeys(derived, "")
    found.notes += [LlmcfError(note, where=table.origin) for note in cast.notes]
