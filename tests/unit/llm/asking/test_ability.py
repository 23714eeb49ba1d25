"""Abilities: estimates with their errors, paired differences, and the rule that chooses a point of the sweep."""

from __future__ import annotations

import numpy as np
import pytest
from refusals import refused
from sklearn.metrics import log_loss

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.asking.ability import Measured, choose, differences, measures, recommendation_answers
from llmcf_cli.llm.asking.plots import plot_balance, plot_models
from llmcf_cli.llm.asking.reading import Reader
from llmcf_cli.llm.asking.reports import Estimate
from llmcf_cli.llm.asking.tables import balance_rows, markdown, mass_alarms, model_rows, verdict
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.recipe.asking import AbilitySection

N = 200


def measured(name: str, seed: int, shift: float = 0.0) -> Measured:
    chance = np.random.default_rng(seed)
    label_N = np.tile([1, 0], N // 2).astype(np.float32)
    accuracy = (np.random.default_rng(0).random(N) + shift > 0.5).astype(float)
    items = {
        ("piqa", "acc"): accuracy, ("piqa", "acc_norm"): 1 - accuracy, ("lambada_openai", "acc"): accuracy[:50],
        ("lambada_openai", "perplexity"): -chance.random(50),
    }  # fmt: skip
    return Measured(
        name, label_N, chance.normal(size=N).astype(np.float32), np.full(N, 0.25, np.float32) * (seed + shift), items
    )


def test_measures_are_means_over_samples_and_questions():
    model = measured("base", 1)
    found = measures(model, Estimate(0.6, 0.02, N))
    assert list(found) == ["auc", "logloss", "mass", "general", "piqa", "lambada_openai", "perplexity"]
    probability_N = 1 / (1 + np.exp(-model.logit_N.astype(np.float64)))
    assert found["logloss"].value == pytest.approx(log_loss(model.label_N, probability_N))
    piqa, lambada = model.items["piqa", "acc"], model.items["lambada_openai", "acc"]
    assert found["piqa"].standard_error == pytest.approx(np.std(piqa, ddof=1) / N**0.5)
    assert found["general"].value == pytest.approx((piqa.mean() + lambada.mean()) / 2)
    assert found["general"].n == N + 50
    assert found["mass"].value == pytest.approx(0.25)
    nats = model.items["lambada_openai", "perplexity"]
    assert found["perplexity"].value == pytest.approx(np.exp(-nats.mean()))


def test_errors_are_those_of_the_bootstrap():
    model, chance = measured("base", 1), np.random.default_rng(5)
    found = measures(model, Estimate(0.6, 0.02, N))
    values = {"general": [], "perplexity": []}
    for _ in range(3000):
        drawn = {key: chance.choice(v, len(v)) for key, v in model.items.items()}
        values["general"].append((drawn["piqa", "acc"].mean() + drawn["lambada_openai", "acc"].mean()) / 2)
        values["perplexity"].append(np.exp(-drawn["lambada_openai", "perplexity"].mean()))
    for name, drawn in values.items():
        assert found[name].standard_error == pytest.approx(np.std(drawn), rel=0.08)


def test_a_difference_is_taken_question_by_question():
    base, better = measured("base", 1), measured("tuned", 2, shift=0.02)
    found = differences(better, base, lambda *_: (0.1, 0.05))
    flips = better.items["piqa", "acc"] - base.items["piqa", "acc"]
    assert found["piqa"].value == pytest.approx(flips.mean())
    assert found["piqa"].standard_error == pytest.approx(np.std(flips, ddof=1) / N**0.5)
    assert found["piqa"].standard_error < 0.5 * measures(base, Estimate(0.6, 0.02, N))["piqa"].standard_error
    assert (found["auc"].value, found["auc"].standard_error) == (0.1, 0.05)
    nats = -better.items["lambada_openai", "perplexity"], -base.items["lambada_openai", "perplexity"]
    assert found["perplexity"].value == pytest.approx(np.exp(nats[0].mean()) - np.exp(nats[1].mean()))
    chance = np.random.default_rng(3)
    drawn = [chance.integers(0, 50, 50) for _ in range(3000)]
    spread = np.std([np.exp(nats[0][i].mean()) - np.exp(nats[1][i].mean()) for i in drawn])
    assert found["perplexity"].standard_error == pytest.approx(spread, rel=0.08)
    same = differences(base, base, lambda *_: (0.0, 0.0))
    assert same["general"].value == same["general"].standard_error == 0


def row(name: str, auc: float, change: float, error: float = 0.01) -> dict:
    estimates = {"auc": {"value": auc, "standard_error": 0.02, "n": N},
                 "general": {"value": 0.4 + change, "standard_error": 0.03, "n": N}}  # fmt: skip
    general = {"value": change, "standard_error": error, "n": N}
    return {"name": name, "measures": estimates, "differences": {"auc": estimates["auc"], "general": general}}


def sweep(*rows: dict, tolerance: float = 1.0) -> dict:
    rows = [row("base", 0.9, 0.0, 0.0), *rows]
    return {
        "split": "validation",
        "rows": rows,
        "tolerance": tolerance,
        "chosen": choose(rows, tolerance),
        "failed": {},
        "alarms": [],
    }


def test_the_best_recommender_that_keeps_its_general_ability_is_chosen():
    rows = [row("forgetful", 0.8, -0.05), row("balanced", 0.7, -0.009), row("careful", 0.6, 0.01)]
    assert sweep(*rows)["chosen"] == "balanced"
    assert sweep(*rows, tolerance=0.5)["chosen"] == "careful"
    assert sweep(*rows, tolerance=9)["chosen"] == "forgetful"
    assert sweep(rows[0])["chosen"] is None, "never the base model"


def test_tables_show_errors_units_and_the_choice():
    report = sweep(row("balanced", 0.7, -0.009) | {"recommendation": 1200, "general": 1200})
    titles, cells = balance_rows(report)
    assert all(len(cell) == len(titles) for cell in cells)
    assert cells[1][:2] == ["balanced ★", "1,200"]
    assert "0.7000 ± 0.0200" in cells[1]
    assert "-0.9 ± 1.0" in cells[1]
    assert "balanced" in verdict(report)
    assert markdown(report).count("\n| ") == len(cells) + 1
    titles, cells = model_rows({"split": "test", "rows": report["rows"]})
    assert titles[2:4] == ["base", "balanced"]
    assert cells[1][1:4] == ["%", "40.0 ± 3.0", "39.1 ± 3.0"]


def test_a_model_that_hardly_ever_answers_raises_an_alarm():
    rows = [{"name": name, "measures": {"mass": {"value": mass}}} for name, mass in (("base", 0.0004), ("tuned", 0.9))]
    (alarm,) = mass_alarms(rows, 0.1)
    assert alarm.startswith("base: P(yes) + P(no) averages 0.0004")
    assert mass_alarms(rows, 0.0) == []
    report = sweep(row("balanced", 0.7, -0.009) | {"recommendation": 1200, "general": 1200}) | {"alarms": [alarm]}
    assert alarm in markdown(report)


@pytest.mark.parametrize("name", ["$x^^$ a", "_hidden", "<a href='https://example.org'>x</a>", "a\x1b[2J*b*"])
def test_names_with_markup_are_drawn_and_told_as_they_are(tmp_path, name):
    pytest.importorskip("matplotlib")
    pytest.importorskip("plotly")
    rows = [row(name, 0.7, -0.009) | {"recommendation": 1200, "general": 1200}]
    report = sweep(*rows) | {"alarms": [name], "failed": {name: name}}
    files = [*plot_balance(report, tmp_path), *plot_models({"split": "test", "rows": report["rows"]}, tmp_path)]
    assert len(files) == 4
    told = markdown(report)
    assert " *b*" not in told.replace("2J", " ")
    for page in files[1::2]:
        told += page.read_text().rpartition("Plotly.newPlot")[2]
    assert not any(one in told for one in ("<a", r"\u003ca", "\x1b"))


def test_no_point_is_chosen_where_general_ability_is_not_measured():
    rows = [row("base", 0.5, 0.0), row("tuned", 0.7, 0.0)]
    for r in rows:
        del r["measures"]["general"], r["differences"]["general"]
    assert choose(rows, 1.0) is None
    assert "ability.data" in verdict({"split": "validation", "rows": rows, "tolerance": 1.0, "chosen": None})


@pytest.mark.parametrize("precision", ["fp32"])
def test_held_out_samples_are_asked_and_labels_of_one_kind_refused(tmp_path, tiny_data, tiny_model, precision):
    def ask(**section):
        section = AbilitySection(precision=precision, **section)
        return recommendation_answers(
            section, RecommendationMixConfig(), Reader(tiny_model, precision), data=tiny_data, model_digest="m",
            cache=tmp_path / "answers.duckdb", seed=1, progress=SILENT,
        )  # fmt: skip

    whole = ask(split="validation", count=100)
    few = ask(split="validation", count=8, max_batch=1)
    assert set(few.sample_id_N) < set(whole.sample_id_N)
    assert few.tally.asked == 0, "the cache knows them"
    assert not set(whole.sample_id_N) & set(ask(split="test", count=100).sample_id_N)
    with refused("split-one-class", LlmcfError):
        ask(max_prompt_tokens=5)
