"""The recommendation question in words: one path for tuning a model on it and for asking it of a teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.prompts.chat import fit_histories
from llmcf_cli.llm.prompts.rows import SampleTexts
from llmcf_cli.recipe.template import render_template
from llmcf_cli.recipe.words import Words


@dataclass(frozen=True)
class Question:
    """A sample's question.

    Attributes:
        text: What is asked.
        tokens: As counted; more than allowed if it is too long even without any history.
        shortened: Whether the oldest of the history was left out.
    """

    text: str
    tokens: int
    shortened: bool


def questions(
    config: RecommendationMixConfig,
    rows: Sequence[SampleTexts],
    longest: int,
    count: Callable[[list[int], list[str]], list[int]],
    words: Words,
    wording: Callable[[SampleTexts], str] | None = None,
) -> list[Question]:
    """The question of each row, without its oldest history where it would be too long.

    Args:
        config: Template and length of the history.
        rows: Samples.
        longest: Most tokens.
        count: (indices of rows, their questions) → tokens of each, growing with the question.
        words: Of the label.
        wording: The template of a row; None: the configuration's first, whatever the row.
    """

    def render(index: int, history: Sequence[str]) -> str:
        values = {"history": history, "item": rows[index].item, "user": rows[index].user, **words.variables}
        template = config.template if wording is None else wording(rows[index])
        return render_template(template, values).strip()

    def measure(indices: list[int], histories: list[list[str]]) -> list[int]:
        return count(indices, [render(i, history) for i, history in zip(indices, histories, strict=True)])

    wanted = [row.history[-config.max_history :] for row in rows]
    histories, tokens = fit_histories(wanted, longest, measure)
    return [
        Question(render(index, history), total, len(history) < len(wanted[index]))
        for index, (history, total) in enumerate(zip(histories, tokens, strict=True))
    ]
