from __future__ import annotations

from dataclasses import replace

import pytest

from llmcf_cli.llm.config import RubricJudgeConfig
from llmcf_cli.llm.writing.judge import Judged, RubricJudge, Verdict, consistency, swings
from llmcf_cli.recipe.prompt import PromptSection

ABOUT = Judged(
    prompt="The user liked before: Alien (1979); Heat (1995). New item: Blade Runner (1982), Sci-Fi. Explain.",
    history=["Alien (1979), Sci-Fi", "Heat (1995), Crime"], item="Blade Runner (1982), Sci-Fi", decision=1,
    sections=[PromptSection(name="profile", words=("prefer",)), PromptSection(name="match", words=("match",)),
              PromptSection(name="diversity", words=("divers", "variety"))],
    finish_reason="stop",
)  # fmt: skip
GOOD = (
    "The user prefers tense stories such as Alien and Heat. Blade Runner is dark science fiction and matches this "
    "taste, so the user liked Blade Runner. It also adds variety in style."
)


def judge(text: str, **changes: object) -> Verdict:
    return RubricJudge(RubricJudgeConfig()).judge(text, replace(ABOUT, **changes))


def test_good_text_scores_high_on_everything() -> None:
    verdict = judge(GOOD)
    assert verdict.reason == ""
    assert not verdict.truncated
    assert min(verdict.coherence, verdict.completeness, verdict.relevance, verdict.consistency) > 0.9
    assert verdict.score == pytest.approx(
        (verdict.coherence + verdict.completeness + verdict.relevance + verdict.consistency) / 4
    )


@pytest.mark.parametrize(
    ("text", "criterion"),
    [
        ("The film is good. " * 20, "coherence"),
        ("The user likes Alien, Heat and Blade Runner very much indeed.", "completeness"),
        (
            "The user prefers calm music. The song matches that and adds variety, so they liked it.",
            "relevance",
        ),
        (
            "The user prefers Alien and Heat; Blade Runner does not match, variety or not: disliked it.",
            "consistency",
        ),
    ],
)
def test_each_criterion_falls_by_itself(text: str, criterion: str) -> None:
    assert getattr(judge(text), criterion) < getattr(judge(GOOD), criterion) - 0.3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), ("It fits.", "empty"),
        ("I'm sorry, but I cannot explain the choice of this user to you today.", "refusal"),
        ("As an AI I have no taste in films, so this is hard to explain well.", "refusal"),
        (ABOUT.prompt, "echo"), ("a good film and " * 30, "repetitive"),
    ],
)  # fmt: skip
def test_unusable_texts_are_dropped_with_a_reason(text: str, reason: str) -> None:
    assert judge(text).reason == reason


def test_text_cut_off_is_noticed_and_costs_coherence() -> None:
    cut = judge(GOOD[:-10], finish_reason="length")
    assert cut.truncated
    assert cut.coherence == pytest.approx(0.9 * judge(GOOD[:-10]).coherence)
    assert not judge(GOOD, finish_reason="length").truncated


@pytest.mark.parametrize(
    ("text", "liked"),
    [("The user enjoyed Heat.", 1), ("The user did not enjoy Heat.", 0), ("Heat is disappointing.", 0),
     ("The user never disliked Heat.", 1), ("Heat is a film.", 0.5)],
)  # fmt: skip
def test_consistency_reads_negations(text: str, liked: float) -> None:
    assert consistency(text, "Heat (1995)", 1) == liked
    assert consistency(text, "Heat (1995)", 0) == 1 - liked
    assert consistency(text, "Heat (1995)", None) == 0.5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("They like tense films. They enjoy space. They loved Alien.", 0),
        ("They like tense films. They enjoy space. But this one is boring.", 0),
        ("They liked it. They disliked it. They liked it.", 1),
        ("They liked it. It is boring. They love space. It is a mismatch. It fits.", 1),
        ("They liked it. They love space. It is boring. They enjoy it.", 0.5),
        ("A film. Another film.", 0), ("", 0),
    ],
)  # fmt: skip
def test_swings_of_sentiment_beyond_one_turn_are_counted(text: str, expected: float) -> None:
    assert swings(text) == expected


def test_swings_cost_coherence() -> None:
    steady = "The user liked Alien. The user loves tense stories. Blade Runner suits that and adds variety."
    swinging = "The user liked Alien. The user hates tense stories. Blade Runner suits that and adds variety."
    assert judge(swinging).coherence == pytest.approx(0.5 * judge(steady).coherence)


@pytest.mark.parametrize(
    ("allowed", "whole_sentence", "fragment"),
    [("sentence", "", "truncated"), ("keep", "", ""), ("drop", "truncated", "truncated")],
)
def test_text_cut_off_is_dropped_as_far_as_the_recipe_says(allowed: str, whole_sentence: str, fragment: str) -> None:
    strict = RubricJudge(RubricJudgeConfig(truncated=allowed))
    cut = replace(ABOUT, finish_reason="length")
    assert strict.judge(GOOD[:-10], cut).reason == whole_sentence
    assert strict.judge(GOOD.split(".")[0], cut).reason == fragment
    assert strict.judge(GOOD, cut).reason == ""
    assert strict.judge(GOOD.split(".")[0], ABOUT).reason == ""
