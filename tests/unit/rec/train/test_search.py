"""The search: the recipe's own settings first, then better ones; an interruption changes nothing."""

import math
from pathlib import Path

import pytest
from refusals import refused

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.rec.measure.ranking import AUC, LogLoss
from llmcf_cli.rec.train.search import search
from llmcf_cli.recipe.sections import SearchRange

SPACE = {
    "rec.fit.learning_rate": SearchRange(low=1e-4, high=1e-1, log=True),
    "rec.fit.batch_size": SearchRange(choices=(128, 512)),
    "rec.backbone.dropout": SearchRange(low=0, high=0.5),
}
START = {"rec.fit.learning_rate": 1e-3, "rec.fit.batch_size": 512, "rec.backbone.dropout": 0.0}


def judge(settings, work: Path) -> float:
    """Best at learning rate 0.01 and batch size 128."""
    distance = abs(math.log10(settings["rec.fit.learning_rate"]) + 2)
    return 0.8 - 0.1 * distance - (0.05 if settings["rec.fit.batch_size"] == 512 else 0)


def run(tmp_path, judge=judge, trials=12, monitor=None):
    return search(judge, SPACE, trials=trials, start=START, monitor=monitor or AUC(), seed=3, work=tmp_path)


def test_the_first_trial_is_the_recipe_and_the_best_is_kept(tmp_path):
    found = run(tmp_path)
    assert len(found.rows) == 12
    assert found.rows[0]["settings"] == START
    assert found.value == max(row["value"] for row in found.rows)
    assert found.value > found.rows[0]["value"]
    assert all(1e-4 <= row["settings"]["rec.fit.learning_rate"] <= 1e-1 for row in found.rows)
    assert {row["settings"]["rec.fit.batch_size"] for row in found.rows} == {128, 512}


def test_a_metric_of_which_less_is_better_is_minimised(tmp_path):
    found = run(tmp_path, monitor=LogLoss())
    assert found.value == min(row["value"] for row in found.rows)


def test_whole_numbers_stay_whole_and_the_recipes_own_may_lie_outside(tmp_path):
    space = {
        "rec.fit.batch_size": SearchRange(low=16, high=256, log=True),
        "rec.backbone.dropout": SearchRange(low=0, high=1),
        "rec.backbone.activation": SearchRange(choices=("dice", "prelu")),
    }
    start = {"rec.fit.batch_size": 512, "rec.backbone.dropout": 0.0, "rec.backbone.activation": "other"}
    found = search(
        lambda settings, work: settings["rec.backbone.dropout"], space, trials=8, start=start, monitor=AUC(), seed=1,
        work=tmp_path,
    )  # fmt: skip
    assert found.rows[0]["settings"] == start
    drawn = [row["settings"] for row in found.rows[1:]]
    assert all(isinstance(s["rec.fit.batch_size"], int) and 16 <= s["rec.fit.batch_size"] <= 256 for s in drawn)
    assert any(0 < s["rec.backbone.dropout"] < 1 for s in drawn)
    assert {s["rec.backbone.activation"] for s in drawn} == {"dice", "prelu"}


def test_an_interrupted_search_goes_on_and_finds_the_same(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = run(tmp_path / "a")
    calls = []

    def broken(settings, work):
        calls.append(settings)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return judge(settings, work)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", broken)
    assert run(tmp_path / "b") == whole


def test_a_failed_trial_is_noted_and_passed_over(tmp_path):
    def fails_at_first(settings, work):
        if settings == START:
            raise ModelError("the loss is nan")
        return judge(settings, work)

    found = run(tmp_path, fails_at_first)
    assert found.rows[0]["value"] is None
    assert "nan" in found.rows[0]["error"]

    def fails(settings, work):
        raise ModelError("the loss is nan")

    (tmp_path / "other").mkdir()
    with refused("trials-failed", LlmcfError):
        run(tmp_path / "other", fails, trials=2)
