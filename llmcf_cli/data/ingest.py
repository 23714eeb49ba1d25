"""From raw files to one DuckDB file with users, items, interactions and samples, out of core."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data import measure
from llmcf_cli.data.alarms import stop_at_limits
from llmcf_cli.data.checks import assign_rows, clean_interactions, k_core, know_nobody, sample_users
from llmcf_cli.data.entities import clean_entity, require_multi
from llmcf_cli.data.features import chosen_features
from llmcf_cli.data.forgotten import leave_out
from llmcf_cli.data.history import build_samples
from llmcf_cli.data.label import LABEL
from llmcf_cli.data.negatives import make_catalogue
from llmcf_cli.data.raw import SOURCE, Locate, first_sentence, scalar, text
from llmcf_cli.data.repeats import drop_repeats
from llmcf_cli.data.report import IngestReport, StepLog
from llmcf_cli.data.shape import reshape
from llmcf_cli.data.split import SPLIT, place_events
from llmcf_cli.data.summary import ENTITIES, Found, summarise
from llmcf_cli.data.text import render_texts
from llmcf_cli.data.write import (
    USERS_BOUND,
    columns_meta,
    create_tables,
    write_entity,
    write_interactions,
    write_meta,
    write_samples,
    write_steps,
)  # fmt: skip
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.open import connect_write

_PHASES = 8

MEMORY_LIMIT = 3 << 29
"""Bytes that DuckDB may use before it spills beside the output, on a machine of twice as much at least."""
THREADS = 8
"""Most threads of DuckDB, as each takes its share of these bytes."""


def ingest(
    section: DatasetSection, *, locate: Locate, seed: int, out: Path, progress: Progress = SILENT
) -> IngestReport:
    """Read a data set, check and filter it, make samples, and write them all to one DuckDB file.

    Writes the tables `user`, `item`, `feature`, `interaction`, `sample`, `ingest_step` and `meta` of `store/tables.py`;
    the features follow the fixed columns of `user` and `item`. The rows depend on the data, the section and the seed,
    and on nothing else: neither the order of the input rows nor the number of threads. Users and items are numbered in
    the order of their ids, samples in that of time; `append` keeps those numbers as rows are added.

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
        scratch(Path(folder)) as con,
        progress.task("ingest", _PHASES, "steps") as task,
    ):
        found = _transform(con, section, locate, seed, task)
        task.note("measure")
        report = summarise(con, section, found, seed)
        stop_at_limits(report, section)
        task.advance()
        task.note("write")
        complete = Path(folder) / "out.duckdb"
        con.execute(f"ATTACH {text(str(complete))} AS result")
        create_tables(con, found.features)
        for entity in ENTITIES:
            write_entity(con, entity, found.features)
        write_interactions(con, report.clock)
        write_samples(con)
        write_steps(con, report.steps)
        bound = {} if found.bound is None else {USERS_BOUND: found.bound}
        write_meta(con, section, seed, report, {**bound, **columns_meta(con, found.raw.meaning.rating is not None)})
        con.execute("CHECKPOINT result")
        con.execute("DETACH result")
        complete.replace(out)
        task.advance()
    return report


def _transform(con: Any, section: DatasetSection, locate: Locate, seed: int, task: Task) -> Found:
    """Make the scratch tables `interaction`, `sample`, and `_number`, `_text`, `_feature` of items and users."""
    log = StepLog()
    label = registry().build(LABEL, section.label)
    task.note("read")
    raw = registry().build(SOURCE, section.source).load(con, locate)
    raw = reshape(con, raw, section.derive, section.filter, max_bad_rows=section.max_bad_rows, log=log)
    raw = leave_out(con, raw, None if section.forgotten is None else locate(section.forgotten), log)
    task.advance()
    task.note("check")
    clean_interactions(con, raw, needs_rating=label.needs_rating, max_bad_rows=section.max_bad_rows, log=log)
    log.similar = tuple(measure.similar_ids(con, "clean"))
    require_multi(con, raw)
    for entity in ENTITIES:
        conflicts = section.conflicts.of(entity)
        clean_entity(con, raw, entity, max_bad_rows=section.max_bad_rows, conflicts=conflicts, log=log)
    features = chosen_features(con, section)
    repeats = drop_repeats(con, section.repeats, log)
    bound = sample_users(con, section.max_users, derive_seed(seed, "users"), log)
    know_nobody(con)
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
    assigned = registry().build(SPLIT, section.split).assign(con, raw.meaning)
    log.add(f"split {section.split.type}", interactions, 0, assigned.line)
    task.advance()
    task.note("label")
    make_catalogue(con, assigned.cuts)
    line = label.label(con, section.repeats, derive_seed(seed, "label"))
    label.require_both(con)
    log.add(f"label {section.label.type}", scalar(con, "SELECT count(*) FROM labelled"), 0, line)
    task.advance()
    task.note("histories")
    build_samples(con, section.history)
    task.advance()
    return Found(raw, log, repeats, tied, features, assigned.cuts, bound)


@contextmanager
def scratch(folder: Path) -> Iterator[Any]:
    """A connection to a scratch database in `folder`, where it also spills what does not fit in memory."""
    import duckdb
    import psutil

    con = connect_write(folder / "scratch.duckdb")
    try:
        con.execute("SET TimeZone = 'UTC'")
        con.execute(f"SET memory_limit = '{min(MEMORY_LIMIT, psutil.virtual_memory().total // 2)}B'")
        threads = scalar(con, "SELECT current_setting('threads')")
        con.execute(f"SET threads = {min(THREADS, threads)}")
        con.execute(f"SET temp_directory = {text(str(folder / 'spill'))}")
        yield con
    except duckdb.OutOfMemoryException as error:
        raise StoreError(
            f"not enough memory: {first_sentence(error)}", code="memory-full", where=str(folder.parent),
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
