"""Language models side by side, as rows of text: on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcf_cli.core.text import markdown as md

NAMES = {
    "auc": "recommendation AUC ↑", "logloss": "recommendation logloss ↓", "mass": "P(yes) + P(no) ↑",
    "general": "general ability ↑", "lambada_openai": "LAMBADA ↑",
    "perplexity": "LAMBADA perplexity ↓", "mmlu": "MMLU ↑", "piqa": "PIQA ↑",
    "arc_easy": "ARC-easy ↑", "hellaswag": "HellaSwag ↑", "sciq": "SciQ ↑",
}  # fmt: skip
"""Measure → its name, with the direction that is better."""

NOTE = (
    "Value ± standard error over samples or questions. General ability is the mean accuracy over the benchmarks, "
    "equally weighted; differences are taken question by question."
)

NO_GENERAL = "general ability is not measured: ability.data is not set"


def unit(measure: str) -> str:
    """Of a measure: nats per sample, per cent of questions, or none."""
    return {"auc": "1", "logloss": "nats", "mass": "1", "perplexity": "1"}.get(measure, "%")


def mass_alarms(rows: Sequence[Mapping[str, Any]], least: float) -> list[str]:
    """Of each model that hardly ever gives one of the two answers, that its AUC says nothing.

    Args:
        rows: A row per model.
        least: P(yes) + P(no) on average, from which on a model's answers count.
    """
    return [mass_alarm(row["name"], mass, least) for row in rows if (mass := row["measures"]["mass"]["value"]) < least]


def mass_alarm(model: str, mass: float, least: float) -> str:
    """That a model hardly ever gives one of the two answers."""
    return (
        f"{model}: P(yes) + P(no) averages {mass:.2g}, below {least:g}: the model mostly answers something else, so "
        "its AUC and logloss do not show what it knows"
    )


def model_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the comparison of two models: a row per measure."""
    base, tuned = report["rows"]
    cells = []
    for name, estimate in base["measures"].items():
        cells.append([
            NAMES[name], unit(name), shown(name, estimate), shown(name, tuned["measures"][name]),
            shown(name, tuned["differences"][name], sign="+"), f"{estimate['n']:,}",
        ])  # fmt: skip
    return ["measure", "unit", base["name"], tuned["name"], "difference", "n"], cells


def balance_rows(report: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Titles and cells of the sweep: a row per model, the base model first."""
    measured = list(report["rows"][0]["measures"])
    titles = ["model", "rec. samples", "general samples", *(f"{NAMES[m]} ({unit(m)})" for m in measured),
              "general − base"]  # fmt: skip
    cells = []
    for row in report["rows"]:
        sizes = [f"{row[kind]:,}" if kind in row else "–" for kind in ("recommendation", "general")]
        change = row["differences"].get("general")
        difference = shown("general", change, sign="+") if change and row is not report["rows"][0] else "–"
        values = [shown(m, row["measures"][m]) for m in measured]
        mark = " ★" if row["name"] == report["chosen"] else ""
        cells.append([f"{row['name']}{mark}", *sizes, *values, difference])
    return titles, cells


def verdict(report: Mapping[str, Any]) -> str:
    """Which point the sweep chooses, and by what rule."""
    rule = (
        f"best recommendation AUC on {report['split']} of the points whose general ability is at most "
        f"{report['tolerance']:g} × the standard error of the difference below the base model's"
    )
    if "general" not in report["rows"][0]["measures"]:
        return f"no point is chosen: {NO_GENERAL}"
    return (
        f"★ chosen: {report['chosen']} ({rule})"
        if report["chosen"]
        else f"no point is chosen ({rule}): no point meets this"
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The table of `eval-llm` or `balance` with its notes."""
    sweep = "chosen" in report
    titles, cells = balance_rows(report) if sweep else model_rows(report)
    lines = [f"| {' | '.join(map(md, row))} |" for row in (titles, ["---"] * len(titles), *cells)]
    notes = [f"**{md(alarm)}.**" for alarm in report["alarms"]]
    told = [NOTE, f"Recommendation is measured on {report['split']} samples.", *report.get("notes", ())]
    if sweep:
        told += [verdict(report), *(f"{point} failed: {why}" for point, why in report["failed"].items())]
    notes += map(md, told)
    return "\n".join([*lines, *(line for note in notes for line in ("", note)), ""])


def shown(measure: str, estimate: Mapping[str, Any], sign: str = "") -> str:
    """Value ± standard error in the measure's unit."""
    scale, digits = (100, 1) if unit(measure) == "%" else (1, 2 if measure == "perplexity" else 4)
    if measure == "mass":
        return f"{estimate['value']:{sign}.2g}"
    error = estimate["standard_error"]
    text = f"{scale * estimate['value']:{sign}.{digits}f}"
    return text if error is None else f"{text} ± {scale * error:.{digits}f}"
