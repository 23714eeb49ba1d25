"""A recipe's task: what may choose, what goes with its target, and one task for all arms."""

from __future__ import annotations

import pytest

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.steps.task_data import trained_sections


def test_the_monitor_is_the_tasks_first_unless_named():
    recipe = load_recipe("quickstart").recipe
    assert recipe.rec.fit.monitor is None
    assert recipe.rec.monitor == "auc"
    assert load_recipe("quickstart", ["rec.fit.monitor=logloss"]).recipe.rec.monitor == "logloss"


def test_naming_the_default_trains_nothing_anew():
    default, named = (load_recipe("quickstart", s).recipe for s in ([], ["rec.fit.monitor=auc"]))
    assert trained_sections(default) == trained_sections(named)


def test_every_arm_predicts_the_same():
    variant = "rec.variants=[{name: other, set: {rec.task: ranking}}]"
    assert load_recipe("quickstart", [variant]).recipe.arms["other"].rec.task.type == "ranking"
    with pytest.raises(RecipeError) as caught:
        load_recipe("quickstart", [variant.replace("ranking", "divination")])
    assert any("rec.task" in str(problem.where) for problem in caught.value.problems)
