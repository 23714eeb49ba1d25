"""When a model learned: entries in order, each by one level, and the last is what the level is to make."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from llmcf_cli.recipe.refresh import RefreshSection

FIRST = {"additions": 0}
CUTS = {"validation_from": "2026-01-01", "test_from": "2026-02-01"}


def entry(additions, level, **more):
    return {"additions": additions, "recut": CUTS, level: {}, **more}


@pytest.mark.parametrize(
    "learned",
    [
        [FIRST, entry(1, "examples")],
        [FIRST, entry(1, "finetune"), entry(1, "examples")],
        [FIRST, entry(1, "examples"), entry(2, "examples")],
    ],
)
def test_levels_go_on_from_each_other(learned):
    section = RefreshSection.model_validate({"level": "examples", "arm": "ict", "seed": 1, "learned": learned})
    assert section.learned[0].level == "full"
    assert section.learned[-1].level == "examples"


@pytest.mark.parametrize(
    ("level", "learned", "said"),
    [
        ("examples", [FIRST], "the last entry must say how"),
        ("examples", [FIRST, entry(1, "finetune")], "the last entry must say how"),
        ("items", [FIRST, entry(0, "examples")], "must be more than before"),
        ("items", [FIRST, entry(1, "examples"), entry(1, "examples")], "must be more than before"),
        ("items", [FIRST, {"additions": 1, "recut": CUTS}], "with its own cuts"),
        ("items", [FIRST, {"additions": 1, "examples": {}}], "with its own cuts"),
        ("items", [FIRST, entry(1, "examples", finetune={})], "with finetune"),
        ("items", [FIRST, entry(1, "examples", examples={"share": 0})], "greater than 0"),
    ],
)
def test_what_cannot_be_is_refused(level, learned, said):
    with pytest.raises(ValidationError, match=said):
        RefreshSection.model_validate({"level": level, "arm": "ict", "seed": 1, "learned": learned})
