"""What the report of `eval-llm` or `balance` says: language models side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcf_cli.core.errors import StoreError
from llmcf_cli.llm.asking.tables import NAMES, NOTE, balance_rows, model_rows, unit, verdict
from llmcf_cli.rec.measure.significance import NORMAL_95
from llmcf_cli.stages.engine.report import from_json, to_json
from llmcf_cli.stages.look.made import Made, Run
from llmcf_cli.stages.look.page.charts import Intervals, intervals
from llmcf_cli.stages.look.page.content import Statement, Table, costs
from llmcf_cli.stages.look.page.lineage import Artifact, Drawing, artifacts, draw
from llmcf_cli.stages.steps.ability import EvalLLM, EvalLLMReport
from llmcf_cli.stages.steps.balance import Balance, BalanceReport

_TITLES = {
    EvalLLM.name: "the language model before and after tuning", Balance.name: "recommendation against general ability",
}  # fmt: skip
STAGES = tuple(_TITLES)
"""Stages that these reports are about."""
_TOLD = ("auc", "general")
"""Measures that the verdict is about; more of them is better."""


@dataclass(frozen=True)
class ModelsPage:
    """Everything that the report shows.

    Attributes:
        recipe, stage, key, split: What it is about.
        title: The same in words.
        made: When it was made, UTC.
        version: Of llmcf, by which it was made.
        verdict: What it comes to, in sentences.
        charts: Of differences from the base model; of a sweep, of each model's AUC and general ability.
        measures: Table of all measures.
        note: How to read it.
        costs: Where the time went.
        drawing, artifacts: What it was made from.
        glossary: Term → meaning.
    """

    template: ClassVar[str] = "models.html"
    recipe: str
    stage: str
    key: str
    split: str
    title: str
    made: str
    version: str
    verdict: tuple[Statement, ...]
    charts: tuple[Intervals, ...]
    measures: Table
    note: str
    costs: Table
    drawing: Drawing
    artifacts: tuple[Artifact, ...]
    glossary: Mapping[str, str]


def gather_models(run: Run) -> ModelsPage:
    """What there is to say of a finished `eval-llm` or `balance`.

    Raises:
        StoreError: The run ends in something else, or another version made it.
    """
    last = run.last
    if last is None or last.manifest.stage not in STAGES:
        raise StoreError("not a comparison of language models", code="not-made", where=run.name,
                         hint="llmcf eval-llm RECIPE, or llmcf balance RECIPE")  # fmt: skip
    manifest = last.manifest
    sweep = manifest.stage == Balance.name
    found: Any = from_json(BalanceReport if sweep else EvalLLMReport, manifest.report, str(last.folder))
    plain = to_json(found)
    charts = _of_sweep(plain) if sweep else _of_tuning(plain)
    return ModelsPage(
        recipe=manifest.recipe, stage=manifest.stage, key=manifest.key, split=found.split,
        title=_TITLES[manifest.stage], made=manifest.started[:19].replace("T", " "),
        version=manifest.versions.get("llmcf", ""),
        verdict=tuple(_sweep_verdict(plain) if sweep else _tuning_verdict(plain)), charts=tuple(charts),
        measures=Table(*(balance_rows(plain) if sweep else model_rows(plain))), note=NOTE, costs=costs(last),
        drawing=draw(last), artifacts=tuple(artifacts(last)), glossary=_glossary(plain, last),
    )  # fmt: skip


def _interval(estimate: Mapping[str, Any], scale: float = 1.0) -> tuple[float, float, float]:
    """The value and the ends of its 95 % interval; all three the same where the standard error is not known."""
    value, half = scale * estimate["value"], scale * NORMAL_95 * (estimate["standard_error"] or 0.0)
    return value, value - half, value + half


def _points(report: Mapping[str, Any]) -> Iterator[str]:
    """Measures between 0 and 1, which are drawn × 100, on one axis."""
    yield from (name for name in report["rows"][0]["measures"] if unit(name) == "%" or name == "auc")


def _of_tuning(report: Mapping[str, Any]) -> Iterator[Intervals]:
    base, tuned = report["rows"]
    marks = [(_plain(name), *_interval(tuned["differences"][name], 100), ()) for name in _points(report)]
    title = f"“{tuned['name']}” minus “{base['name']}”, with 95 % intervals"
    yield intervals(title, "points: % of questions, AUC × 100", marks, zero=True)


def _of_sweep(report: Mapping[str, Any]) -> Iterator[Intervals]:
    for name in _TOLD:
        if name in report["rows"][0]["measures"]:
            marks = [(_marked(row, report), *_interval(row["measures"][name], 100), ()) for row in report["rows"]]
            yield intervals(
                f"{_sentence(_plain(name))} of each model, with 95 % intervals",
                "AUC × 100" if name == "auc" else "% of questions", marks,
            )  # fmt: skip


def _marked(row: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    return f"★ {row['name']}" if row["name"] == report["chosen"] else str(row["name"])


def _plain(name: str) -> str:
    return NAMES[name].rstrip(" ↑↓")


def _sentence(words: str) -> str:
    """Words at the head of a sentence."""
    return words[:1].upper() + words[1:]


def _tuning_verdict(report: Mapping[str, Any]) -> Iterator[Statement]:
    base, tuned = report["rows"]
    yield from _against_base(tuned, base)
    yield from _doubts(report)


def _sweep_verdict(report: Mapping[str, Any]) -> Iterator[Statement]:
    yield Statement("good" if report["chosen"] else "open", f"{verdict(report)}.")
    base = report["rows"][0]
    for row in report["rows"][1:]:
        if row["name"] in (report["chosen"], report["own"]):
            yield from _against_base(row, base)
    yield from (Statement("bad", f"“{point}” failed: {why}") for point, why in report["failed"].items())
    yield from _doubts(report)


def _against_base(row: Mapping[str, Any], base: Mapping[str, Any]) -> Iterator[Statement]:
    for name in _TOLD:
        change = row["differences"].get(name)
        if change is None:
            continue
        value, low, high = _interval(change, 100)
        known = change["standard_error"] is not None
        tone = "good" if known and low > 0 else "bad" if known and high < 0 else "open"
        word = {"good": "better than", "bad": "worse than", "open": "not shown to differ from"}[tone]
        points = "points of AUC × 100" if name == "auc" else "% of questions"
        interval = f"95 % interval {low:+.2f} to {high:+.2f}" if known else "no interval"
        by = f": {value:+.2f}" if tone == "open" else f" by {abs(value):.2f}"
        said = f"{_sentence(_plain(name))}: “{row['name']}” is {word} “{base['name']}”{by} {points}"
        yield Statement(tone, f"{said} ({interval}, {change['n']:,} answers).")


def _doubts(report: Mapping[str, Any]) -> Iterator[Statement]:
    yield from (Statement("bad", f"{alarm}.") for alarm in report["alarms"])
    yield from (Statement("open", f"{note.rstrip('.')}.") for note in report.get("notes", ()))


_MEANINGS = {
    "auc": "probability that a liked pair gets a higher P(yes) than one that was not; 0.5 is chance",
    "logloss": "mean negative log likelihood of the labels under P(yes) / (P(yes) + P(no)); lower is better",
    "mass": "probability that the model gives to the two answers; near 0, it answers something else",
    "general": "mean accuracy over the benchmarks, each counting alike",
    "lambada_openai": "share of passages whose last word the model guesses",
    "perplexity": "how surprised the model is by the last words of LAMBADA; lower is better",
    "mmlu": "multiple-choice questions on 57 subjects", "piqa": "which of two ways reaches a physical goal",
    "arc_easy": "multiple-choice science questions from grade school", "sciq": "multiple-choice science questions",
    "hellaswag": "which of four endings continues a text",
}  # fmt: skip
_TERMS = {
    "base": "the language model before tuning",
    "tuned": "the language model after `train-llm`",
    "difference": "tuned minus base, taken question by question",
    "rec. samples": "recommendation samples of the tuning mix",
    "general samples": "general instructions of the tuning mix",
    "general − base": "general ability minus that of the base model, question by question",
    "95 % interval": "value ± 1.96 standard errors over samples or questions; excludes variation between trainings",
    "artifact": "a stage's result, named by the digest of everything that determines it",
}


def _glossary(report: Mapping[str, Any], last: Made) -> dict[str, str]:
    measured: Sequence[str] = list(report["rows"][0]["measures"])
    sweep = last.manifest.stage == Balance.name
    left_out = ("tuned", "difference") if sweep else ("rec. samples", "general samples", "general − base")
    terms = {word: meaning for word, meaning in _TERMS.items() if word not in left_out}
    return {_plain(name): _MEANINGS[name] for name in measured} | terms
