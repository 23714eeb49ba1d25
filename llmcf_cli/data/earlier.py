"""New items and users of an addition, looked up in the tables of before."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.entities import clean_entity
from llmcf_cli.data.ingest import scratch
from llmcf_cli.data.raw import SOURCE, TABLES, Entity, Locate
from llmcf_cli.data.report import StepLog
from llmcf_cli.data.shape import reshape
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.dataset import DatasetSection


def read_earlier(
    con: Any, section: DatasetSection, source: ComponentConfig, entity: Entity, locate: Locate, log: StepLog
) -> None:
    """Add rows to `item_feature` (or `user_feature`): of new items (users) that the table of the addition lacks.

    The table of a later addition comes first, that of the data set itself last. A table is read only if something is
    still lacking.

    Args:
        con: DuckDB connection with `clean`, `known_item` and `item_feature` (or of users).
        section: The recipe's `dataset`; the last of `added`, if there is any, is the addition itself.
        source: Settings of the source with the files of the addition.
        entity: Which of the two.
        locate: File or folder of a reference.
        log: Gets a step for each table that has such rows.

    Raises:
        DataError: As `clean_entity`, about an earlier table.
    """
    role, key = TABLES[entity], f"{entity}_id"
    field = getattr(source, "roles", {}).get(role)
    if field is None:
        return
    files = [*(getattr(one, role) for one in reversed(section.added[:-1])), getattr(section.source, field)]
    for file in dict.fromkeys(file for file in files if file not in (None, getattr(source, field))):
        lacking = con.sql(
            f"SELECT DISTINCT {key} FROM clean ANTI JOIN {entity}_feature USING ({key}) "
            f"ANTI JOIN known_{entity} USING ({key})"
        ).to_arrow_table()  # fmt: skip
        if not lacking.num_rows:
            return
        with tempfile.TemporaryDirectory(prefix="llmcf-earlier-") as folder, scratch(Path(folder)) as other:
            quiet, most = StepLog(least=0), section.max_bad_rows
            raw = registry().build(SOURCE, source.model_copy(update={field: file})).load(other, locate)
            raw = reshape(other, raw, section.derive, section.filter, max_bad_rows=most, log=quiet)
            clean_entity(
                other, raw, entity, max_bad_rows=most, conflicts=section.conflicts.of(entity), log=quiet
            )  # fmt: skip
            other.register("lacking", lacking)
            found = other.sql(f"FROM {entity}_feature SEMI JOIN lacking USING ({key})").to_arrow_table()
        con.register("earlier", found)
        con.execute(f"INSERT INTO {entity}_feature BY NAME FROM earlier")
        con.unregister("earlier")
        if found.num_rows:
            log.add(f"read earlier {role}", found.num_rows, 0, f"new {role} that the added table does not have")
