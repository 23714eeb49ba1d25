"""The plugin registers, its settings validate, and the judge computes what it says."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

import llmcf_example_judge
import pytest
from llmcf_example_judge.config import GroundedJudgeConfig
from llmcf_example_judge.judge import GroundedJudge, grounded

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.llm.config import RubricJudgeConfig
from llmcf_cli.llm.writing.judge import Judged, RubricJudge
from llmcf_cli.plugin import Registry
from llmcf_cli.plugin.discover import ENTRY_POINT_GROUP

ROOT = Path(__file__).parents[1]
ABOUT = Judged(
    prompt="Earlier favourites: Alien (1979); Heat (1995). New item: Blade Runner (1982).",
    history=["Alien (1979)", "Heat (1995)"], item="Blade Runner (1982)", decision=1, sections=[], finish_reason="stop",
)  # fmt: skip
TRUE = "The user likes Alien and Heat, so Blade Runner fits the taste for dark stories well."
HALF = "The user likes Alien and Star Wars, so Blade Runner fits, as Harrison Ford plays in it."


def test_the_entry_point_names_the_function_that_registers():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][ENTRY_POINT_GROUP]
    (value,) = points.values()
    point = importlib.metadata.EntryPoint("grounded", value, ENTRY_POINT_GROUP)
    assert point.load() is llmcf_example_judge.register


def test_the_registry_builds_it_from_its_settings():
    registry = Registry()
    registry.register_from("llmcf-example-judge 0.1.0", llmcf_example_judge.register)
    config = registry.get("judge", "grounded").config()(min_grounded=0.5)
    assert isinstance(registry.build("judge", config), GroundedJudge)
    with pytest.raises(LlmcfError, match="registered twice"):
        llmcf_example_judge.register(registry)


@pytest.mark.parametrize(
    ("text", "share"), [(TRUE, 1), (HALF, 0.5), ("Nothing is named here.", 1), ("Alien. Heat.", 1), ("", 1)]
)
def test_names_are_counted_once_and_not_at_the_start_of_a_sentence(text, share):
    assert grounded(text, ABOUT.prompt) == share


def test_made_up_names_cost_relevance_and_may_drop_a_text():
    rubric = RubricJudge(RubricJudgeConfig()).judge(HALF, ABOUT)
    lenient, strict = (GroundedJudge(GroundedJudgeConfig(min_grounded=m)).judge(HALF, ABOUT) for m in (0.5, 0.6))
    assert lenient.relevance == 0.5 * rubric.relevance
    scores = (lenient.coherence, lenient.completeness, lenient.relevance, lenient.consistency)
    assert lenient.score == pytest.approx(sum(scores) / 4)
    assert (lenient.reason, strict.reason) == ("", "made up")
    plain, wary = RubricJudge(RubricJudgeConfig()), GroundedJudge(GroundedJudgeConfig())
    assert wary.judge(TRUE, ABOUT) == plain.judge(TRUE, ABOUT)
