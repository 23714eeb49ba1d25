"""Arms side by side: means over seeds, differences with their uncertainty, Markdown and plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.rec.significance import auc_standard_error, delong

REFERENCE_ARMS = ("none", "text")
"""The arms whose difference to every other is tested: the backbone alone, and the control that sees only item text."""


@dataclass(frozen=True)
class ArmRun:
    """One arm and seed, measured.

    Attributes:
        arm: Name of the arm.
        meaning: What the arm is, in a few words.
        seed: Its seed.
        metrics: Test metrics by name.
        validation: Validation metrics by name, at the best epoch.
        curve: Validation metric that early stopping went by, after each epoch.
        epochs: Epochs trained.
        seconds_per_epoch: Mean training time of an epoch.
        parameters: Learned parameters.
        logit_N: Test logits, float32.
    """

    arm: str
    meaning: str
    seed: int
    metrics: Mapping[str, float]
    validation: Mapping[str, float]
    curve: Sequence[float]
    epochs: int
    seconds_per_epoch: float
    parameters: int
    logit_N: NDArray[np.float32]


def summarise(runs: Sequence[ArmRun], label_N: NDArray[np.float32]) -> dict[str, Any]:
    """Per arm: mean and standard deviation of each metric over seeds; per pair with a reference arm: DeLong's test.

    The test compares each arm's logits averaged over its seeds, on the same samples.
    """
    names = list(dict.fromkeys(run.arm for run in runs))
    grouped = {name: [run for run in runs if run.arm == name] for name in names}
    pooled = {name: np.mean([run.logit_N for run in group], axis=0) for name, group in grouped.items()}
    pairs = [
        (reference, name)
        for place, reference in enumerate(REFERENCE_ARMS)
        for name in names
        if reference in pooled and name not in REFERENCE_ARMS[: place + 1]
    ]
    return {
        "arms": [
            {**_arm(name, group), "auc_standard_error": auc_standard_error(label_N, pooled[name])}
            for name, group in grouped.items()
        ],
        "differences": [_difference(a, b, label_N, pooled) for a, b in pairs],
        "seeds": len({run.seed for run in runs}),
    }


def markdown(report: Mapping[str, Any]) -> str:
    """The comparison as a Markdown document."""
    columns = ["auc", "logloss", "gauc", "ece"]
    lines = [
        f"# {report['recipe']}: {report['backbone']}, test split of {report['test_samples']:,} samples", "",
        "| arm | AUC ↑ | logloss ↓ | gAUC ↑ | ECE ↓ | validation AUC | s/epoch | parameters |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for arm in report["arms"]:
        cells = [mean_text(arm.get(column)) for column in columns]
        cells += [
            mean_text(arm["validation_auc"]),
            f"{arm['seconds_per_epoch']:.2f}",
            f"{arm['parameters']:,}",
        ]
        lines.append(f"| {arm['arm']} | " + " | ".join(cells) + " |")
    lines += ["", *[f"- {line}" for line in report["notes"]], ""]
    return "\n".join(lines)


def notes(report: Mapping[str, Any]) -> list[str]:
    """What the differences allow to say, in sentences."""
    lines = []
    for d in report["differences"]:
        low, high = d["interval"]
        verdict = "significant" if d["p_value"] < 0.05 else "not significant"
        p_value = f"p = {d['p_value']:.3f}" if d["p_value"] >= 0.001 else "p < 0.001"
        lines.append(
            f"{d['arm']} − {d['reference']}: AUC {d['difference']:+.4f} [{low:+.4f}, {high:+.4f}], "
            f"{p_value} (DeLong), {verdict}"
        )
    if report["seeds"] == 1:
        lines.append(
            "one seed: the interval covers the test samples, not the training's own spread; set rec.seeds for that"
        )
    return lines


def mean_text(value: Mapping[str, Any] | None) -> str:
    """`mean`, or `mean ± sd` where there are several seeds; a dash for a metric that is not defined on these data."""
    if value is None:
        return "–"
    return f"{value['mean']:.4f}" + (f" ± {value['sd']:.4f}" if value["n"] > 1 else "")


def plot(report: Mapping[str, Any], runs: Sequence[ArmRun], folder: Path) -> list[Path]:
    """Save `comparison.png` and `comparison.html`: test AUC with 95 % intervals, and validation curves.

    Returns:
        The files written; empty where the `plot` extra is not installed.
    """
    try:
        import matplotlib.figure
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ModuleNotFoundError:
        return []
    names = [arm["arm"] for arm in report["arms"]]
    means = [arm["auc"]["mean"] for arm in report["arms"]]
    errors = [1.96 * arm["auc_standard_error"] for arm in report["arms"]]
    titles = ("Test AUC (95 % interval over test samples)", "Validation AUC by epoch")

    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.errorbar(means, names, xerr=errors, fmt="o", capsize=4)
    left.set(title=titles[0], xlabel="AUC", ylim=(-0.5, len(names) - 0.5))
    left.invert_yaxis()
    left.grid(axis="x", alpha=0.3)
    html = make_subplots(rows=1, cols=2, subplot_titles=titles)
    html.add_scatter(x=means, y=names, error_x={"array": errors}, mode="markers", showlegend=False, row=1, col=1)
    for run in runs:
        epochs, name = list(range(1, len(run.curve) + 1)), f"{run.arm}, seed {run.seed}"
        right.plot(epochs, run.curve, marker="o", markersize=3, label=name)
        html.add_trace(go.Scatter(x=epochs, y=list(run.curve), name=name, mode="lines+markers"), row=1, col=2)
    right.set(title=titles[1], xlabel="epoch", ylabel="AUC")
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend(fontsize="small")
    right.grid(alpha=0.3)
    html.update_xaxes(title_text="AUC", row=1, col=1)
    html.update_xaxes(title_text="epoch", tickformat="d", row=1, col=2)
    html.update_yaxes(autorange="reversed", row=1, col=1)
    png, page = folder / "comparison.png", folder / "comparison.html"
    figure.savefig(png, dpi=130)
    html.write_html(page, include_plotlyjs=True)
    return [png, page]


def _arm(name: str, group: Sequence[ArmRun]) -> dict[str, Any]:
    def spread(values: Sequence[float]) -> dict[str, Any]:
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        return {"mean": float(np.mean(values)), "sd": sd, "n": len(values)}

    return {
        "arm": name,
        "meaning": group[0].meaning,
        **{metric: spread([run.metrics[metric] for run in group]) for metric in group[0].metrics},
        "validation_auc": spread([run.validation["auc"] for run in group]),
        "epochs": float(np.mean([run.epochs for run in group])),
        "seconds_per_epoch": float(np.mean([run.seconds_per_epoch for run in group])),
        "parameters": group[0].parameters,
    }


def _difference(
    reference: str, arm: str, label_N: NDArray[np.float32], pooled: Mapping[str, NDArray[np.float32]]
) -> dict[str, Any]:
    found = delong(label_N, pooled[reference], pooled[arm])
    return {
        "reference": reference, "arm": arm, "difference": found.difference, "standard_error": found.standard_error,
        "interval": found.interval, "p_value": found.p_value,
    }  # fmt: skip
