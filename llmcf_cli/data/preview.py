"""A look at the beginnings of a data set's files, by the code that reads all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llmcf_cli.core.errors import DataError, LlmcfError, RecipeError
from llmcf_cli.data.cast import MISSING, WORDS, cast_interactions, problem_counts
from llmcf_cli.data.entities import cast_entity, require_multi
from llmcf_cli.data.raw import SOURCE, TABLES, Entity, Locate, RawData, scalar
from llmcf_cli.data.remedies import remedy
from llmcf_cli.plugin import registry

ROWS = 1_000
"""Rows of each table that are looked at."""


@dataclass
class Preview:
    """What the beginnings of the files say.

    Attributes:
        columns: Columns of items and users beside the id; empty where there is no such table.
        whole: Whether these are all of them: a later line of JSON may have more.
        wrong: What no row further on can mend.
        notes: What looks wrong, or was not as one may expect.
    """

    columns: dict[Entity, tuple[str, ...]] = field(default_factory=dict)
    whole: dict[Entity, bool] = field(default_factory=dict)
    wrong: list[LlmcfError] = field(default_factory=list)
    notes: list[LlmcfError] = field(default_factory=list)


def look(
    config: Any, locate: Locate, reshape: Callable[[Any, RawData], RawData] = lambda con, raw: raw
) -> Preview:  # fmt: skip
    """Look at a data set.

    Args:
        config: Settings of its source.
        locate: File or folder of a reference.
        reshape: What derives and filters, given a connection and the tables.
    """
    import duckdb

    found = Preview()
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        try:
            read = registry().build(SOURCE, config).load(con, locate, ROWS)
            raw = reshape(con, read)
        except RecipeError as error:
            whole = all(table.whole for table in read.tables.values())
            (found.wrong if whole else found.notes).extend(error.problems)
            return found
        except LlmcfError as error:
            found.wrong.append(error)
            return found
        for table in raw.tables.values():
            found.notes += [LlmcfError(note, where=table.origin) for note in table.notes]
        _look_at_interactions(con, raw, found)
        for entity, role in TABLES.items():
            found.columns[entity], found.whole[entity] = (), True
            if role in raw.tables:
                _look_at_entity(con, raw, entity, found)
        try:
            if all(found.whole.values()):
                require_multi(con, raw)
        except DataError as error:
            found.wrong.append(error)
    return found


def _look_at_interactions(con: Any, raw: RawData, found: Preview) -> None:
    table = raw.tables["interactions"]
    try:
        cast_interactions(con, table, raw.meaning, needs_rating=False)
    except DataError as error:
        (found.wrong if table.whole else found.notes).append(error)
        return
    rows = scalar(con, "SELECT count(*) FROM checked")
    for problem, count in problem_counts(con).items():
        all_of_them = count == rows and problem not in MISSING
        what = f"{WORDS[problem]}: {count:,} of the first {rows:,} rows"
        told = DataError(what, code="rows-unusable", where=table.origin, hint=remedy(con, problem, table, raw.meaning))
        (found.wrong if all_of_them else found.notes).append(told)


def _look_at_entity(con: Any, raw: RawData, entity: Entity, found: Preview) -> None:
    table = raw.tables[TABLES[entity]]
    found.whole[entity] = table.whole
    try:
        cast = cast_entity(con, raw, entity)
    except DataError as error:
        found.whole[entity] = False
        (found.wrong if table.whole else found.notes).append(error)
        return
    found.columns[entity] = cast.columns
    found.notes += [LlmcfError(note, where=table.origin) for note in cast.notes]
