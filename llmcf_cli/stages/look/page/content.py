"""What the report of a run says, gathered from the typed reports of its stages and from its predictions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from llmcf_cli.core.errors import StoreError
from llmcf_cli.data.report import IngestReport
from llmcf_cli.llm.writing.reports import CoTReport
from llmcf_cli.rec.measure.compare import (
    CONTROL_NOTE,
    control_rows,
    difference_rows,
    extent,
    p_text,
    rows,
    slice_rows,
    small_slices,
    title_of,
)
from llmcf_cli.rec.measure.significance import NORMAL_95
from llmcf_cli.stages.engine.report import from_json, to_json
from llmcf_cli.stages.look.audit import task_of_model
from llmcf_cli.stages.look.made import Made, Predicted, Run, arms_of
from llmcf_cli.stages.look.page.cases import Cases, find_cases
from llmcf_cli.stages.look.page.charts import Intervals, Lines, intervals, lines
from llmcf_cli.stages.look.page.lineage import Artifact, Drawing, artifacts, draw
from llmcf_cli.stages.steps.evaluate import Comparison, EvaluateOutput
from llmcf_cli.stages.steps.match import MatchStageReport
from llmcf_cli.stages.steps.predict import PredictOutput
from llmcf_cli.stages.steps.train_rec import TrainRec, TrainRecReport
from llmcf_cli.store.open import read_parquet

if TYPE_CHECKING:
    from llmcf_cli.rec.tasks.base import Task

_BINS = 10
LEVEL = 0.05
"""Significance level of the verdict."""
HALF = 0.5
"""Share of an arm's gain that its control has, past which the gain is not due to what the arm adds."""


@dataclass(frozen=True)
class Statement:
    """A sentence of the verdict.

    Attributes:
        tone: `good`, `bad`, `open` or `plain`.
        text: The sentence.
    """

    tone: str
    text: str


@dataclass(frozen=True)
class Table:
    """A table of texts, the first column being what its rows are about."""

    titles: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Matched:
    """What arms' examples were found by, and its audit."""

    arms: tuple[str, ...]
    report: MatchStageReport


@dataclass(frozen=True)
class Written:
    """Chains of thought, and the arms that read them."""

    label: str
    report: CoTReport


@dataclass(frozen=True)
class Page:
    """Everything that the report shows.

    Attributes:
        key: Of the comparison.
        made: When it was made, UTC.
        version: Of llmcf, by which it was made.
        comparison: The stage's report.
        extent: How large the test split is.
        verdict: What it comes to, in sentences.
        arms, differences, controls, slices, small: Tables, and what is left out of the slices.
        values, gaps, curves, calibration: Charts; one of gaps for each reference.
        bins: The numbers of the chart of calibration.
        ingests: What was read.
        matched: How examples were found.
        written: What a language model, or an engine without one, wrote.
        costs: Where the time went.
        drawing, artifacts: What the comparison was made from.
        cases: Single samples; None where there is nothing to compare.
        glossary: Term → meaning.
    """

    template: ClassVar[str] = "report.html"
    key: str
    made: str
    version: str
    comparison: Comparison
    extent: str
    verdict: tuple[Statement, ...]
    arms: Table
    differences: Table
    controls: Table
    slices: Table
    small: str
    values: Intervals
    gaps: tuple[Intervals, ...]
    curves: Lines | None
    calibration: Lines | None
    bins: Table
    ingests: tuple[IngestReport, ...]
    matched: tuple[Matched, ...]
    written: tuple[Written, ...]
    costs: Table
    drawing: Drawing
    artifacts: tuple[Artifact, ...]
    cases: Cases | None
    glossary: Mapping[str, str]


def gather(run: Run) -> Page:
    """What there is to say of a finished comparison.

    Raises:
        StoreError: The run does not end in a comparison, or something that it was made from is gone or damaged.
    """
    last = run.last
    if last is None or last.manifest.stage != "evaluate":
        made = "has not been made yet" if last is None else f"is a result of {last.manifest.stage}, not a comparison"
        raise StoreError(made, code="not-made", where=run.name, hint="llmcf run RECIPE")
    found = from_json(Comparison, last.manifest.report, str(last.folder))
    plain = to_json(found)
    first: dict[str, Predicted] = {}
    for predicted in run.predicted:
        first.setdefault(predicted.arm, predicted)
    task = task_of_model(next(iter(first.values())).made.need(TrainRec.name)) if first else None
    ingests = tuple(from_json(IngestReport, made.manifest.report, str(made.folder)) for made in run.ingests)
    arm = _told_of(found, first)
    cases = find_cases(run, task, arm, found.references) if task is not None and arm else None
    bins = _calibration(run, task) if task is not None else {}
    titles, cells = rows(plain)
    return Page(
        key=last.manifest.key, made=last.manifest.started[:19].replace("T", " "),
        version=last.manifest.versions.get("llmcf", ""), comparison=found, extent=extent(plain),
        verdict=tuple(_verdict(found, task, arm, ingests)), arms=Table(titles, cells),
        differences=Table(*difference_rows(plain, found.differences)) if found.differences else Table((), ()),
        controls=Table(*control_rows(plain)) if found.controls else Table((), ()),
        slices=Table(*slice_rows(plain)), small=small_slices(plain), values=_values(found, last),
        gaps=tuple(_gaps(found)), curves=_curves(found, run), calibration=_calibration_chart(bins),
        bins=_bin_table(bins), ingests=ingests, matched=tuple(_matched(run)), written=tuple(_written(last)),
        costs=costs(last), drawing=draw(last), artifacts=tuple(artifacts(last)),
        cases=cases, glossary=_glossary(task),
    )  # fmt: skip


def _told_of(found: Comparison, predicted: Mapping[str, Predicted]) -> str:
    """The arm that the verdict and the cases are about: the served one, or the last where that is the first reference
    itself; empty where no model was trained."""
    plain = found.references[0] if found.references else ""
    if found.served is not None and found.served.arm != plain:
        return found.served.arm
    others = [arm for arm in predicted if arm != plain]
    return others[-1] if others else next(iter(predicted), "")


def _verdict(
    found: Comparison, task: Task | None, arm: str, ingests: Sequence[IngestReport]
) -> list[Statement]:  # fmt: skip
    title = title_of(to_json(found))
    sentences: list[Statement] = []
    served = found.served
    if served is not None:
        why = "set in serve.arm" if served.named else f"best {title_of(to_json(found), served.monitor)} on validation"
        sentences.append(Statement("plain", f"The model to serve is “{served.arm}” ({why})."))
    if task is not None:
        sentences += [_against(found, d, task.main.sign, title, arm) for d in _of(found, arm)]
    sentences += [
        Statement("open" if c["share"] > HALF else "plain", f"“{c['control']}”, the control of “{c['arm']}”, "
                  f"reaches {c['share']:.0%} of its gain over “{c['reference']}”.")
        for c in found.controls if c["share"] is not None
    ]  # fmt: skip
    if found.seeds == 1 and found.differences:
        sentences.append(
            Statement("open", f"One seed: intervals cover the {found.drawn}, not the training's own spread.")
        )
    sentences += [Statement("bad", f"“{name}” failed: {why}") for name, why in found.failed.items()]
    sentences += [Statement("open", f"{warning}.") for warning in found.warnings]
    alarms = sum(len(report.alarms) for report in ingests)
    if alarms:
        sentences.append(Statement("bad", f"The data raise {alarms} alarm{'s' * (alarms > 1)}: see Data."))
    return sentences


def _of(found: Comparison, arm: str) -> list[tuple[str, Mapping[str, Any], float]]:
    """(other, difference, sign that makes it the arm's minus the other's) of an arm against each reference."""
    pairs: list[tuple[str, Mapping[str, Any], float]] = []
    for d in found.differences:
        if d["arm"] == arm and d["reference"] in found.references:
            pairs.append((d["reference"], d, 1.0))
        elif d["reference"] == arm and d["arm"] in found.references:
            pairs.append((d["arm"], d, -1.0))
    return pairs


def _against(
    found: Comparison, pair: tuple[str, Mapping[str, Any], float], better: float, title: str, arm: str
) -> Statement:  # fmt: skip
    other, d, sign = pair
    low, high = sorted(sign * end for end in d["interval"])
    seeds = d["p_value_seeds"]
    certain = d["p_value"] < LEVEL and (seeds is None or seeds < LEVEL)
    gain = better * sign * d["difference"]
    tone = "open" if not certain else "good" if gain > 0 else "bad"
    word = {"open": "not shown to differ from", "good": "better than", "bad": "worse than"}[tone]
    over = "" if seeds is None else f", and {_p(seeds)} over the seeds"
    gap = f"{title} {sign * d['difference']:+.4f} on {extent(vars(found))}"
    evidence = f"95 % interval {low:+.4f} to {high:+.4f}, {_p(d['p_value'])} by {found.test}{over}"
    return Statement(tone, f"“{arm}” is {word} “{other}”: {gap} ({evidence}).")


def _p(value: float) -> str:
    shown = p_text(value)
    return f"p {shown}" if shown.startswith("<") else f"p = {shown}"


def _values(found: Comparison, last: Made) -> Intervals:
    """Each arm's measure: the mean, its interval over users or samples, and the seeds."""
    name = found.measures[0]["name"]
    stored = read_parquet(EvaluateOutput(last.folder).metrics, ["arm", "split", "metric", "value"]).to_pylist()
    marks = []
    for arm in found.arms:
        mean, error = arm["measures"][name]["mean"], arm["standard_error"]
        seeds = [
            row["value"] for row in stored
            if (row["arm"], row["split"], row["metric"]) == (arm["arm"], "test", name) and row["value"] is not None
        ]  # fmt: skip
        marks.append(
            (arm["arm"], mean, mean - NORMAL_95 * error, mean + NORMAL_95 * error, seeds if len(seeds) > 1 else ())
        )
    title = f"Test {found.measures[0]['title']}, with 95 % intervals over the {found.drawn}"
    return intervals(title, found.measures[0]["heading"], marks)


def _gaps(found: Comparison) -> list[Intervals]:
    title = found.measures[0]["title"]
    charts = []
    for reference in found.references:
        marks = [
            (d["arm"], d["difference"], *d["interval"], ()) for d in found.differences if d["reference"] == reference
        ]
        if marks:
            charts.append(intervals(f"{title} minus that of “{reference}”", f"difference of {title}", marks, zero=True))
    return charts


def _curves(found: Comparison, run: Run) -> Lines | None:
    """The monitor on validation, after each epoch; the mean over the seeds."""
    series: dict[str, list[list[float]]] = {}
    for predicted in run.predicted:
        made = predicted.made.need(TrainRec.name)
        report = from_json(TrainRecReport, made.manifest.report, str(made.folder))
        series.setdefault(predicted.arm, []).append([e.validation[report.monitor] for e in report.epochs])
    means = {
        arm: [(n + 1.0, float(np.mean([c[n] for c in curves if len(c) > n]))) for n in range(max(map(len, curves)))]
        for arm, curves in series.items()
    }
    title = title_of(to_json(found), found.monitor)
    return lines(f"Validation {title} by epoch", "epoch", title, means)


def _calibration(run: Run, task: Task) -> dict[str, list[tuple[float, float, int]]]:
    """Arm → (mean predicted share, observed share, samples) of each bin; of tasks that are measured by calibration."""
    from llmcf_cli.rec.measure.metrics import sigmoid
    from llmcf_cli.rec.measure.ranking import CalibrationError

    if not any(isinstance(measure, CalibrationError) for measure in task.measures):
        return {}
    found = {}
    for arm in dict.fromkeys(p.arm for p in run.predicted):
        first = next(p for p in run.predicted if p.arm == arm)
        stored = read_parquet(
            PredictOutput(first.made.folder).predictions, ["user_row", task.truth.name, *task.predicted]
        )
        label_N, share_N = task.read_truth(stored).target_N, sigmoid(task.read(stored))
        bin_N = np.minimum((share_N * _BINS).astype(np.int64), _BINS - 1)
        count_B = np.bincount(bin_N, minlength=_BINS)
        sums = [np.bincount(bin_N, weights, minlength=_BINS) for weights in (share_N, label_N)]
        found[arm] = [
            (float(sums[0][b] / count_B[b]), float(sums[1][b] / count_B[b]), int(count_B[b]))
            for b in range(_BINS) if count_B[b]
        ]  # fmt: skip
    return found


def _calibration_chart(bins: Mapping[str, Sequence[tuple[float, float, int]]]) -> Lines | None:
    series = {arm: [(told, seen) for told, seen, _ in found] for arm, found in bins.items()}
    return lines("Predicted and observed share of positives", "predicted", "observed", series, diagonal=True)


def _bin_table(bins: Mapping[str, Sequence[tuple[float, float, int]]]) -> Table:
    cells = [
        [arm, f"{told:.3f}", f"{seen:.3f}", f"{seen - told:+.3f}", f"{count:,}"]
        for arm, found in bins.items() for told, seen, count in found
    ]  # fmt: skip
    return Table(("arm", "predicted", "observed", "gap", "samples"), cells)


def _matched(run: Run) -> list[Matched]:
    return [
        Matched(tuple(arms_of(run.readers(made))), from_json(MatchStageReport, made.manifest.report, str(made.folder)))
        for made in run.matches
    ]


def _written(last: Made) -> list[Written]:
    found = {made.manifest.key: made for made in last.below("gen-cot")}
    return [
        Written(made.manifest.variant, from_json(CoTReport, made.manifest.report, str(made.folder)))
        for made in found.values()
    ]


def costs(last: Made) -> Table:
    """Seconds and megabytes by stage, of artifacts that other runs may share."""
    by_stage: dict[str, list[Artifact]] = {}
    for artifact in artifacts(last):
        by_stage.setdefault(artifact.label.split("[")[0], []).append(artifact)
    cells = [
        [stage, f"{len(made):,}", f"{sum(a.seconds for a in made):,.1f}", f"{sum(a.megabytes for a in made):,.1f}"]
        for stage, made in by_stage.items()
    ]
    return Table(("stage", "results", "seconds", "MB"), cells)


_TERMS = {
    "arm": "one method of the comparison, trained and tested like the others",
    "reference": "an arm that the others are tested against",
    "control": "an arm that shares everything with another except what is claimed to help",
    "95 % interval": "where the value would lie for other users or samples of the same kind",
    "p": "how often chance alone would give a difference this large if both arms were equal",
    "p (seeds)": "paired t-test over seeds: whether training again would show the difference too",
    "significant": f"p below {LEVEL}, over users or test samples and, where there are several seeds, over the seeds",
    "RelaImpr": "(value − chance) / (the reference's value − chance) − 1",
    "validation": "the split that decides every choice; the test split is read once",
    "slice": "test samples with something in common, e.g. of users without a train sample",
    "likeness": "weighted cosine similarity of an example's history and item to the sample's",
    "share": CONTROL_NOTE.removeprefix("share: "),
    "artifact": "a stage's result, named by the digest of everything that determines it",
}


def _glossary(task: Task | None) -> dict[str, str]:
    """What the measures say, in the words of their code, and terms of this page."""
    found = {}
    for measure in task.measures if task is not None else ():
        found[measure.title] = inspect.cleandoc(type(measure).__doc__ or "").split("\n\n")[0].replace("\n", " ")
    return found | _TERMS
