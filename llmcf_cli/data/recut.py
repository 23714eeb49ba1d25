"""Later cuts for a finished ingest: other splits of the same samples, so that models learn from rows that were added.

Nothing else moves. A negative was drawn under the earlier cut, which let fewer items be drawn (see `negatives`), so it
reveals no more than before.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from llmcf_cli.core.errors import DataError
from llmcf_cli.data import measure
from llmcf_cli.data.alarms import SPLIT_ALARMS, split_alarms, stop_at_limits
from llmcf_cli.data.cut import Cuts, read_cuts
from llmcf_cli.data.ingest import scratch
from llmcf_cli.data.raw import text
from llmcf_cli.data.report import IngestReport, IngestStep
from llmcf_cli.recipe.dataset import CutsSection, DatasetSection
from llmcf_cli.store.links import link
from llmcf_cli.store.open import connect_read, refuse_code
from llmcf_cli.store.recuts import Recut, Step, base_of
from llmcf_cli.store.tables import MICROSECONDS
from llmcf_cli.tabular.times import TimeFormat, shown_time

_LEAST_TIMES = 3
OWN = "cut.moved_from"
"""Key of `meta`: where validation began before the cuts moved, in microseconds since 1970."""


def recut(
    base: Path, before: IngestReport, section: DatasetSection, cuts: CutsSection, times: TimeFormat, *, out: Path
) -> IngestReport:
    """Move the cuts of a finished ingest, without a copy of its samples.

    Args:
        base: DuckDB file that `append` made.
        before: Its report.
        section: The recipe's `dataset`.
        cuts: Where to.
        times: How the data's times are written.
        out: Database to make, see `store.recuts`; it can be opened only when it is complete.

    Returns:
        The report with what has changed.

    Raises:
        DataError: The cuts cannot be read, or lie before those of the base.
        LimitError: A split has too few samples.
        StoreError: The disk or the memory does not suffice.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".recut-") as folder, scratch(Path(folder)) as con:
        con.execute(f"ATTACH {text(str(base))} AS result (READ_ONLY)")
        refuse_code(con, base)
        own = Cuts.from_meta(dict(con.execute("SELECT key, value FROM result.meta").fetchall()))
        now = read_cuts(con, cuts.model_dump(), times, "dataset.recut")
        if own is None or now.validation_from < own.validation_from:
            found = "the base has none" if own is None else f"the base's are {own}"
            raise DataError(
                f"cuts can only move to later times; {found}", code="cut-outside", where="dataset.recut",
                hint="set later times, or change dataset.split",
            )  # fmt: skip
        con.execute(f"CREATE VIEW moved AS SELECT * REPLACE ({now.split()} AS split) FROM result.sample")
        events = f"(SELECT user_row, item_row, {MICROSECONDS} AS time FROM result.interaction)"
        measure.prepare(con, "moved", events)
        samples = measure.split_counts(con, "moved")
        step = IngestStep("move cuts", sum(s.positive + s.negative for s in samples), 0, str(now))
        report = replace(
            before, steps=(*before.steps, step), cuts=now, samples=samples, rules=measure.rules(con, "moved"),
            slices=measure.cold_slices(con, "moved"),
        )  # fmt: skip
    stay = (alarm for alarm in before.alarms if alarm.code not in SPLIT_ALARMS)
    report = replace(report, alarms=(*stay, *split_alarms(report, section)))
    stop_at_limits(report, section)
    link(base, base_of(out))
    found_step = Step(name=step.name, kept=step.kept, dropped=step.dropped, reason=step.reason)
    meta = {**now.meta(), OWN: str(own.validation_from)}
    Recut(validation_from=now.validation_from, test_from=now.test_from, meta=meta, step=found_step).write(out)
    return report


def newest_cuts(database: Path, since: int, validation: float, test: float) -> Cuts:
    """Cuts that leave the newest of the rows from some time on to validation and test, and the others to train.

    Each lies between two different times, so that the splits come nearest to their shares.

    Args:
        database: DuckDB file of an ingest.
        since: Time from which on no model has learned from rows, in microseconds since 1970.
        validation: Share of these rows for validation.
        test: Share for test.

    Raises:
        DataError: The rows have fewer than three different times.
    """
    with connect_read(database) as con:
        found = con.sql(
            f"SELECT {MICROSECONDS} AS moment, count(*) AS events FROM interaction WHERE {MICROSECONDS} >= {since} "
            "GROUP BY moment ORDER BY moment"
        ).fetchnumpy()
    at_M, upto_M = np.asarray(found["moment"], np.int64), np.cumsum(found["events"])
    last = len(at_M) - _LEAST_TIMES
    if last < 0:
        raise DataError(
            f"the rows from {shown_time(since)} (UTC) on have {len(at_M)} different times; to train on some, "
            "validate on later ones and test on the newest takes at least three",
            code="split-impossible", where="dataset.added", hint="add more rows, or refresh with --level items",
        )  # fmt: skip
    first = int(np.abs(upto_M[: last + 1] - upto_M[-1] * (1 - validation - test)).argmin())
    second = first + 1 + int(np.abs(upto_M[first + 1 : -1] - upto_M[-1] * (1 - test)).argmin())
    return Cuts(int(at_M[first + 1]), int(at_M[second + 1]))
