"""Arms side by side: means over seeds, differences with their uncertainty, cold-start slices.

Legend: N test samples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.text import markdown as md
from llmcf_cli.rec.significance import auc_standard_error, delong, paired_p_value

LEVEL = 0.05
"""Significance level of the notes."""


@dataclass(frozen=True)
class ArmRun:
    """One arm and seed, measured.

    Attributes:
        arm: Name of the arm.
        meaning: What the arm is, in a few words.
        seed: Its seed.
        metrics: Test metrics by name.
        validation: Validation metrics by name, at the best epoch.
        logit_N: Test logits, float32.
        curve: Validation metric that early stopping went by, after each epoch; empty where there are no epochs.
        seconds_per_epoch: Mean training time of an epoch; None where there are none.
        parameters: Learned parameters; None where they are not counted.
        peak_memory: Bytes that training added to the process at most; None where it was not measured.
        slices: Test AUC by name of a slice.
    """

    arm: str
    meaning: str
    seed: int
    metrics: Mapping[str, float]
    validation: Mapping[str, float]
    logit_N: NDArray[np.float32]
    curve: Sequence[float] = ()
    seconds_per_epoch: float | None = None
    parameters: int | None = None
    peak_memory: int | None = None
    slices: Mapping[str, float] = field(default_factory=dict)


def summarise(runs: Sequence[ArmRun], label_N: NDArray[np.float32], references: Sequence[str]) -> dict[str, Any]:
    """Per arm: mean and standard deviation over seeds; per pair with a reference arm: two tests.

    DeLong's test compares each arm's logits averaged over its seeds, on the same samples; the paired t-test compares
    the AUCs of the same seeds.

    Args:
        runs: Every arm and seed, in the order of the tables.
        label_N: Test labels.
        references: Arms that the others are tested against; those that did not run are left out.
    """
    grouped: dict[str, list[ArmRun]] = {}
    for run in runs:
        grouped.setdefault(run.arm, []).append(run)
    pooled = {name: np.mean([run.logit_N for run in group], axis=0) for name, group in grouped.items()}
    references = [name for name in references if name in grouped]
    pairs = [
        (reference, name)
        for place, reference in enumerate(references)
        for name in grouped
        if name not in references[: place + 1]
    ]
    arms = [
        {**_arm(name, group), "auc_standard_error": auc_standard_error(label_N, pooled[name])}
        for name, group in grouped.items()
    ]
    base = next((arm for arm in arms if references and arm["arm"] == references[0]), None)
    for arm in arms:
        arm["relative_improvement"] = None if base is None else _relative_improvement(arm["auc"]["mean"], base)
    return {
        "arms": arms,
        "references": references,
        "differences": [_difference(grouped[a], grouped[b], label_N, pooled) for a, b in pairs],
        "seeds": len({run.seed for run in runs}),
    }


def notes(report: Mapping[str, Any]) -> list[str]:
    """How to read the differences, in sentences."""
    if report["seeds"] == 1:
        return [
            "one seed: the interval covers the test samples, not the training's own spread; set rec.seeds for that",
            f"significant: p < {LEVEL} in DeLong's test over the test samples",
        ]
    return [
        "differences are of logits averaged over an arm's seeds, so they are not those of the mean AUCs above",
        f"significant: p < {LEVEL} in DeLong's test over the test samples and in a paired t-test over the seeds",
    ]


def p_text(value: float | None) -> str:
    """`0.031`, `< 0.001`, or a dash for a test that was not made."""
    if value is None:
        return "–"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def mean_text(value: Mapping[str, Any] | None, digits: int = 4) -> str:
    """`mean`, or `mean ± sd` where there are several seeds; a dash for a metric that is not defined on these data."""
    if value is None:
        return "–"
    spread = f" ± {value['sd']:.{digits}f}" if value["n"] > 1 and value["sd"] > 0 else ""
    return f"{value['mean']:.{digits}f}{spread}"


def rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The main table as text: titles with units, and a row per arm. Columns that no arm fills are left out."""
    columns: dict[str, list[str]] = {"arm": [arm["arm"] for arm in report["arms"]]}
    for title, name in (("AUC ↑", "auc"), ("logloss ↓", "logloss"), ("gAUC ↑", "gauc"), ("ECE ↓", "ece")):
        columns[title] = [mean_text(arm.get(name)) for arm in report["arms"]]
    reference = report["references"][0] if report["references"] else "–"
    for title, name, form in (
        (f"RelaImpr over {reference}", "relative_improvement", "{:+.1%}"),
        ("validation AUC", "validation_auc", ""),
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


def difference_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of differences as text: a row per reference and arm, with what both tests say."""
    columns: dict[str, list[str]] = {
        title: [] for title in ("arms", "difference", "95 % interval", "p (DeLong)", "p (seeds)", "significant")
    }
    for d in report["differences"]:
        low, high = d["interval"]
        cells = [
            f"{d['arm']} − {d['reference']}", f"{d['difference']:+.4f}", f"[{low:+.4f}, {high:+.4f}]",
            p_text(d["p_value"]), p_text(d["p_value_seeds"]), "yes" if _significant(d) else "no",
        ]  # fmt: skip
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return _filled(columns)


def slice_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table of slices as text: a row per arm, a column per slice with its number of samples."""
    names = [name for name in report["slices"] if any(name in arm["slices"] for arm in report["arms"])]
    titles = ["arm", *(f"{name}, n = {report['slices'][name]:,}" for name in names)]
    return titles, [[arm["arm"], *(mean_text(arm["slices"].get(name)) for name in names)] for arm in report["arms"]]


def small_slices(report: Mapping[str, Any]) -> str:
    """Which slices are left out of the table, and why; empty where none is."""
    found = [f"{name} ({both[0]:,} + {both[1]:,})" for name, both in report["small_slices"].items()]
    least = report["least_per_label"]
    return f"left out, fewer than {least} positive or negative samples: {', '.join(found)}" if found else ""


def markdown(report: Mapping[str, Any]) -> str:
    """The comparison as a Markdown document."""
    lines = [f"# {report['recipe']}: {report['backbone']}, test split of {report['test_samples']:,} samples", ""]
    lines += _table(*rows(report))
    lines += ["", *(md(f"- {arm['arm']} = {arm['meaning']}") for arm in report["arms"])]
    if report["differences"]:
        lines += ["", "Differences of AUC, with 95 % intervals over the test samples:", ""]
        lines += [*_table(*difference_rows(report)), "", *(f"- {line}" for line in report["notes"])]
    if report["failed"]:
        lines += ["", "Arms that failed:", "", *(md(f"- {name}: {why}") for name, why in report["failed"].items())]
    titles, cells = slice_rows(report)
    if len(titles) > 1:
        lines += ["", "Test AUC on slices:", "", *_table(titles, cells)]
    if report["small_slices"]:
        lines += ["", small_slices(report)]
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


def _relative_improvement(auc: float, base: Mapping[str, Any]) -> float | None:
    """(AUC − ½) / (base's AUC − ½) − 1 (Yan et al., 2014); None where the base's 95 % interval reaches chance."""
    above = base["auc"]["mean"] - 0.5
    return (auc - 0.5) / above - 1 if above > 1.96 * base["auc_standard_error"] else None


def _arm(name: str, group: Sequence[ArmRun]) -> dict[str, Any]:
    first = group[0]
    seconds = [run.seconds_per_epoch for run in group if run.seconds_per_epoch is not None]
    memory = [run.peak_memory for run in group if run.peak_memory is not None]
    return {
        "arm": name,
        "meaning": first.meaning,
        **{metric: _spread([run.metrics[metric] for run in group]) for metric in first.metrics},
        "validation_auc": _spread([run.validation["auc"] for run in group]),
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
    label_N: NDArray[np.float32],
    pooled: Mapping[str, NDArray[np.float32]],
) -> dict[str, Any]:
    first, second = reference[0].arm, arm[0].arm
    found = delong(label_N, pooled[first], pooled[second])
    by_seed = [{run.seed: run.metrics["auc"] for run in group} for group in (reference, arm)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    aucs = [[group[seed] for seed in seeds] for group in by_seed]
    return {
        "reference": first, "arm": second, "difference": found.difference, "standard_error": found.standard_error,
        "interval": found.interval, "p_value": found.p_value, "p_value_seeds": paired_p_value(*aucs),
        "mean_difference": float(np.mean([*by_seed[1].values()]) - np.mean([*by_seed[0].values()])),
    }  # fmt: skip
