"""The report of an ingest, from its scratch tables."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data import measure
from llmcf_cli.data.alarms import find_alarms
from llmcf_cli.data.cut import Cuts
from llmcf_cli.data.features import feature_counts
from llmcf_cli.data.negatives_audit import DRAWS, drawn_audit
from llmcf_cli.data.raw import TABLES, Entity, RawData, scalar
from llmcf_cli.data.report import Added, IngestReport, StepLog
from llmcf_cli.features.choice import Choice
from llmcf_cli.recipe.dataset import DatasetSection

ENTITIES: tuple[Entity, ...] = ("item", "user")


_DRAWS_ADDED = 19
"""Fresh draws where rows were added: train negatives are the base's, whose report compares them with more."""


@dataclass(frozen=True)
class Found:
    """What the steps noted on the way.

    Attributes:
        raw: The tables as they were read.
        log: The steps.
        repeats, repeats_dropped: Events of a pair that was taken before, and those of them that were left out.
        tied_events: Events that share their user and time with another.
        features: What models read beside the ids.
        cuts: Of the split.
        bound: Greatest hash of a user that `dataset.max_users` took in.
        added: What was added to a base.
    """

    raw: RawData
    log: StepLog
    repeats: int
    tied_events: int
    features: tuple[Choice, ...]
    cuts: Cuts | None
    bound: str | None = None
    added: Added | None = None


def summarise(con: Any, section: DatasetSection, found: Found, seed: int) -> IngestReport:
    """Measure the relations `user_number`, `item_number`, `interaction`, `event`, `sample`, `catalogue`, `user_text`,
    `item_text`, `user_feature` and `item_feature`."""
    measure.prepare(con)
    median, empty = con.execute(
        "SELECT median(len(history)), count(*) FILTER (len(history) = 0) FROM sample"
    ).fetchone()
    draws = DRAWS if found.added is None else _DRAWS_ADDED
    report = IngestReport(
        steps=tuple(found.log.steps),
        clock=found.raw.meaning.clock,
        users=scalar(con, "SELECT count(*) FROM user_text"),
        items=scalar(con, "SELECT count(*) FROM item_text"),
        interactions=scalar(con, "SELECT count(*) FROM interaction"),
        repeats=found.repeats,
        repeats_dropped=found.repeats if section.repeats == "first" else 0,
        tied_events=found.tied_events,
        samples=measure.split_counts(con),
        history_median=float(median),
        history_empty=empty,
        texts=tuple(measure.text_counts(con)),
        joins=tuple(measure.joins(con, [entity for entity in ENTITIES if TABLES[entity] in found.raw.tables])),
        rules=measure.rules(con),
        slices=measure.cold_slices(con),
        negatives=drawn_audit(con, section.label, section.repeats, derive_seed(seed, "audit"), draws),
        times=found.log.times,
        notes=tuple(found.log.notes),
        features=feature_counts(con, found.features, section),
        similar=found.log.similar,
        cuts=found.cuts,
        added=found.added,
    )
    return replace(report, alarms=(*found.log.alarms, *find_alarms(report, section, found.raw.meaning)))
