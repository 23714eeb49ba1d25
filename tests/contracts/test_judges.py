"""What every registered judge must do; a new one is tested the moment it is registered."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.llm.writing.judge import Judged
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.prompt import PromptSection

JUDGES = registry().names("judge")
ABOUT = {
    "prompt": "Earlier favourites: Alien (1979); Heat (1995). New item: Blade Runner (1982).",
    "history": ["Alien (1979)", "Heat (1995)"], "item": "Blade Runner (1982)",
    "sections": [PromptSection(name="profile", words=("prefer",))],
}  # fmt: skip
TEXTS = st.lists(
    st.sampled_from(
        ["The user liked Alien.", "It is boring.", "Blade Runner", "prefers", "Heat", "I'm sorry, but", ".", "\n", "ü"]
    )
    | st.text(max_size=8),
    max_size=40,
).map(" ".join)


@pytest.mark.parametrize("name", JUDGES)
@given(
    text=TEXTS, decision=st.sampled_from([0, 1, None]), finish_reason=st.sampled_from(["stop", "length"]),
    bare=st.booleans(),
)  # fmt: skip
def test_scores_are_in_range_and_repeat(name: str, text: str, decision: int | None, finish_reason: str, bare: bool):
    component = registry().get("judge", name)
    judge = registry().build("judge", component.config()())
    about = {**ABOUT, "history": [], "sections": []} if bare else ABOUT
    judged = Judged(**about, decision=decision, finish_reason=finish_reason)
    verdict = judge.judge(text, judged)
    scores = (verdict.coherence, verdict.completeness, verdict.relevance, verdict.consistency)
    assert all(0 <= score <= 1 for score in scores)
    assert verdict.score == pytest.approx(sum(scores) / 4)
    assert verdict == judge.judge(text, judged)
    assert not (verdict.truncated and finish_reason == "stop")
    if not text.strip():
        assert verdict.reason
