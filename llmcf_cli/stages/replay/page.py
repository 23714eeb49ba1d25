"""What a replay found, as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from llmcf_cli import __version__
from llmcf_cli.rec.measure.base import Measure
from llmcf_cli.rec.measure.compare import LEVEL, p_text
from llmcf_cli.stages.look.page.charts import Intervals, Lines, intervals, lines
from llmcf_cli.stages.look.page.content import Statement, Table
from llmcf_cli.stages.look.page.render import html
from llmcf_cli.stages.replay.record import Difference, arms_of, cost_rows, difference_rows, quality_rows
from llmcf_cli.store.artifacts import write_atomic

_TERMS = {
    "stale": "the model trained before the first window, never refreshed",
    "items": "refreshed without training: new items, new users, latest histories",
    "finetune": "the model trains on from the later rows",
    "full": "a model trained from scratch on all rows",
    "popular": "the most popular recent items, without a model",
    "window": "a stretch of time that is first predicted, then learned from",
    "calls": "calls of a language model",
    "95 % interval": "interval of the mean difference over the windows, by Student's t",
    "p": "paired t-test over the windows",
}


@dataclass(frozen=True)
class ReplayPage:
    """Everything that the page shows.

    Attributes:
        recipe: The recipe's name.
        version: Of llmcf, by which it was made.
        measure: What arms are compared by.
        windows: How many windows there are.
        verdict: What it comes to, in sentences.
        quality, spent: Charts by window: the measure, and seconds so far.
        gaps: Chart of the differences; None where none has an interval.
        by_window, costs, differences: Tables.
        glossary: Term → meaning.
    """

    template: ClassVar[str] = "replay.html"
    recipe: str
    version: str
    measure: str
    windows: int
    verdict: tuple[Statement, ...]
    quality: Lines | None
    spent: Lines | None
    gaps: Intervals | None
    by_window: Table
    costs: Table
    differences: Table
    glossary: Mapping[str, str]


def gather_replay(
    recipe: str, rows: Sequence[Mapping[str, Any]], measure: Measure, differences: Sequence[Difference]
) -> ReplayPage:
    """What there is to say of a replay.

    Args:
        recipe: The recipe's name.
        rows: One per arm and window, as `Replay.run` returns them.
        measure: What arms are compared by.
        differences: As `record.differences` has them.
    """
    arms = arms_of(rows)
    of = {arm: [row for row in rows if row["arm"] == arm] for arm in arms}
    values = {
        arm: [(row["window"], row[measure.name]) for row in own if row.get(measure.name) is not None]
        for arm, own in of.items()
    }  # fmt: skip
    seconds = {
        arm: [*zip([row["window"] for row in own], accumulate(row["seconds"] for row in own), strict=True)]
        for arm, own in of.items()
    }  # fmt: skip
    marks = [(f"{d.arm} − {d.other}", d.mean, *d.interval, ()) for d in differences if d.interval is not None]
    title = measure.title
    return ReplayPage(
        recipe=recipe, version=__version__, measure=title, windows=len({row["window"] for row in rows}),
        verdict=tuple(_verdict(rows, measure, differences)),
        quality=lines(f"{title} of each window, predicted before learning from it", "window", measure.axis, values),
        spent=lines("Seconds of refreshing so far", "window", "seconds", seconds),
        gaps=intervals("Mean differences over the windows, with 95 % intervals", f"difference of {title}", marks,
                       zero=True) if marks else None,
        by_window=Table(*quality_rows(rows, measure.name)), costs=Table(*cost_rows(rows, measure.name)),
        differences=Table(*difference_rows(differences)),
        glossary={word: meaning for word, meaning in _TERMS.items() if word in arms or word not in _ARMS},
    )  # fmt: skip


def write_replay_page(page: ReplayPage, file: Path) -> None:
    """Write it."""
    write_atomic(file, html(page))


_ARMS = ("stale", "items", "finetune", "full", "popular")


def _verdict(
    rows: Sequence[Mapping[str, Any]], measure: Measure, differences: Sequence[Difference]
) -> Iterator[Statement]:
    for d in differences:
        known = d.p_value is not None and d.p_value < LEVEL
        better = measure.sign * d.mean > 0
        tone = "open" if not known else "good" if better else "bad"
        word = {"open": "not shown to differ from", "good": "better than", "bad": "worse than"}[tone]
        interval = "" if d.interval is None else f", 95 % interval {d.interval[0]:+.4f} to {d.interval[1]:+.4f}"
        p = "" if d.p_value is None else f", p {p_text(d.p_value)}"
        gap = f"{measure.title} {d.mean:+.4f} over {d.windows} window{'s' * (d.windows != 1)}{interval}{p}"
        yield Statement(tone, f"“{d.arm}” is {word} “{d.other}”: {gap}.")
    calls = sum(row["calls"] for row in rows)
    yield Statement("plain", f"The refreshes made {calls:,} calls of a language model.")
    for row in rows:
        if row["note"]:
            yield Statement("bad", f"Window {row['window']}, “{row['arm']}”: {row['note']}; the earlier model stayed.")
