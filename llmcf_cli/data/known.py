"""Users and items of added tables: new ones are added, known ones keep their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.raw import TABLES, Entity, name
from llmcf_cli.data.report import Note, StepLog
from llmcf_cli.data.text import render_texts
from llmcf_cli.data.write import entity_rows
from llmcf_cli.features.choice import Choice
from llmcf_cli.recipe.dataset import Conflicts
from llmcf_cli.tabular.table import MAX_BAD_SAMPLES


def known_entity(con: Any, entity: Entity) -> None:
    """Add to `item_number` or `user_number` the known ones that the added table has, to compare them."""
    con.execute(
        f"INSERT INTO {entity}_number SELECT {entity}_row, {entity}_id FROM known_{entity} "
        f"SEMI JOIN {entity}_feature USING ({entity}_id)"
    )


def add_entity(
    con: Any, entity: Entity, template: str, features: Sequence[Choice], conflicts: Conflicts, log: StepLog
) -> int:
    """Render the texts of `item_number` or `user_number`, add the new ones to `result` and update the known ones.

    A known one that had neither text nor features takes what the table says. Of one that had others, `conflicts` says
    what stays: `first` the base's, `last` the table's. Leaves the new ones in `item_number` or `user_number`.

    Returns:
        How many known ones have another text or other features than before.

    Raises:
        DataError: Known ones differ and `conflicts` is `stop`.
    """
    numeric = [choice.name for choice in features if choice.entity == entity and choice.kind == "numeric"]
    render_texts(con, entity, template, numeric)
    key, table = f"{entity}_row", f"result.{name(entity)}"
    chosen = [choice for choice in features if choice.entity == entity]
    values = ["text", *(name(choice.name) for choice in chosen)]
    con.execute(f"CREATE OR REPLACE TABLE {entity}_value AS {entity_rows(con, entity, features)}")
    blank = " AND ".join(["b.text = ''", *(_is_blank(choice) for choice in chosen)])
    differs = " OR ".join(f"b.{value} IS DISTINCT FROM v.{value}" for value in values)
    con.execute(
        f"CREATE OR REPLACE TABLE {entity}_changed AS SELECT v.*, {blank} AS was_blank FROM {entity}_value v "
        f"JOIN {table} b USING ({key}) WHERE {differs}"
    )
    count, filled, ids = con.execute(
        f"SELECT count(*), count(*) FILTER (was_blank), list({entity}_id ORDER BY {key}) FILTER (NOT was_blank)"
        f"[:{MAX_BAD_SAMPLES}] FROM {entity}_changed"
    ).fetchone()
    differing = count - filled
    role = TABLES[entity]
    if differing and conflicts == "stop":
        raise DataError(
            f"{differing:,} known {role} have texts or features that differ from the base, e.g. {', '.join(ids)}",
            code="known-differ", where=f"dataset.added.{role}",
            hint=f"set dataset.conflicts.{role}: first (keep the base's) or last (take the added ones)",
        )  # fmt: skip
    if differing:
        stays = "the base's are kept" if conflicts == "first" else "the added ones replace them"
        log.notes.append(Note(role, f"{differing:,} known {role} have different texts or features: {stays}"))
    taken = "" if conflicts == "last" else "WHERE was_blank"
    changed = count if conflicts == "last" else filled
    if changed:
        con.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {entity}_changed {taken})")
        con.execute(f"INSERT INTO {table} BY NAME SELECT * EXCLUDE was_blank FROM {entity}_changed {taken}")
    con.execute(f"DELETE FROM {entity}_number WHERE {key} IN (SELECT {key} FROM known_{entity})")
    con.execute(
        f"INSERT INTO {table} BY NAME FROM {entity}_value SEMI JOIN {entity}_number USING ({key}) ORDER BY {key}"
    )
    return int(changed)


def _is_blank(choice: Choice) -> str:
    column = f"b.{name(choice.name)}"
    return f"len({column}) = 0" if choice.kind == "multi" else f"{column} IS NULL"
