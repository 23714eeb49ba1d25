"""From scratch tables to the tables of the result, which is attached as `result`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.types import Clock
from llmcf_cli.data.features import feature_sql, stored_type
from llmcf_cli.data.raw import Entity, columns_of, name
from llmcf_cli.data.report import IngestReport, IngestStep
from llmcf_cli.features.choice import Choice
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.tables import FEATURE, HISTORY, INGEST_STEP, INTERACTION, ITEM, META, SAMPLE, USER

USERS_BOUND = "users.bound"
"""Key of `meta`: the greatest hash of a user that `dataset.max_users` took in."""


SETTINGS = "settings"
"""Key of `meta`: digest of the settings that rows are made by, whatever files they come from."""


def settings_digest(section: DatasetSection, seed: int) -> str:
    """SHA-256 of a seed and all settings of a data set that change rows, but for its files."""
    kept = section.model_dump(mode="json", exclude={"source", "added", "recut", "limits", "forgotten"})
    return digest_json({"seed": seed, "source": section.source.type, **kept})


def create_tables(con: Any, choices: Sequence[Choice]) -> None:
    """Create all tables, with the features as columns of `user` and `item`, and fill `feature`."""
    for table in (USER, ITEM, FEATURE, INTERACTION, SAMPLE, HISTORY, INGEST_STEP, META):
        con.execute(table.ddl(within="result"))
    for entity in ("user", "item"):
        chosen = {choice.name: choice for choice in choices if choice.entity == entity}
        for column in columns_of(con, f"{entity}_feature"):  # in the order of the data, whatever the recipe's
            if column in chosen:
                kind = stored_type(chosen[column])
                con.execute(f"ALTER TABLE result.{name(entity)} ADD COLUMN {name(column)} {kind}")
    rows = [(c.entity, c.name, c.kind, c.max_values, c.transform, c.buckets) for c in choices]
    if rows:
        _insert(con, "feature", rows)


def entity_rows(con: Any, entity: Entity, choices: Sequence[Choice]) -> str:
    """SQL of the rows of `user` or `item`; one that the entity's table does not have gets NULL, or an empty list."""
    types, chosen = columns_of(con, f"{entity}_feature"), {c.name: c for c in choices if c.entity == entity}
    values = [f"{entity}_row", f"{entity}_id", "text"]
    values += [f"{feature_sql(chosen[c], kind)} AS {name(c)}" for c, kind in types.items() if c in chosen]
    return (
        f"SELECT {', '.join(values)} FROM {entity}_number JOIN {entity}_text USING ({entity}_row) "
        f"LEFT JOIN {entity}_feature USING ({entity}_id)"
    )


def write_entity(con: Any, entity: Entity, choices: Sequence[Choice]) -> None:
    """Fill `user` or `item`."""
    con.execute(f"INSERT INTO result.{name(entity)} BY NAME {entity_rows(con, entity, choices)} ORDER BY {entity}_row")


def write_interactions(con: Any, clock: Clock) -> None:
    """Copy `placed` to `interaction`. Microseconds become seconds, exactly; positions stay."""
    seconds = "time::DECIMAL(18,0) * 0.000001::DECIMAL(7,6)" if clock == "global" else "time::DECIMAL(18,6)"
    con.execute(
        f"INSERT INTO result.interaction SELECT user_row, item_row, rating, {seconds}, place FROM placed "
        "ORDER BY user_row, item_row, time"
    )


def write_samples(con: Any) -> None:
    """Copy `sample`, and `latest` to `history`; both are in the order that they are to have."""
    columns = ", ".join(SAMPLE.schema.names)
    con.execute(f"INSERT INTO result.sample SELECT {columns} FROM sample")
    con.execute("INSERT INTO result.history SELECT user_row, items, times FROM latest")


def write_steps(con: Any, steps: Sequence[IngestStep], first: int = 0) -> None:
    """Fill `ingest_step`, numbered from `first`."""
    rows = [(n, s.name, s.kept, s.dropped, s.reason) for n, s in enumerate(steps, first)]
    if rows:
        _insert(con, "ingest_step", rows)


def write_meta(con: Any, section: DatasetSection, seed: int, report: IngestReport, more: Mapping[str, str]) -> None:
    """Write the facts of a report, and more, to `meta`; what it says of them already is replaced."""
    digest = settings_digest(section, seed)
    meta = {
        "clock": report.clock, "source": section.source.type, "label": section.label.type,
        "split": section.split.type, "users": report.users, "items": report.items,
        "interactions": report.interactions, "samples": sum(c.positive + c.negative for c in report.samples),
        "history_max_length": section.history.max_length, SETTINGS: digest,
        **(report.cuts.meta() if report.cuts else {}), **more,
    }  # fmt: skip
    con.execute("DELETE FROM result.meta WHERE key IN (SELECT unnest(?))", [list(meta)])
    _insert(con, "meta", [(key, str(value)) for key, value in meta.items()])


def _insert(con: Any, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add rows in one statement: each takes DuckDB a millisecond, whatever it does."""
    row = f"({', '.join('?' * len(rows[0]))})"
    con.execute(f"INSERT INTO result.{table} VALUES {', '.join([row] * len(rows))}", [v for one in rows for v in one])


def columns_meta(con: Any, rated: bool) -> dict[str, str]:
    """Entries of `meta` that say which columns the tables had: rows that are added must have the same."""
    found = {f"columns.{entity}": json.dumps(columns_of(con, f"{entity}_feature")) for entity in ("user", "item")}
    return {**found, "columns.rating": str(rated).lower()}
