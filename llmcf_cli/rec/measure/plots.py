"""The comparison as a picture (PNG) and a page (HTML)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from llmcf_cli.core.text import PLAIN_LABELS, label, page_label
from llmcf_cli.rec.measure.compare import ArmRun, title_of
from llmcf_cli.rec.measure.significance import NORMAL_95

TITLES = (
    "Test {measure}: mean, seeds (black), 95 % interval over samples",
    "{measure} minus {reference}, 95 % interval",
    "Validation, mean over seeds",
)

_STYLES = [{"color": f"C{color}", "linestyle": line} for line in ("-", "--", ":") for color in range(10)]


def plot(report: Mapping[str, Any], runs: Sequence[ArmRun], folder: Path) -> list[Path]:
    """Save `comparison.png` and `comparison.html`: the main measure, differences to the last reference, curves.

    Returns:
        The files written; empty where the `plot` extra is not installed.
    """
    png, page = folder / "comparison.png", folder / "comparison.html"
    try:
        import matplotlib

        with matplotlib.rc_context(PLAIN_LABELS):
            _picture(report, runs, png)
        _page(report, runs, page)
    except ModuleNotFoundError:
        return []
    return [png, page]


def _titles(report: Mapping[str, Any]) -> list[str]:
    reference = report["references"][-1] if report["references"] else "–"
    return [title.format(measure=title_of(report), reference=reference) for title in TITLES]


def _picture(report: Mapping[str, Any], runs: Sequence[ArmRun], path: Path) -> None:
    import matplotlib.figure

    names, means, errors = _means(report)
    figure = matplotlib.figure.Figure(figsize=(17, max(3.5, 1.8 + 0.36 * len(names))), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1, 1.2))
    row = {name: place for place, name in enumerate(names)}  # one per arm, in both pictures
    left.errorbar(means, list(row.values()), xerr=errors, fmt="o", capsize=3)
    seeds = _seeds(report, runs)
    left.plot(seeds, [row[run.arm] for run in runs], "k.", markersize=4, alpha=0.6)
    left.set_yticks(list(row.values()), [*map(label, names)])
    arms, gaps, bars = _gaps(report)
    middle.errorbar(
        gaps, [row[arm] for arm in arms], xerr=np.transpose(bars).reshape(2, -1), fmt="o", capsize=3, color="tab:green"
    )
    middle.axvline(0, color="k", linewidth=0.8)
    middle.set_yticks(list(row.values()), [""] * len(names))
    for axes, what in ((left, title_of(report)), (middle, f"difference of {title_of(report)}")):
        axes.set(xlabel=what, ylim=(len(names) - 0.5, -0.5))
    curves = _curves(runs)
    for curve, style in zip(curves.values(), cycle(_STYLES)):
        right.plot(range(1, len(curve) + 1), curve, marker="o", markersize=3, **style)
    right.set(xlabel="epoch", ylabel=f"validation {title_of(report, report['monitor'])}")
    right.xaxis.get_major_locator().set_params(integer=True)
    if right.lines:
        right.legend(
            right.lines, [*map(label, curves)], fontsize="small", frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
        )
    for axes, title in zip((left, middle, right), _titles(report), strict=True):
        axes.set_title(label(title), fontsize="medium")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _page(report: Mapping[str, Any], runs: Sequence[ArmRun], path: Path) -> None:
    from plotly.subplots import make_subplots

    names, means, errors = _means(report)
    names = [*map(page_label, names)]
    page = make_subplots(rows=1, cols=3, subplot_titles=[*map(page_label, _titles(report))], horizontal_spacing=0.12)
    page.add_scatter(
        x=means, y=names, error_x={"array": errors}, mode="markers", name="mean", showlegend=False, row=1, col=1
    )
    page.add_scatter(
        x=_seeds(report, runs), y=[page_label(run.arm) for run in runs], text=[f"seed {run.seed}" for run in runs],
        mode="markers", marker={"size": 4, "color": "black"}, showlegend=False, row=1, col=1,
    )  # fmt: skip
    arms, gaps, bars = _gaps(report)
    page.add_scatter(
        x=gaps,
        y=[*map(page_label, arms)],
        error_x={"symmetric": False, "arrayminus": [low for low, _ in bars], "array": [high for _, high in bars]},
        mode="markers",
        name="difference",
        showlegend=False,
        row=1,
        col=2,
    )
    page.add_vline(x=0, row=1, col=2)
    for (name, curve), dash in zip(_curves(runs).items(), cycle(["solid"] * 10 + ["dash"] * 10 + ["dot"] * 10)):
        page.add_scatter(
            x=list(range(1, len(curve) + 1)), y=curve, name=page_label(name), mode="lines+markers", line={"dash": dash},
            row=1, col=3,
        )  # fmt: skip
    page.update_xaxes(title_text=title_of(report), row=1, col=1)
    page.update_xaxes(title_text=f"difference of {title_of(report)}", row=1, col=2)
    page.update_xaxes(title_text="epoch", tickformat="d", row=1, col=3)
    page.update_yaxes(title_text=f"validation {title_of(report, report['monitor'])}", row=1, col=3)
    for column in (1, 2):  # the reference has no difference, but its row
        page.update_yaxes(categoryorder="array", categoryarray=names, range=[len(names) - 0.5, -0.5], row=1, col=column)
    page.update_layout(height=max(450, 140 + 28 * len(names)))
    page.write_html(path, include_plotlyjs=True)


def _means(report: Mapping[str, Any]) -> tuple[list[str], list[float], list[float]]:
    arms, name = report["arms"], report["measures"][0]["name"]
    return ([arm["arm"] for arm in arms], [arm["measures"][name]["mean"] for arm in arms],
            [NORMAL_95 * arm["standard_error"] for arm in arms])  # fmt: skip


def _seeds(report: Mapping[str, Any], runs: Sequence[ArmRun]) -> list[float]:
    name = report["measures"][0]["name"]
    return [run.metrics[name] for run in runs]


def _gaps(report: Mapping[str, Any]) -> tuple[list[str], list[float], list[tuple[float, float]]]:
    """Arm, difference to the last reference, and how far its interval goes to either side."""
    found = [d for d in report["differences"] if d["reference"] == report["references"][-1]]
    bars = [(d["difference"] - d["interval"][0], d["interval"][1] - d["difference"]) for d in found]
    return [d["arm"] for d in found], [d["difference"] for d in found], bars


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
