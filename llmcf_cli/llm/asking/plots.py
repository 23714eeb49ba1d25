"""Abilities of language models as pictures (PNG) and pages (HTML)."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmcf_cli.core.text import PLAIN_LABELS, label, page_label
from llmcf_cli.llm.asking.tables import NAMES, unit, verdict

_TITLE = 130
"""Characters of a line of a title; matplotlib itself would look for formulas as it wraps one."""
_X, _Y = "general ability: mean accuracy over benchmarks (%)", "recommendation AUC"


def plot_models(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Save `ability.png` and `ability.html`: accuracy on each benchmark and recommendation AUC, base beside tuned.

    Returns:
        The files written; empty where the `plot` extra is not installed.
    """
    return _saved("ability", report, folder, _models_picture, _models_page)


def plot_balance(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """Save `balance.png` and `balance.html`: recommendation AUC against general ability, the chosen point marked.

    Returns:
        The files written; empty without the `plot` extra, or where general ability was not measured.
    """
    if "general" not in report["rows"][0]["measures"]:
        return []
    return _saved("balance", report, folder, _balance_picture, _balance_page)


def _saved(
    name: str, report: Mapping[str, Any], folder: Path, *draw: Callable[[Mapping[str, Any], Path], None]
) -> list[Path]:
    paths = [folder / f"{name}{suffix}" for suffix in (".png", ".html")]
    try:
        import matplotlib

        with matplotlib.rc_context(PLAIN_LABELS):
            for drawing, path in zip(draw, paths, strict=True):
                drawing(report, path)
    except ModuleNotFoundError:
        return []
    return paths


def _bars(report: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[float], list[float]]]]:
    """Names of the measures between 0 and 100 (AUC too), and of each model its values and standard errors there."""
    names = [m for m in report["rows"][0]["measures"] if unit(m) == "%" or m == "auc"]
    models = []
    for row in report["rows"]:
        estimates = [row["measures"][m] for m in names]
        models.append((
            row["name"], [100 * e["value"] for e in estimates], [100 * (e["standard_error"] or 0.0) for e in estimates]
        ))  # fmt: skip
    return [NAMES[m].removesuffix(" ↑") for m in names], models


def _models_picture(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib.figure

    names, models = _bars(report)
    figure = matplotlib.figure.Figure(figsize=(max(5, 1.3 * len(names)), 4), layout="constrained")
    axes, width = figure.subplots(), 0.8 / len(models)
    drawn = [
        axes.bar([i + place * width for i in range(len(names))], values, width, yerr=errors, capsize=3)
        for place, (_, values, errors) in enumerate(models)
    ]
    axes.set_xticks([i + 0.4 - width / 2 for i in range(len(names))], names, rotation=20)
    axes.set(ylabel="% (AUC × 100), ± standard error")
    axes.legend(drawn, [label(model) for model, _, _ in models], frameon=False)
    axes.grid(alpha=0.3, axis="y")
    figure.savefig(path, dpi=130)


def _models_page(report: Mapping[str, Any], path: Path) -> None:
    from plotly.graph_objects import Figure

    names, models = _bars(report)
    page = Figure()
    for model, values, errors in models:
        page.add_bar(x=names, y=values, error_y={"array": errors}, name=page_label(model))
    page.update_layout(yaxis_title="% (AUC × 100), ± standard error", barmode="group")
    page.write_html(path, include_plotlyjs=True)


def _points(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """x and y of every model with their standard errors, and how it is drawn."""
    found = []
    for row in report["rows"]:
        general, auc = row["measures"]["general"], row["measures"]["auc"]
        amount, chosen = row.get("amount", 1.0), row["name"] == report["chosen"]
        colour = "black" if "share" not in row else "tab:blue" if amount == 1 else "tab:orange"
        found.append({
            "name": row["name"], "x": 100 * general["value"], "y": auc["value"], "colour": colour,
            "dx": 100 * (general["standard_error"] or 0.0), "dy": auc["standard_error"] or 0.0, "chosen": chosen,
        })  # fmt: skip
    return found


def _balance_picture(report: Mapping[str, Any], path: Path) -> None:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(8, 5.5), layout="constrained")
    axes = figure.subplots()
    for p in _points(report):
        marker, size = ("*", 16) if p["chosen"] else ("o", 6)
        axes.errorbar(
            p["x"], p["y"], xerr=p["dx"], yerr=p["dy"], fmt=marker, markersize=size, color=p["colour"], capsize=3,
            elinewidth=0.8,
        )  # fmt: skip
        axes.annotate(label(p["name"]), (p["x"], p["y"]), xytext=(6, 6), textcoords="offset points", fontsize="small")
    axes.set(xlabel=f"{_X}, ± standard error", ylabel=f"{_Y}, {report['split']}, ± standard error")
    figure.suptitle(textwrap.fill(label(verdict(report)), _TITLE), fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _balance_page(report: Mapping[str, Any], path: Path) -> None:
    from plotly.graph_objects import Figure

    page = Figure()
    for p in _points(report):
        page.add_scatter(
            x=[p["x"]], y=[p["y"]], error_x={"array": [p["dx"]]}, error_y={"array": [p["dy"]]},
            text=[page_label(p["name"])], mode="markers+text", textposition="top right", name=page_label(p["name"]),
            marker={"size": 16 if p["chosen"] else 8, "symbol": "star" if p["chosen"] else "circle",
                    "color": p["colour"].removeprefix("tab:")},
        )  # fmt: skip
    page.update_layout(xaxis_title=f"{_X}, ± standard error", yaxis_title=f"{_Y}, {report['split']}",
                       title={"text": page_label(verdict(report)), "font": {"size": 12}})  # fmt: skip
    page.write_html(path, include_plotlyjs=True)
