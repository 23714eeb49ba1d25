"""Scoring generated chains of thought by their text alone.

LLM-CF samples several chains of thought per interaction and keeps the best by coherence, completeness, relevance and
consistency; this judge measures each of the four with plain text statistics, so that it costs nothing and repeats.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from llmcf_cli.llm.config import RubricJudgeConfig
from llmcf_cli.plugin import Kind
from llmcf_cli.recipe.prompt import PromptSection
from llmcf_cli.recipe.words import Words

_WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_END = re.compile(r"\w[.!?](\s|$)")
_REFUSAL = re.compile(
    r"^\W*(i'?m sorry|i am sorry|sorry,|i can('?t|not)\b|i am (not able|unable)|i'?m (not able|unable)|as an ai\b"
    r"|as a language model|i do not have (access|enough)|i don'?t have (access|enough))", re.IGNORECASE,
)  # fmt: skip
_POSITIVE = frozenset(
    {"like", "liked", "likes", "love", "loved", "loves", "enjoy", "enjoyed", "enjoys", "enjoyable",
     "appeal", "appeals", "appealed", "appealing", "match", "matches", "matched", "fit", "fits", "fitting",
     "align", "aligns", "aligned", "suit", "suits", "suited", "recommend", "interested", "satisfied",
     "great"}
)  # fmt: skip
_NEGATIVE = frozenset(
    {"dislike", "disliked", "dislikes", "hate", "hated", "hates", "disappoint", "disappointed", "disappointing",
     "bored", "boring", "mismatch", "unlikely", "unlike", "avoid", "avoided", "uninterested", "rejected",
     "lacks", "differs", "contrary", "contrast"}
)  # fmt: skip
_NEGATION = frozenset(
    {"not", "no", "never", "hardly", "didn't", "doesn't", "don't", "isn't", "wasn't", "wouldn't", "won't",
     "without", "neither", "nor", "cannot", "can't", "less", "failed", "fails"}
)  # fmt: skip
_HEAD_END = re.compile(r"\s*[(|,;:\[]")


@dataclass(frozen=True)
class Judged:
    """What a chain of thought is to be judged against.

    Attributes:
        prompt: The rendered prompt, all messages.
        history: Texts of the earlier items.
        item: Text of the target item.
        decision: The label, 1 or 0; None where the prompt does not tell.
        sections: Considerations that the prompt asks for.
        finish_reason: `stop` or `length`.
        words: Of the label.
    """

    prompt: str
    history: Sequence[str]
    item: str
    decision: int | None
    sections: Sequence[PromptSection]
    finish_reason: str
    words: Words = Words()


@dataclass(frozen=True)
class Verdict:
    """Scores in [0, 1] and, where the text is not to be used, why.

    Attributes:
        coherence: (1 − share of three-word runs that repeat) · (1 − ½ · swings of sentiment); a tenth less for a text
            cut in mid-sentence.
        completeness: Share of the prompt's considerations that the text touches.
        relevance: Half whether the target item, half whether earlier items (two are enough) are named.
        consistency: How far the text's leaning agrees with the decision; 0.5 where it has none.
        score: Their mean.
        reason: `empty`, `refusal`, `echo`, `repetitive` or `truncated`; empty for a usable text.
        truncated: Whether it ends in mid-sentence.
    """

    coherence: float
    completeness: float
    relevance: float
    consistency: float
    score: float
    reason: str
    truncated: bool


class Judge(Protocol):
    """Scores chains of thought: built with its configuration."""

    def judge(self, text: str, about: Judged) -> Verdict:
        """Scores of one text; a pure function of its arguments."""


JUDGE: Kind[Judge] = Kind("judge")


class RubricJudge:
    """Coherence, completeness, relevance and consistency with equal weights."""

    def __init__(self, config: RubricJudgeConfig) -> None:
        self.config = config

    def judge(self, text: str, about: Judged) -> Verdict:
        """Scores of one text; a pure function of its arguments."""
        words = _words(text)
        truncated = about.finish_reason == "length" and not text.rstrip().endswith((".", "!", "?", '"'))
        fluent = 1 - repetition(words)
        scores = (
            fluent * (1 - 0.5 * swings(text)) * (0.9 if truncated else 1.0),
            completeness(words, about.sections),
            relevance(words, about.history, about.item),
            consistency(text, about.item, about.decision, about.words),
        )
        reason = self._reason(text, words, fluent, about.prompt)
        if truncated and not reason:
            reason = self._cut(text)
        return Verdict(*scores, sum(scores) / len(scores), reason, truncated)

    def _reason(self, text: str, words: Sequence[str], fluent: float, prompt: str) -> str:
        if len(words) < self.config.min_words:
            return "empty"
        if _REFUSAL.match(text):
            return "refusal"
        if echo(words, _words(prompt)) >= self.config.max_echo:
            return "echo"
        return "repetitive" if fluent < self.config.min_coherence else ""

    def _cut(self, text: str) -> str:
        allowed = self.config.truncated
        return "" if allowed == "keep" or (allowed == "sentence" and _END.search(text)) else "truncated"


def repetition(words: Sequence[str]) -> float:
    """Share of three-word runs that occurred before in the text; 0 for fewer than four words."""
    runs = _runs(words, 3)
    return 1 - len(set(runs)) / len(runs) if len(runs) > 1 else 0.0


def completeness(words: Sequence[str], sections: Sequence[PromptSection]) -> float:
    """Share of sections of which some word begins as one of theirs; 1 where a prompt names no sections."""
    if not sections:
        return 1.0
    return sum(any(word.startswith(section.words) for word in words) for section in sections) / len(sections)


def relevance(words: Sequence[str], history: Sequence[str], item: str) -> float:
    """½ · how much of the target's name occurs + ½ · min(1, earlier items named / min(2, history))."""
    found = set(words)
    target = _named(item, found)
    if not history:
        return target
    named = sum(_named(text, found) == 1 for text in set(history))
    return 0.5 * target + 0.5 * min(1.0, named / min(2, len(set(history))))


def consistency(text: str, item: str, decision: int | None, words: Words = Words()) -> float:
    """Share of approving (or, for a rejected item, disapproving) words in the sentences about the target.

    The label's own words (bought, buys) approve too. Words after a negation count for the other side. Sentences are
    about the target when they name it; where none does, the whole text counts. 0.5 without such words or without a
    known decision.
    """
    if decision is None:
        return 0.5
    name = set(_words(_head(item)))
    sentences = _sentences(text)
    about = [words for words in sentences if name and len(name & set(words)) >= (len(name) + 1) // 2] or sentences
    leanings = [_leaning(sentence, words.approving) for sentence in about]
    approving, disapproving = map(sum, zip(*leanings, strict=True)) if about else (0, 0)
    if not approving + disapproving:
        return 0.5
    share = approving / (approving + disapproving)
    return share if decision else 1 - share


def swings(text: str) -> float:
    """How often the text turns from approving to disapproving and back, of how often it could; in [0, 1].

    One turn is free, as in "likes A and B, but not this one": max(0, turns − 1) / max(1, leaning sentences − 2).
    """
    leanings = [approving - disapproving for approving, disapproving in map(_leaning, _sentences(text))]
    signs = [leaning > 0 for leaning in leanings if leaning]
    turns = sum(a != b for a, b in pairwise(signs))
    return max(0, turns - 1) / max(1, len(signs) - 2)


def echo(words: Sequence[str], prompt: Sequence[str]) -> float:
    """Share of the text's five-word runs that stand in the prompt."""
    runs = _runs(words, 5)
    known = set(_runs(prompt, 5))
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def _sentences(text: str) -> list[list[str]]:
    return [_words(sentence) for sentence in _SENTENCE.split(text)]


def _leaning(words: Sequence[str], label: Collection[str] = ()) -> tuple[int, int]:
    """Approving and disapproving words; one after a negation counts for the other side."""
    approving = disapproving = 0
    for index, word in enumerate(words):
        approves = word in _POSITIVE or word in label
        if not approves and word not in _NEGATIVE:
            continue
        negated = not _NEGATION.isdisjoint(words[max(0, index - 3) : index])
        if approves != negated:
            approving += 1
        else:
            disapproving += 1
    return approving, disapproving


def _named(item: str, found: set[str]) -> float:
    name = set(_words(_head(item)))
    return len(name & found) / len(name) if name else 0.0


def _head(item: str) -> str:
    """An item text's name: what stands before the first bracket, comma or the like."""
    head = _HEAD_END.split(item.strip(), maxsplit=1)[0]
    return head or item


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("’", "'"))


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
