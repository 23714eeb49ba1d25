"""The words of labels: defaults by type, what follows from them, and that no prompt says anything else."""

from __future__ import annotations

import re

import pytest
from pydantic import ValidationError

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.data.config import ImplicitLabelConfig, RatingLabelConfig
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.prompt import VARIABLES, load_prompt
from llmcf_cli.recipe.template import render_template
from llmcf_cli.recipe.words import LabelWords, Words, words_of

PROMPTS = sorted((library_dir() / "prompts").glob("*.yaml"))
LIKE = re.compile(r"\b(dis)?lik(e|es|ed|ing)\b|favourite")


def test_rating_data_say_liked_and_implicit_data_chose() -> None:
    assert words_of(RatingLabelConfig()) == Words("liked", "did not like", "like", "likes", "favourites")
    assert words_of(ImplicitLabelConfig()) == Words("chose", "did not choose", "choose", "chooses", "choices")
    assert words_of(ComponentConfig(type="other")) == words_of(ImplicitLabelConfig())
    assert words_of(RatingLabelConfig(), "all").choices == "items", (
        "a history of every event holds more than favourites"
    )


@pytest.mark.parametrize(
    ("positive", "negative", "verb", "verbs"),
    [
        ("bought", "did not buy", "buy", "buys"), ("watched", "didn't watch", "watch", "watches"),
        ("tried", "did not try", "try", "tries"), ("clicked on", "did not click on", "click on", "clicks on"),
    ],
)  # fmt: skip
def test_verbs_follow_from_what_was_not_done(positive: str, negative: str, verb: str, verbs: str) -> None:
    found = words_of(ImplicitLabelConfig(words=LabelWords(positive=positive, negative=negative)))
    assert (found.verb, found.verbs, found.choices) == (verb, verbs, "choices")
    assert found.decision(1) == positive
    assert found.decision(0) == negative


def test_other_languages_name_their_verb() -> None:
    with pytest.raises(ValidationError, match="did not"):
        LabelWords(positive="kaufte", negative="kaufte nicht")
    german = LabelWords(positive="kaufte", negative="kaufte nicht", verb="kaufen", verbs="kauft", choices="Einkäufe")
    assert words_of(ImplicitLabelConfig(words=german)) == Words("kaufte", "kaufte nicht", "kaufen", "kauft", "Einkäufe")


@pytest.mark.parametrize("file", PROMPTS, ids=lambda file: file.stem)
def test_shipped_prompts_have_no_verb_of_their_own(file) -> None:
    words = words_of(ImplicitLabelConfig())
    prompt = load_prompt(file)
    values = {**dict.fromkeys((*VARIABLES, *(s.name for s in prompt.steps)), "x"), "history": ["x"], "recent": ["x"]}
    for step in prompt.steps:
        said = "\n".join(
            m["content"] for m in step.render({**values, "decision": words.decision(0), **words.variables})
        )
        assert not LIKE.search(said)


def test_the_question_of_the_mix_has_none_either() -> None:
    def asked(words: Words) -> str:
        values = {"history": ["a"], "item": "b", "user": "", **words.variables}
        return render_template(RecommendationMixConfig().template, values)

    assert "Will the user like it?" in asked(Words())
    assert not LIKE.search(asked(words_of(ImplicitLabelConfig())))
