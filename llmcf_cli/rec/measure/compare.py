"""Arms side by side: means over seeds, differences with their uncertainty, cold-start slices.

Legend: N test samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.text import markdown as md
from llmcf_cli.rec.measure.base import Measure, Truth, Values
from llmcf_cli.rec.measure.significance import NORMAL_95, paired_p_value

FEW = 6
"""Most arms, and most differences, that are told in full on a screen; the rest is in `comparison.md`."""
FEW_USERS = 30
"""Users of a test split below which errors over users are too uncertain to be taken at their word."""
LEVEL = 0.05
"""Significance level of the notes."""
CONTROL_NOTE = "share: how much of the arm's gain its control reaches, if the arm has a gain"
"""How to read the table of controls."""


@dataclass(frozen=True)
class ArmRun:
    """One arm and seed, measured.

    Attributes:
        arm: Name of the arm.
        meaning: What the arm is, in a few words.
        seed: Its seed.
        metrics: Measures on test by name.
        validation: Measures on validation by name, at the best epoch.
        prediction_N: Predictions of the test samples, [N, …].
        curve: Validation measure that early stopping went by, after each epoch; empty where there are no epochs.
        best_epoch: Number of the epoch that was kept; 0 where there are none.
        seconds_per_epoch: Mean training time of an epoch; None where there are none.
        parameters: Learned parameters; None where they are not counted.
        peak_memory: Bytes that training added to the process at most; None where it was not measured.
        slices: The main measure by name of a slice.
    """

    arm: str
    meaning: str
    seed: int
    metrics: Mapping[str, float]
    validation: Mapping[str, float]
    prediction_N: NDArray[Any]
    curve: Sequence[float] = ()
    best_epoch: int = 0
    seconds_per_epoch: float | None = None
    parameters: int | None = None
    peak_memory: int | None = None
    slices: Mapping[str, float] = field(default_factory=dict)


def summarise(
    runs: Sequence[ArmRun], truth: Truth, measures: Sequence[Measure], references: Sequence[str],
    controls: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:  # fmt: skip
    """Per arm: mean and standard deviation over seeds; per pair with a reference arm: two tests of the first measure.

    The measure's own test compares what an arm's seeds predict together, on the same samples; the paired t-test
    compares the values of the same seeds.

    Args:
        runs: Every arm and seed, in the order of the tables.
        truth: What the predictions are measured against.
        measures: In the order of the tables; arms are compared by the first.
        references: Arms that the others are tested against; those that did not run are left out.
        controls: Control → the arm that it is one of; pairs of which one did not run are left out.
    """
    grouped: dict[str, list[ArmRun]] = {}
    for run in runs:
        grouped.setdefault(run.arm, []).append(run)
    main = measures[0]
    pooled = {name: main.pooled([run.prediction_N for run in group], truth) for name, group in grouped.items()}
    references = [name for name in references if name in grouped]
    pairs = [
        (reference, name)
        for place, reference in enumerate(references)
        for name in grouped
        if name not in references[: place + 1]
    ]
    arms = [
        {**_arm(name, group, main), "standard_error": main.standard_error(pooled[name])}
        for name, group in grouped.items()
    ]
    base = next((arm for arm in arms if references and arm["arm"] == references[0]), None)
    for arm in arms:
        arm["relative_improvement"] = None if base is None else _relative_improvement(arm, base, main)
    return {
        "measures": [
            {"name": m.name, "title": m.axis, "heading": m.heading, "digits": m.digits}
            for m in measures
            if not m.detail
        ],
        "test": main.test_title,
        "test_users": len(np.unique(truth.user_row_N)),
        "drawn": _drawn(next(iter(pooled.values())), truth) if pooled else "",
        "arms": arms,
        "references": references,
        "differences": [_difference(grouped[a], grouped[b], main, pooled) for a, b in pairs],
        "controls": [
            _control(grouped[arm], grouped[control], grouped[reference], main, pooled)
            for arm, control, reference in _with_controls(references, controls)
            if arm in grouped and control in grouped
        ],
        "seeds": len({run.seed for run in runs}),
    }


def _drawn(values: Values, truth: Truth) -> str:
    """What tests and intervals of a measure are over."""
    if values.user_U is not None or len(values.unit_U) < len(truth):
        return "users of the test split"
    return "test samples"


def extent(report: Mapping[str, Any]) -> str:
    """How large the test split is, in words."""
    users = f" of {report['test_users']:,} users" if report.get("test_users") else ""
    return f"{report['test_samples']:,} samples{users}"


def title_of(report: Mapping[str, Any], name: str = "") -> str:
    """What tables call the measure of that name, or the one that arms are compared by."""
    found = {measure["name"]: str(measure["title"]) for measure in report["measures"]}
    return found[name or report["measures"][0]["name"]]


def notes(report: Mapping[str, Any]) -> list[str]:
    """How to read the differences, in sentences."""
    drawn = report["drawn"]
    significant = f"significant: p < {LEVEL} over the {drawn} ({report['test']})"
    if report["seeds"] == 1:
        first = f"one seed: the interval covers the {drawn}, not the training's own spread; set rec.seeds for that"
    else:
        first = "differences pool an arm's seeds, so they are not differences of the means above"
        significant += " and over the seeds (paired t-test)"
    return [first, significant]


def few_users(report: Mapping[str, Any]) -> list[str]:
    """A warning where tests are over too few users."""
    if report["drawn"] == "test samples" or report["test_users"] >= FEW_USERS:
        return []
    return [f"the test split has {report['test_users']} users: with so few, intervals and p are rough"]


def warnings(
    runs: Sequence[ArmRun], measures: Sequence[Measure], served: str | None, monitor: Measure
) -> list[str]:  # fmt: skip
    """What makes an arm less than it could be, or its predictions unfit to be used as they are.

    Args:
        runs: Every arm and seed.
        measures: What was measured.
        served: The arm to serve; None: there is none.
        monitor: What choices went by, on validation.
    """
    # Patience ends a fit after a worse epoch, so one whose best epoch is its last was ended by their number.
    short = list(dict.fromkeys(run.arm for run in runs if run.curve and run.best_epoch == len(run.curve)))
    found = []
    if short:
        found.append(f"{', '.join(short)}: still improving at the last epoch: raise rec.fit.epochs")
    for measure in measures:
        values = [run.metrics[measure.name] for run in runs if run.arm == served and measure.name in run.metrics]
        if values and measure.most is not None and np.mean(values) > measure.most:
            found.append(f"{served}: {measure.title} {np.mean(values):.3f} > {measure.most:g}: {measure.advice}")
    chosen = [run.validation[monitor.name] for run in runs if run.arm == served]
    for run in runs:
        if not chosen or run.curve or monitor.name not in run.validation:  # without epochs: a baseline
            continue
        value, own = run.validation[monitor.name], float(np.mean(chosen))
        if monitor.sign * value > monitor.sign * own:
            found.append(
                f"{run.arm}: this baseline is better on validation than {served}, the arm to serve "
                f"({monitor.title} {value:.4f} and {own:.4f}): the arms miss something that can be learned"
            )
    return found


def p_text(value: float | None) -> str:
    """`0.031`, `< 0.001`, or a dash for a test that was not made."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def mean_text(value: Mapping[str, Any] | None, digits: int = 4) -> str:
    """`mean`, or `mean ± sd` where there are several seeds; a dash for a measure that is not defined on these data."""
    if value is None:
        return "–"
    spread = f" ± {value['sd']:.{digits}f}" if value["n"] > 1 and value["sd"] > 0 else ""
    return f"{value['mean']:.{digits}f}{spread}"


def rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The main table as text: titles with units, and a row per arm. Columns that no arm fills are left out."""
    columns: dict[str, list[str]] = {"arm": [arm["arm"] for arm in report["arms"]]}
    for measure in report["measures"]:
        digits = measure.get("digits", 4)  # results of earlier versions do not say
        columns[measure["heading"]] = [
            mean_text(arm["measures"].get(measure["name"]), digits) for arm in report["arms"]
        ]  # fmt: skip
    reference = report["references"][0] if report["references"] else "–"
    for title, name, form in (
        (f"RelaImpr over {reference}", "relative_improvement", "{:+.1%}"),
        (f"validation {title_of(report)}", "validation", ""),
        ("epochs", "epochs", "{:.1f}"),
        ("s/epoch", "seconds_per_epoch", "{:.2f}"),
        ("parameters", "parameters", "{:,.0f}"),
        ("peak MB", "peak_megabytes", "{:,.0f}"),
    ):
        values = [arm.get(name) for arm in report["arms"]]
        columns[title] = [
            mean_text(value) if isinstance(value, Mapping) else "–" if value is None else form.format(value)
            for value in values
        ]
    return _filled(columns)


def main_differences(report: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The differences that a screen has room for: all if they are few, else those from the last reference."""
    found: Sequence[Mapping[str, Any]] = report["differences"]
    if len(found) <= FEW:
        return found
    return [difference for difference in found if difference["reference"] == report["references"][-1]]


def difference_rows(
    report: Mapping[str, Any], differences: Sequence[Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    """A table of differences as text: a row per reference and arm, with what both tests say."""
    columns: dict[str, list[str]] = {
        title: []
        for title in ("arms", "difference", "95 % interval", f"p ({report['test']})", "p (seeds)", "significant")
    }
    for d in differences:
        low, high = d["interval"]
        cells = [
            f"{d['arm']} − {d['reference']}", f"{d['difference']:+.4f}", f"[{low:+.4f}, {high:+.4f}]",
            p_text(d["p_value"]), p_text(d["p_value_seeds"]), "yes" if _significant(d) else "no",
        ]  # fmt: skip
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return _filled(columns)


def control_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of controls as text: an arm's gain, its control's, and the difference of both with its tests."""
    found = report["controls"]
    titles, cells = difference_rows(report, [control["from_control"] for control in found])
    shown = [
        [f"{c['gain']:+.4f}", f"{c['control_gain']:+.4f}", "–" if c["share"] is None else f"{c['share']:.0%}"]
        for c in found
    ]
    over = [control["reference"] for control in found]
    gains = [f"gain over {over[0]}" if len(set(over)) == 1 else "gain", "the control's", "share"]
    return [titles[0], *gains, *titles[1:]], [[row[0], *gain, *row[1:]] for row, gain in zip(cells, shown, strict=True)]


def slice_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of slices as text: a row per arm, a column per slice with its number of samples."""
    names = [name for name in report["slices"] if any(name in arm["slices"] for arm in report["arms"])]
    titles = ["arm", *(f"{name}, n = {report['slices'][name]:,}" for name in names)]
    return titles, [[arm["arm"], *(mean_text(arm["slices"].get(name)) for name in names)] for arm in report["arms"]]


def small_slices(report: Mapping[str, Any]) -> str:
    """Which slices are left out of the table, and why; empty where none is."""
    small: Mapping[str, Mapping[str, int]] = report["small_slices"]
    if not small:
        return ""
    found = [f"{name} ({' + '.join(f'{count:,}' for count in counts.values())})" for name, counts in small.items()]
    kinds = " or ".join(next(iter(small.values())))
    return f"left out, with fewer than {report['least']} {kinds}: {', '.join(found)}"


def markdown(report: Mapping[str, Any]) -> str:
    """The comparison as a Markdown document."""
    lines = [f"# {report['recipe']}: {report['backbone']}, test split of {extent(report)}", ""]
    lines += _table(*rows(report))
    lines += ["", *(md(f"- {line}") for line in report["protocol"])] if report.get("protocol") else []
    lines += ["", *(md(f"- {arm['arm']} = {arm['meaning']}") for arm in report["arms"])]
    if report["differences"]:
        lines += ["", f"Differences of {title_of(report)}, with 95 % intervals over the {report['drawn']}:", ""]
        lines += [*_table(*difference_rows(report, report["differences"])), ""]
        lines += [md(f"- {line}") for line in report["notes"]]
    if report["controls"]:
        lines += ["", f"Arms and their controls, {title_of(report)}; {CONTROL_NOTE}:", ""]
        lines += _table(*control_rows(report))
    if report.get("warnings"):
        lines += ["", *(md(f"- {warning}") for warning in report["warnings"])]
    if report["failed"]:
        lines += ["", "Arms that failed:", "", *(md(f"- {name}: {why}") for name, why in report["failed"].items())]
    titles, cells = slice_rows(report)
    if len(titles) > 1:
        lines += ["", f"Test {title_of(report)} on slices:", "", *_table(titles, cells)]
    if report["small_slices"]:
        lines += ["", md(small_slices(report))]
    return "\n".join([*lines, ""])


def _filled(columns: Mapping[str, Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the columns that have anything but dashes."""
    kept = {title: cells for title, cells in columns.items() if set(cells) != {"–"}}
    return list(kept), [list(row) for row in zip(*kept.values(), strict=True)]


def _table(titles: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(map(md, row))} |" for row in (titles, ["---"] * len(titles), *cells)]


def _significant(difference: Mapping[str, Any]) -> bool:
    seeds = difference["p_value_seeds"]
    return difference["p_value"] < LEVEL and (seeds is None or seeds < LEVEL)


def _relative_improvement(arm: Mapping[str, Any], base: Mapping[str, Any], measure: Measure) -> float | None:
    """(value − chance) / (base's value − chance) − 1 (Yan et al., 2014).

    None for a measure without chance level, and where the base's 95 % interval reaches it.
    """
    if measure.chance is None:
        return None
    value, above = (float(one["measures"][measure.name]["mean"]) - measure.chance for one in (arm, base))
    return value / above - 1 if measure.sign * above > NORMAL_95 * base["standard_error"] else None


def _arm(name: str, group: Sequence[ArmRun], main: Measure) -> dict[str, Any]:
    first = group[0]
    seconds = [run.seconds_per_epoch for run in group if run.seconds_per_epoch is not None]
    memory = [run.peak_memory for run in group if run.peak_memory is not None]
    return {
        "arm": name,
        "meaning": first.meaning,
        "measures": {metric: _spread([run.metrics[metric] for run in group]) for metric in first.metrics},
        "validation": _spread([run.validation[main.name] for run in group]) if main.name in first.validation else None,
        "epochs": float(np.mean([len(run.curve) for run in group])) if first.curve else None,
        "seconds_per_epoch": float(np.mean(seconds)) if seconds else None,
        "parameters": first.parameters,
        "peak_megabytes": max(memory) / 1e6 if memory else None,
        "slices": {part: _spread([run.slices[part] for run in group]) for part in first.slices},
    }


def _spread(values: Sequence[float]) -> dict[str, Any]:
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "sd": sd, "n": len(values)}


def _difference(
    reference: Sequence[ArmRun],
    arm: Sequence[ArmRun],
    measure: Measure,
    pooled: Mapping[str, Values],
) -> dict[str, Any]:
    first, second = reference[0].arm, arm[0].arm
    found = measure.test(pooled[first], pooled[second])
    by_seed = [{run.seed: run.metrics[measure.name] for run in group} for group in (reference, arm)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    values = [[group[seed] for seed in seeds] for group in by_seed]
    return {
        "reference": first, "arm": second, "difference": found.difference, "standard_error": found.standard_error,
        "interval": found.interval, "p_value": found.p_value, "p_value_seeds": paired_p_value(*values),
        "mean_difference": float(np.mean([*by_seed[1].values()]) - np.mean([*by_seed[0].values()])),
    }  # fmt: skip


def _with_controls(references: Sequence[str], controls: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """(arm, control, reference of their gains): the last reference that is neither, nor a control of another arm."""
    for control, arm in controls.items():
        for reference in reversed(references):
            if reference not in (arm, control) and controls.get(reference, arm) == arm:
                yield arm, control, reference
                break


def _control(
    arm: Sequence[ArmRun], control: Sequence[ArmRun], reference: Sequence[ArmRun], measure: Measure,
    pooled: Mapping[str, Values],
) -> dict[str, Any]:  # fmt: skip
    """Gains are positive where an arm is better; there is a share where the arm's 95 % interval is above 0."""
    gain, control_gain = (_difference(reference, group, measure, pooled) for group in (arm, control))
    sure = min(measure.sign * bound for bound in gain["interval"]) > 0
    return {
        "arm": arm[0].arm, "control": control[0].arm, "reference": reference[0].arm,
        "gain": measure.sign * gain["difference"], "control_gain": measure.sign * control_gain["difference"],
        "share": control_gain["difference"] / gain["difference"] if sure else None,
        "from_control": _difference(control, arm, measure, pooled),
    }  # fmt: skip
