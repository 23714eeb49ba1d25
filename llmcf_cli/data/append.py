"""Rows added to a finished ingest: what is there stays as it is, what is new is numbered after it.

Added events must be later than the last one of the base. Then no sample of the base can change: neither its history,
nor its negatives (see `negatives`), nor its split, as the cuts are the base's. So base and additions together are what
one ingest of all rows under the same cuts would be, but for the numbers of users, items and samples.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data import measure
from llmcf_cli.data.alarms import stop_at_limits
from llmcf_cli.data.checks import assign_rows, clean_interactions, k_core, keep_sampled
from llmcf_cli.data.cut import Cuts
from llmcf_cli.data.earlier import read_earlier
from llmcf_cli.data.entities import clean_entity, require_multi
from llmcf_cli.data.features import chosen_features
from llmcf_cli.data.forgotten import leave_out
from llmcf_cli.data.history import build_samples
from llmcf_cli.data.ingest import scratch
from llmcf_cli.data.known import add_entity, known_entity
from llmcf_cli.data.label import LABEL, Label
from llmcf_cli.data.negatives import PAIR, make_catalogue
from llmcf_cli.data.raw import SOURCE, TABLES, Entity, Locate, RawData, columns_of, name, scalar, text
from llmcf_cli.data.repeats import drop_repeats
from llmcf_cli.data.report import Added, IngestReport, StepLog
from llmcf_cli.data.shape import reshape
from llmcf_cli.data.split import cut_events, place_events
from llmcf_cli.data.summary import ENTITIES, Found, summarise
from llmcf_cli.data.write import (
    SETTINGS,
    USERS_BOUND,
    settings_digest,
    write_interactions,
    write_meta,
    write_samples,
    write_steps,
)  # fmt: skip
from llmcf_cli.features.choice import Choice
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.open import refuse_code
from llmcf_cli.store.tables import MICROSECONDS
from llmcf_cli.tabular.times import shown_time

_PHASES = 6
_ANEW = "put these rows into the files of dataset.source and ingest everything again"


def append(
    base: Path, section: DatasetSection, source: ComponentConfig, *, locate: Locate, seed: int, out: Path,
    progress: Progress = SILENT,
) -> IngestReport:  # fmt: skip
    """Add rows to a copy of a finished ingest.

    Users and items that the base knows keep their rows, all its samples keep their ids, labels, histories and splits.
    New users and items get the next rows, in the order of their ids; new samples the next ids, in the order of time.
    Rows that are there already are counted and left out. A new user or item needs the interactions of `dataset.k_core`
    among the added rows alone.

    Args:
        base: DuckDB file that `ingest` or `append` made of the same section and seed.
        section: The recipe's `dataset`.
        source: Settings of a source with the added files. Where its table of items (or users) is the section's own,
            known ones are not compared with it again.
        locate: File or folder of a reference.
        seed: The recipe's seed.
        out: File to write; it appears only when complete, and `base` stays as it is.
        progress: Told about every step.

    Returns:
        A report of the whole; its `added` counts what is new.

    Raises:
        DataError: Rows are not later than the base's last event, the tables have other columns, known items or users
            differ and `dataset.conflicts` does not allow it, or the base has no cuts in time; and as `ingest`.
        StoreError: The base cannot be read, or the disk or the memory does not suffice.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=out.parent, prefix=".append-") as folder,
        scratch(Path(folder)) as con,
        progress.task("append", _PHASES, "steps") as task,
    ):
        complete = Path(folder) / "out.duckdb"
        shutil.copyfile(base, complete)
        con.execute(f"ATTACH {text(str(complete))} AS result")
        refuse_code(con, base)
        found = _Base.read(con, base)
        if found.meta.get(SETTINGS) != settings_digest(section, seed):
            raise DataError(
                "the base was made with other data set settings or another seed",
                code="base-other", where=str(base),
                hint="ingest the base with this recipe first, without dataset.added",
            )  # fmt: skip
        report, meta = _add(con, found, section, source, locate, seed, task)
        first = scalar(con, "SELECT coalesce(max(step) + 1, 0) FROM result.ingest_step")
        write_steps(con, report.steps, first)
        write_meta(con, section, seed, report, meta)
        con.execute("CHECKPOINT result")
        _drop_views(con)
        con.execute("DETACH result")
        complete.replace(out)
        task.advance()
    return report


@dataclass(frozen=True)
class _Base:
    """What is known of a base.

    Attributes:
        path: Its file.
        meta: Its table `meta`.
        cuts: Of its split.
        end: Time of its last event, in microseconds.
        samples: How many it has.
    """

    path: Path
    meta: dict[str, str]
    cuts: Cuts
    end: int
    samples: int

    @classmethod
    def read(cls, con: Any, path: Path) -> _Base:
        """Read it from the attached copy, and create `known_user` and `known_item`."""
        meta = dict(con.execute("SELECT key, value FROM result.meta").fetchall())
        cuts = Cuts.from_meta(meta)
        if cuts is None:
            raise DataError(
                f"the split {meta.get('split')} has no cuts in time, so later rows would move events between splits",
                code="base-uncut", where="dataset.split", allowed=("global_time", "fixed_cut"),
                hint="use `split: {type: fixed_cut, validation_from: …, test_from: …}`",
            )  # fmt: skip
        for entity in ENTITIES:
            con.execute(f"CREATE TABLE known_{entity} AS SELECT {entity}_row, {entity}_id FROM result.{name(entity)}")
        end = scalar(con, f"SELECT {MICROSECONDS} FROM (SELECT max(time) AS time FROM result.interaction)")
        return cls(path, meta, cuts, end, scalar(con, "SELECT count(*) FROM result.sample"))


def _add(
    con: Any, base: _Base, section: DatasetSection, source: ComponentConfig, locate: Locate, seed: int, task: Task
) -> tuple[IngestReport, dict[str, str]]:  # fmt: skip
    """Add rows to the tables of `result`, all but `ingest_step` and `meta`."""
    log = StepLog(least=0)
    label = registry().build(LABEL, section.label)
    task.note("read")
    raw = registry().build(SOURCE, source).load(con, locate)
    raw = reshape(con, raw, section.derive, section.filter, max_bad_rows=section.max_bad_rows, log=log)
    raw = leave_out(con, raw, None if section.forgotten is None else locate(section.forgotten), log)
    task.advance()
    task.note("check")
    features = _clean(con, base, section, raw, label, log)
    for entity in ENTITIES:
        read_earlier(con, section, source, entity, locate, log)
    found = Found(raw, log, 0, 0, features, base.cuts, base.meta.get(USERS_BOUND), Added())
    known = _drop_known(con, section, log)
    keep_sampled(con, found.bound, derive_seed(seed, "users"), "those of dataset.max_users in the base", log)
    _refuse_late(con, base, section, log)
    repeats = drop_repeats(con, section.repeats, log)
    k_core(con, section.k_core.user, section.k_core.item, log)
    assign_rows(con, log)
    task.advance()
    task.note("texts")
    changed = {entity: _add_entity(con, section, source, entity, features, log) for entity in ENTITIES}
    task.advance()
    task.note("events")
    tied = place_events(con, derive_seed(seed, "split", "ties"))
    _place_after(con)
    write_interactions(con, "global")
    task.advance()
    task.note("samples")
    _add_samples(con, base, section, label, seed, log)
    task.advance()
    task.note("measure")
    added = Added(
        users=scalar(con, "SELECT count(*) FROM user_number"), items=scalar(con, "SELECT count(*) FROM item_number"),
        interactions=scalar(con, "SELECT count(*) FROM placed"), samples=scalar(con, "SELECT count(*) FROM sample"),
        known=known, changed_users=changed["user"], changed_items=changed["item"],
    )  # fmt: skip
    _as_whole(con, base.cuts)
    report = summarise(con, section, replace(found, repeats=repeats, tied_events=tied, added=added), seed)
    stop_at_limits(report, section)
    return report, {"additions": str(int(base.meta.get("additions", 0)) + 1)}


def _clean(
    con: Any, base: _Base, section: DatasetSection, raw: RawData, label: Label, log: StepLog
) -> tuple[Choice, ...]:
    """Create `clean`, `item_feature` and `user_feature`, with the columns that the base has."""
    if str(raw.meaning.rating is not None).lower() != base.meta.get("columns.rating"):
        raise DataError(
            "has ratings but the base has none, or the reverse",
            code="added-columns", where=raw.tables["interactions"].origin,
            hint="add a table with the same columns as the first",
        )  # fmt: skip
    clean_interactions(con, raw, needs_rating=label.needs_rating, max_bad_rows=section.max_bad_rows, log=log)
    log.similar = tuple(measure.similar_ids(con, "clean"))
    for entity in ENTITIES:
        conflicts = section.conflicts.of(entity)
        wanted = json.loads(base.meta[f"columns.{entity}"])
        if TABLES[entity] in raw.tables:
            clean_entity(con, raw, entity, max_bad_rows=section.max_bad_rows, conflicts=conflicts, log=log)
            _same_columns(con, entity, wanted, raw.tables[TABLES[entity]].origin)
        else:
            columns = ", ".join(f"{name(column)} {kind}" for column, kind in wanted.items())
            con.execute(f"CREATE OR REPLACE TABLE {entity}_feature ({columns})")
    if all(role in raw.tables for role in TABLES.values()):
        require_multi(con, raw)
    return chosen_features(con, section)


def _same_columns(con: Any, entity: Entity, wanted: dict[str, str], origin: str) -> None:
    """Check that a table of items or users has the columns, and types, that the base's had."""
    found = columns_of(con, f"{entity}_feature")
    if found == wanted:
        return
    lacking, more = (sorted(a.keys() - b.keys()) for a, b in ((wanted, found), (found, wanted)))
    said = []
    for column in lacking:
        near = closest(column, more)
        said.append(f"lacks {column!r}" + (f" (did you mean {near!r}?)" if near else ""))
    said += [f"has {column!r}, which the base lacks" for column in more]
    said += [
        f"{c!r} is {found[c]}, but {wanted[c]} in the base" for c in wanted if c in found and found[c] != wanted[c]
    ]
    raise DataError(
        f"columns differ from the base: {'; '.join(said[:5])}",
        code="added-columns", where=origin, allowed=tuple(wanted),
        hint="add a table with the same columns as the first",
    )  # fmt: skip


def _drop_known(con: Any, section: DatasetSection, log: StepLog) -> int:
    """Delete from `clean` what the base has; also its pairs, where repeats are dropped. Returns the former's count."""
    con.execute(
        f"CREATE TABLE seen AS SELECT user_id, item_id, rating, {MICROSECONDS} AS time FROM result.interaction "
        "JOIN known_user USING (user_row) JOIN known_item USING (item_row) "
        "SEMI JOIN (SELECT DISTINCT user_id FROM clean) USING (user_id)"
    )
    before, known, rated = con.execute(
        "SELECT count(*), count(s.time), count(*) FILTER (s.time IS NOT NULL AND c.rating IS DISTINCT FROM s.rating) "
        "FROM clean c LEFT JOIN seen s USING (user_id, item_id, time)"
    ).fetchone()
    con.execute("DELETE FROM clean WHERE (user_id, item_id, time) IN (SELECT (user_id, item_id, time) FROM seen)")
    other = f"; {rated:,} of them have another rating: the base's is kept" if rated else ""
    log.add("drop known rows", before - known, known, f"same user, item and time as a row of the base{other}")
    if section.repeats == "first":
        con.execute(
            "DELETE FROM clean USING (SELECT user_id, item_id, min(time) AS first FROM seen GROUP BY ALL) s "
            "WHERE clean.user_id = s.user_id AND clean.item_id = s.item_id AND clean.time > s.first"
        )
        kept = scalar(con, "SELECT count(*) FROM clean")
        reason = "pair already in the base (dataset.repeats: first)"
        log.add("drop known pairs", kept, before - known - kept, reason)
    con.execute("DROP TABLE seen")
    return int(known)


def _refuse_late(con: Any, base: _Base, section: DatasetSection, log: StepLog) -> None:
    """Check that what is left of `clean` is later than the base.

    With a k-core, earlier rows of users and items that the base does not know may be what its k-core left out: they are
    left out and counted.

    Raises:
        DataError: Some rows are not.
    """
    unknown = f"time <= {base.end} AND (user_id NOT IN (SELECT user_id FROM known_user) " \
              "OR item_id NOT IN (SELECT item_id FROM known_item))"  # fmt: skip
    if max(section.k_core.user, section.k_core.item) > 1:
        before = scalar(con, "SELECT count(*) FROM clean")
        con.execute(f"DELETE FROM clean WHERE {unknown}")
        kept = scalar(con, "SELECT count(*) FROM clean")
        log.add(
            "drop earlier rows",
            kept,
            before - kept,
            "of users or items that the base does not know; its k-core may have left them out",
        )
    late, old, user, item, time = con.execute(
        f"SELECT count(*), count(*) FILTER (time < {base.cuts.validation_from}), arg_min(user_id, time), "
        f"arg_min(item_id, time), min(time) FROM clean WHERE time <= {base.end}"
    ).fetchone()
    if not late:
        return
    cut = f", {old:,} of them before validation_from ({shown_time(base.cuts.validation_from)})" if old else ""
    raise DataError(
        f"{late:,} added rows are not later than the last event of the base ({shown_time(base.end)} UTC){cut}: they "
        f"would change existing samples, e.g. user {user!r}, item {item!r}, {shown_time(time)}",
        code="added-late", where="dataset.added", hint=f"leave these rows out, or {_ANEW}",
    )  # fmt: skip


def _add_entity(
    con: Any, section: DatasetSection, source: ComponentConfig, entity: Entity, features: tuple[Choice, ...],
    log: StepLog,
) -> int:  # fmt: skip
    template = section.text.item if entity == "item" else section.text.user
    role = getattr(source, "roles", {}).get(TABLES[entity])
    compare = role is None or getattr(source, role) != getattr(section.source, role)
    if compare:
        known_entity(con, entity)
    return add_entity(con, entity, template, features, section.conflicts.of(entity), log)


def _place_after(con: Any) -> None:
    """Let the places of `placed` go on from those of the base."""
    con.execute(
        "UPDATE placed SET place = placed.place + b.place FROM (SELECT user_row, max(place) AS place "
        "FROM result.interaction GROUP BY user_row) b WHERE placed.user_row = b.user_row"
    )


def _add_samples(con: Any, base: _Base, section: DatasetSection, label: Label, seed: int, log: StepLog) -> None:
    """Make the samples of the new events, from all events of their users, and write them."""
    new = scalar(con, "SELECT count(*) FROM placed")
    con.execute("CREATE TABLE fresh AS FROM placed")
    con.execute(
        f"CREATE OR REPLACE TABLE placed AS SELECT user_row, item_row, rating, {MICROSECONDS} AS time, place, "
        f"{PAIR} AS pair FROM result.interaction SEMI JOIN (SELECT DISTINCT user_row FROM fresh) USING (user_row) "
        'JOIN result."user" USING (user_row) JOIN result.item USING (item_row)'
    )
    cut_events(con, base.cuts)
    log.add(f"split {section.split.type}", new, 0, f"as the base: {base.cuts}")
    whole = f"(SELECT item_row, {MICROSECONDS} AS time, {base.cuts.split(MICROSECONDS)} AS split " \
            "FROM result.interaction)"  # fmt: skip
    make_catalogue(con, base.cuts, "(SELECT item_row, item_id FROM result.item)", whole)
    label.label(con, section.repeats, derive_seed(seed, "label"))
    build_samples(con, section.history, after=base.end, first_id=base.samples)
    log.add(f"label {section.label.type}", scalar(con, "SELECT count(*) FROM sample"), 0, "new samples")
    con.execute("DELETE FROM result.history WHERE user_row IN (SELECT user_row FROM latest)")
    write_samples(con)
    con.execute("CREATE OR REPLACE TABLE placed AS FROM fresh")


_VIEWS = {
    "interaction": "SELECT user_row, item_row FROM result.interaction",
    "sample": "FROM result.sample",
    "item_text": "SELECT item_row, text FROM result.item",
    "user_text": 'SELECT user_row, text FROM result."user"',
}


def _as_whole(con: Any, cuts: Cuts) -> None:
    """Let the names that reports read mean the whole, the base included."""
    event = (
        f"SELECT user_row, item_row, rating, {MICROSECONDS} AS time, place, {PAIR} AS pair, "
        f'{cuts.split(MICROSECONDS)} AS split FROM result.interaction JOIN result."user" USING (user_row) '
        "JOIN result.item USING (item_row)"
    )
    for view, query in {**_VIEWS, "event": event}.items():
        con.execute(f"DROP TABLE {view}")
        con.execute(f"CREATE VIEW {view} AS {query}")


def _drop_views(con: Any) -> None:
    for view in (*_VIEWS, "event"):
        con.execute(f"DROP VIEW {view}")
