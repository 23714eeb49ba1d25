"""The comparison as a picture (PNG) and a page (HTML)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcf_cli.rec.compare import ArmRun

TITLES = (
    "Test AUC: seeds (·), mean, 95 % interval over test samples",
    "AUC minus {reference}, 95 % interval",
    "Validation, mean over seeds",
)


def plot(report: Mapping[str, Any], runs: Sequence[ArmRun], folder: Path) -> list[Path]:
    """Save `comparison.png` and `comparison.html`: test AUC, differences to the last reference, validation curves.

    Returns:
        The files written; empty where the `plot` extra is not installed.
    """
    try:
        png, page = folder / "comparison.png", folder / "comparison.html"
        _picture(report, runs, png)
        _page(report, runs, page)
    except ModuleNotFoundError:
        return []
    return [png, page]


def _titles(report: Mapping[str, Any]) -> list[str]:
    reference = report["references"][-1] if report["references"] else "–"
    return [title.format(reference=reference) for title in TITLES]


def _picture(report: Mapping[str, Any], runs: Sequence[ArmRun], path: Path) -> None:
    import matplotlib.figure

    names, means, errors = _aucs(report)
    figure = matplotlib.figure.Figure(figsize=(17, 1.8 + 0.36 * len(names)), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1))
    left.errorbar(means, names, xerr=errors, fmt="o", capsize=3)
    left.plot([run.metrics["auc"] for run in runs], [run.arm for run in runs], "k.", markersize=4, alpha=0.6)
    left.set(xlabel="AUC", ylim=(len(names) - 0.5, -0.5))
    arms, gaps, bars = _gaps(report)
    middle.errorbar(gaps, arms, xerr=bars, fmt="o", capsize=3, color="tab:green")
    middle.axvline(0, color="k", linewidth=0.8)
    middle.set(xlabel="difference of AUC", ylim=(len(arms) - 0.5, -0.5))
    for name, curve in _curves(runs).items():
        right.plot(range(1, len(curve) + 1), curve, marker="o", markersize=3, label=name)
    right.set(xlabel="epoch", ylabel="validation metric")
    right.xaxis.get_major_locator().set_params(integer=True)
    if right.lines:
        right.legend(fontsize="x-small")
    for axes, title in zip((left, middle, right), _titles(report), strict=True):
        axes.set_title(title, fontsize="small")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _page(report: Mapping[str, Any], runs: Sequence[ArmRun], path: Path) -> None:
    from plotly.subplots import make_subplots

    names, means, errors = _aucs(report)
    page = make_subplots(rows=1, cols=3, subplot_titles=_titles(report), horizontal_spacing=0.12)
    page.add_scatter(
        x=means, y=names, error_x={"array": errors}, mode="markers", name="mean", showlegend=False, row=1, col=1
    )
    page.add_scatter(
        x=[run.metrics["auc"] for run in runs], y=[run.arm for run in runs], text=[f"seed {run.seed}" for run in runs],
        mode="markers", marker={"size": 4, "color": "black"}, showlegend=False, row=1, col=1,
    )  # fmt: skip
    arms, gaps, bars = _gaps(report)
    page.add_scatter(x=gaps, y=arms, error_x={"array": bars}, mode="markers", showlegend=False, row=1, col=2)
    page.add_vline(x=0, row=1, col=2)
    for name, curve in _curves(runs).items():
        page.add_scatter(x=list(range(1, len(curve) + 1)), y=curve, name=name, mode="lines+markers", row=1, col=3)
    page.update_xaxes(title_text="AUC", row=1, col=1)
    page.update_xaxes(title_text="difference of AUC", row=1, col=2)
    page.update_xaxes(title_text="epoch", tickformat="d", row=1, col=3)
    for column in (1, 2):
        page.update_yaxes(autorange="reversed", row=1, col=column)
    page.update_layout(height=max(450, 140 + 28 * len(names)))
    page.write_html(path, include_plotlyjs=True)


def _aucs(report: Mapping[str, Any]) -> tuple[list[str], list[float], list[float]]:
    arms = report["arms"]
    return ([arm["arm"] for arm in arms], [arm["auc"]["mean"] for arm in arms],
            [1.96 * arm["auc_standard_error"] for arm in arms])  # fmt: skip


def _gaps(report: Mapping[str, Any]) -> tuple[list[str], list[float], list[float]]:
    """Arm, difference to the last reference, and half its interval."""
    found = [d for d in report["differences"] if d["reference"] == report["references"][-1]]
    return ([d["arm"] for d in found], [d["difference"] for d in found], [1.96 * d["standard_error"] for d in found])


def _curves(runs: Sequence[ArmRun]) -> dict[str, list[float]]:
    """Per arm with epochs, the mean over the seeds that reached each epoch."""
    grouped: dict[str, list[Sequence[float]]] = {}
    for run in runs:
        if run.curve:
            grouped.setdefault(run.arm, []).append(run.curve)
    return {
        name: [float(np.mean([c[at] for c in curves if len(c) > at])) for at in range(max(map(len, curves)))]
        for name, curves in grouped.items()
    }
