"""A judge that asks where a text has its names from."""

from __future__ import annotations

import re
from dataclasses import replace

from llmcf_cli.llm.writing.judge import Judged, RubricJudge, Verdict
from llmcf_example_judge.config import GroundedJudgeConfig

# Capitalised words in a row; a word that begins a sentence says nothing.
_NAME = re.compile(r"(?<!^)(?<![.!?:]\s)(?<!\n)\b[A-Z][a-z]+(?:\s[A-Z][a-z]+)*")


class GroundedJudge:
    """Scores of the rubric, with relevance times the share of the text's names that stand in the prompt."""

    def __init__(self, config: GroundedJudgeConfig) -> None:
        self._config, self._rubric = config, RubricJudge(config)

    def judge(self, text: str, about: Judged) -> Verdict:
        """Scores of one text; a pure function of its arguments."""
        verdict = self._rubric.judge(text, about)
        share = grounded(text, about.prompt)
        relevance = verdict.relevance * share
        score = verdict.score - (verdict.relevance - relevance) / 4
        made_up = "made up" if share < self._config.min_grounded else ""
        return replace(verdict, relevance=relevance, score=score, reason=verdict.reason or made_up)


def grounded(text: str, prompt: str) -> float:
    """Share of the text's names, each counted once, that the prompt has; 1 for a text without names."""
    names = set(_NAME.findall(text))
    known = prompt.casefold()
    return sum(name.casefold() in known for name in names) / len(names) if names else 1.0
