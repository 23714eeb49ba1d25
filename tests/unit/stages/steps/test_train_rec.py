"""When a bundle holds the texts of chains of thought, and which stage keys know of it."""

from __future__ import annotations

import pytest

from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.steps.train_rec import TrainRec


def of_arm(arm, **changes):
    recipe = load_recipe("quickstart").recipe.with_changes({"rec.augment": {"type": arm}, **changes})
    stage = TrainRec(arm, 0)
    return "serve.reasoning" in stage.sections(recipe), [one.name for one in stage.needs(recipe)]


@pytest.mark.parametrize(
    ("arm", "changes", "holds"),
    [
        ("ict", {"serve.reasoning": True}, True), ("ict", {}, False), ("none", {"serve.reasoning": True}, False),
        ("ict", {"serve.reasoning": True, "rec.cot": "shuffled"}, False),
    ],
)  # fmt: skip
def test_a_bundle_holds_the_reasoning_of_its_own_examples_where_it_is_asked_to(arm, changes, holds):
    keyed, stages = of_arm(arm, **changes)
    assert keyed == holds
    assert ("gen-cot" in stages) == holds
