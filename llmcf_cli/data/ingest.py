"""From raw files to one DuckDB file with users, items, interactions and samples, out of core."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import Clock
from llmcf_cli.data import measure
from llmcf_cli.data.alarms import find_alarms, stop_at_limits
from llmcf_cli.data.checks import assign_rows, clean_interactions, k_core, sample_users
from llmcf_cli.data.entities import clean_entity, require_multi
from llmcf_cli.data.features import chosen_features, feature_counts, feature_sql, stored_type
from llmcf_cli.data.history import build_samples
from llmcf_cli.data.label import LABEL
from llmcf_cli.data.negatives_audit import drawn_audit
from llmcf_cli.data.raw import SOURCE, TABLES, Entity, Locate, RawData, columns_of, first_sentence, name, scalar, text
from llmcf_cli.data.repeats import drop_repeats
from llmcf_cli.data.report import IngestReport, StepLog
from llmcf_cli.data.shape import reshape
from llmcf_cli.data.split import SPLIT, place_events
from llmcf_cli.data.text import render_texts
from llmcf_cli.features.choice import Choice
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.sections import DatasetSection
from llmcf_cli.store.open import connect_write
from llmcf_cli.store.tables import FEATURE, HISTORY, INGEST_STEP, INTERACTION, ITEM, META, SAMPLE, USER

_ENTITIES: tuple[Entity, ...] = ("item", "user")
_PHASES = 8

MEMORY_LIMIT = "50%"
"""Share of the memory that DuckDB may use before it spills beside the output."""


def ingest(
    section: DatasetSection, *, locate: Locate, seed: int, out: Path, progress: Progress = SILENT
) -> IngestReport:
    """Read a data set, check and filter it, make samples, and write them all to one DuckDB file.

    Writes the tables `user`, `item`, `feature`, `interaction`, `sample`, `ingest_step` and `meta` of `store/tables.py`;
    the features follow the fixed columns of `user` and `item`. The rows depend on the data, the section and the seed,
    and on nothing else: neither the order of the input rows nor the number of threads.

    Args:
        section: The recipe's `dataset`.
        locate: File or folder of a reference (`asset:NAME` or a path).
        seed: The recipe's seed.
        out: File to write; it appears only when complete.
        progress: Told about every step.

    Raises:
        DataError: A file or column is missing, too many rows are unusable, or a step leaves nothing.
        RecipeError: A text template is wrong.
        StoreError: The disk or the memory does not suffice.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".ingest-") as folder,
        _scratch(Path(folder)) as con,
        progress.task("ingest", _PHASES, "steps") as task,
    ):
        found = _transform(con, section, locate, seed, task)
        task.note("measure")
        report = _report(con, section, found, seed)
        stop_at_limits(report, section)
        task.advance()
        task.note("write")
        complete = Path(folder) / "out.duckdb"
        _write(con, section, report, found.features, complete)
        complete.replace(out)
        task.advance()
    return report


@dataclass(frozen=True)
class _Found:
    """What the steps noted on the way."""

    raw: RawData
    log: StepLog
    repeats: int
    tied_events: int
    features: tuple[Choice, ...]


def _transform(con: Any, section: DatasetSection, locate: Locate, seed: int, task: Task) -> _Found:
    """Make the scratch tables `interaction`, `sample`, and `_number`, `_text`, `_feature` of items and users."""
    log = StepLog()
    label = registry().build(LABEL, section.label)
    task.note("read")
    raw = registry().build(SOURCE, section.source).load(con, locate)
    raw = reshape(con, raw, section.derive, section.filter, max_bad_rows=section.max_bad_rows, log=log)
    task.advance()
    task.note("check")
    clean_interactions(con, raw, needs_rating=label.needs_rating, max_bad_rows=section.max_bad_rows, log=log)
    log.similar = tuple(measure.similar_ids(con, "clean"))
    require_multi(con, raw)
    for entity in _ENTITIES:
        conflicts = {"item": section.conflicts.items, "user": section.conflicts.users}[entity]
        clean_entity(con, raw, entity, max_bad_rows=section.max_bad_rows, conflicts=conflicts, log=log)
    features = chosen_features(con, section)
    repeats = drop_repeats(con, section.repeats, log)
    sample_users(con, section.max_users, derive_seed(seed, "users"), log)
    k_core(con, section.k_core.user, section.k_core.item, log)
    assign_rows(con, log)
    task.advance()
    task.note("texts")
    for entity, template in (("item", section.text.item), ("user", section.text.user)):
        numeric = [choice.name for choice in features if choice.entity == entity and choice.kind == "numeric"]
        render_texts(con, entity, template, numeric)
    task.advance()
    task.note("split")
    interactions = scalar(con, "SELECT count(*) FROM interaction")
    tied = place_events(con, derive_seed(seed, "split", "ties"))
    found = registry().build(SPLIT, section.split).assign(con, raw.meaning.clock)
    log.add(f"split {section.split.type}", interactions, 0, found)
    task.advance()
    task.note("label")
    found = label.label(con, section.repeats, derive_seed(seed, "label"))
    log.add(f"label {section.label.type}", scalar(con, "SELECT count(*) FROM labelled"), 0, found)
    task.advance()
    task.note("histories")
    build_samples(con, section.history)
    task.advance()
    return _Found(raw, log, repeats, tied, features)


@contextmanager
def _scratch(folder: Path) -> Iterator[Any]:
    """A connection to a scratch database in `folder`, where it also spills what does not fit in memory."""
    import duckdb

    con = connect_write(folder / "scratch.duckdb")
    try:
        con.execute("SET TimeZone = 'UTC'")
        con.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        con.execute(f"SET temp_directory = {text(str(folder / 'spill'))}")
        yield con
    except duckdb.OutOfMemoryException as error:
        raise StoreError(
            f"the memory does not suffice: {first_sentence(error)}", code="memory-full", where=str(folder.parent),
            hint="free memory or disk space and run again",
        ) from error  # fmt: skip
    except duckdb.IOException as error:
        raise StoreError(
            f"cannot be written: {first_sentence(error)}",
            code="store-unwritable",
            where=str(folder.parent),
            hint="free disk space and run again",
        ) from error
    finally:
        con.close()


def _report(con: Any, section: DatasetSection, found: _Found, seed: int) -> IngestReport:
    measure.prepare(con)
    median, empty = con.execute(
        "SELECT median(len(history)), count(*) FILTER (len(history) = 0) FROM sample"
    ).fetchone()
    report = IngestReport(
        steps=tuple(found.log.steps),
        clock=found.raw.meaning.clock,
        users=scalar(con, "SELECT count(*) FROM user_number"),
        items=scalar(con, "SELECT count(*) FROM item_number"),
        interactions=scalar(con, "SELECT count(*) FROM interaction"),
        repeats=found.repeats,
        repeats_dropped=found.repeats if section.repeats == "first" else 0,
        tied_events=found.tied_events,
        samples=measure.split_counts(con),
        history_median=float(median),
        history_empty=empty,
        texts=tuple(measure.text_counts(con)),
        joins=tuple(measure.joins(con, [entity for entity in _ENTITIES if TABLES[entity] in found.raw.tables])),
        rules=measure.rules(con),
        slices=measure.cold_slices(con),
        negatives=drawn_audit(con, section.label, section.repeats, derive_seed(seed, "audit")),
        times=found.log.times,
        notes=tuple(found.log.notes),
        features=feature_counts(con, found.features, section),
        similar=found.log.similar,
    )
    return replace(report, alarms=(*found.log.alarms, *find_alarms(report, section, found.raw.meaning)))


def _write(
    con: Any, section: DatasetSection, report: IngestReport, features: Sequence[Choice], path: Path
) -> None:  # fmt: skip
    """Copy the scratch tables into a new database at `path`, in the order of their keys."""
    con.execute(f"ATTACH {text(str(path))} AS result")
    for table in (USER, ITEM, FEATURE, INTERACTION, SAMPLE, HISTORY, INGEST_STEP, META):
        con.execute(table.ddl().replace("CREATE TABLE ", "CREATE TABLE result.", 1))
    for entity in ("user", "item"):
        _write_entity(con, entity, [choice for choice in features if choice.entity == entity])
    rows = [(c.entity, c.name, c.kind, c.max_values, c.transform, c.buckets) for c in features]
    if rows:
        con.executemany("INSERT INTO result.feature VALUES (?, ?, ?, ?, ?, ?)", rows)
    con.execute(
        f"INSERT INTO result.interaction SELECT user_row, item_row, rating, {_seconds(report.clock)}, place "
        "FROM placed ORDER BY user_row, item_row, time"
    )
    columns = ", ".join(SAMPLE.schema.names)
    con.execute(f"INSERT INTO result.sample SELECT {columns} FROM sample ORDER BY sample_id")
    con.execute("INSERT INTO result.history SELECT user_row, items, times FROM latest ORDER BY user_row")
    steps = [(n, s.name, s.kept, s.dropped, s.reason) for n, s in enumerate(report.steps)]
    con.executemany("INSERT INTO result.ingest_step VALUES (?, ?, ?, ?, ?)", steps)
    meta = {
        "clock": report.clock, "source": section.source.type, "label": section.label.type,
        "split": section.split.type, "users": report.users, "items": report.items,
        "interactions": report.interactions, "samples": sum(c.positive + c.negative for c in report.samples),
        "history_max_length": section.history.max_length,
    }  # fmt: skip
    con.executemany("INSERT INTO result.meta VALUES (?, ?)", [(key, str(value)) for key, value in meta.items()])
    con.execute("CHECKPOINT result")
    con.execute("DETACH result")


def _seconds(clock: Clock) -> str:
    """SQL of an event's time as `interaction` stores it: microseconds become seconds, exactly; positions stay."""
    return "time::DECIMAL(18,0) * 0.000001::DECIMAL(7,6)" if clock == "global" else "time::DECIMAL(18,6)"


def _write_entity(con: Any, entity: Entity, choices: Sequence[Choice]) -> None:
    """Fill `user` or `item`. A row that the entity's table does not have gets NULL, or an empty list."""
    types, chosen = columns_of(con, f"{entity}_feature"), {choice.name: choice for choice in choices}
    values = [f"{entity}_row", f"{entity}_id", "text"]
    for column in types:  # in the order of the data, whatever the recipe's
        if column in chosen:
            kind = stored_type(chosen[column])
            con.execute(f"ALTER TABLE result.{name(entity)} ADD COLUMN {name(column)} {kind}")
            values.append(feature_sql(chosen[column], types[column]))
    con.execute(
        f"INSERT INTO result.{name(entity)} SELECT {', '.join(values)} FROM {entity}_number "
        f"JOIN {entity}_text USING ({entity}_row) LEFT JOIN {entity}_feature USING ({entity}_id) ORDER BY {entity}_row"
    )
