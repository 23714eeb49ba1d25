"""What a mix source is: what it is built with, what it yields; and the source of recommendation questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.mix.decontaminate import EvaluationRuns
from llmcf_cli.llm.prompts.chat import Messages, chats_of
from llmcf_cli.llm.prompts.question import questions
from llmcf_cli.llm.prompts.rows import SampleTexts, blank_items, refuse_blank, sample_texts, train_labels, train_order
from llmcf_cli.plugin import Kind
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read

_BLOCK = 1024  # samples rendered at a time


@dataclass(frozen=True)
class MixContext:
    """What a mix source is built with, besides its configuration.

    Attributes:
        data: DuckDB file of ingest.
        locate: Path of a file or asset that the configuration names.
        tokenizer: Of the model to be tuned.
        max_length: Most tokens of a sample.
        seed: Of this part's own random stream.
        evaluation: Texts that no general instruction may share a run of words with; None: there are none.
        seen: Digests of the pairs met so far, shared by the sources of a mix.
        words: Of the label.
        blank_texts: Share of the samples that may have an item without text.
    """

    data: Path
    locate: Callable[[str], Path]
    tokenizer: Any
    max_length: int
    seed: int
    evaluation: EvaluationRuns | None = None
    seen: set[bytes] = field(default_factory=set)
    words: Words = Words()
    blank_texts: float = 0.9


@dataclass(frozen=True)
class MixSample:
    """A chat up to its answer, the answer, and their tokens."""

    prompt: Messages
    completion: str
    prompt_tokens: int
    completion_tokens: int


class MixSource(Protocol):
    """Yields instruction–answer pairs; built as `target(config, context)`."""

    counts: dict[str, int]
    """What was left out or shortened so far, by reason."""

    def capacity(self) -> int:
        """Most samples it can give without repeating one (a few may still prove too long)."""

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` different samples, the same ones for the same seed."""


MIX_SOURCE: Kind[MixSource] = Kind("mix_source")


def measured(tokenizer: Any, pairs: Sequence[tuple[Messages, str]]) -> list[MixSample]:
    """Chats and their answers as samples with their tokens counted, the chat template's marks before an answer among
    the prompt's."""
    found = chats_of(tokenizer).pairs(pairs)
    return [
        MixSample(prompt, completion, before, len(ids) - before)
        for (prompt, completion), (ids, before) in zip(pairs, found, strict=True)
    ]


class RecommendationSource:
    """ "History + target item → Yes/No" from the train rows, both answers equally often unless told otherwise."""

    def __init__(self, config: RecommendationMixConfig, context: MixContext) -> None:
        self._config, self._context = config, context
        self.counts = {"history shortened": 0, "too long without history": 0, "item without text": 0}

    def capacity(self) -> int:
        """Train rows, or twice the rarer label's where labels are balanced."""
        with connect_read(self._context.data) as connection:
            positive, negative = train_labels(connection)
        return 2 * min(positive, negative) if self._config.balance == "labels" else positive + negative

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` samples in the seed's order; a row whose item alone is too long makes way for the next."""
        with connect_read(self._context.data) as connection:
            ids = train_order(connection, self._context.seed, self._config.balance, self.capacity())
            asked = ids[:count]
            refuse_blank(blank_items(connection, asked), len(asked), self._context.blank_texts, "train-llm")
            start = 0
            while count > 0 and start < len(ids):
                end = start + min(_BLOCK, count)
                for sample in self._samples(sample_texts(connection, ids[start:end])):
                    yield sample
                    count -= 1
                start = end

    def _samples(self, rows: Sequence[SampleTexts]) -> Iterator[MixSample]:
        config, longest, tokenizer = self._config, self._context.max_length, self._context.tokenizer
        answers = [config.positive if row.label else config.negative for row in rows]

        def asked(indices: Sequence[int], texts: Sequence[str]) -> list[MixSample]:
            chats = [[{"role": "user", "content": text}] for text in texts]
            return measured(tokenizer, list(zip(chats, [answers[i] for i in indices], strict=True)))

        def count(indices: list[int], texts: list[str]) -> list[int]:
            return [sample.prompt_tokens + sample.completion_tokens for sample in asked(indices, texts)]

        found = questions(config, rows, longest, count, self._context.words, wording=self._wording)
        fitting = [(index, question) for index, question in enumerate(found) if question.tokens <= longest]
        self.counts["too long without history"] += len(found) - len(fitting)
        self.counts["history shortened"] += sum(question.shortened for _, question in fitting)
        self.counts["item without text"] += sum(not rows[index].item.strip() for index, _ in fitting)
        yield from asked([index for index, _ in fitting], [question.text for _, question in fitting])

    def _wording(self, row: SampleTexts) -> str:
        """The row's template: one of all, drawn by seed and sample."""
        known = (self._config.template, *self._config.templates)
        return known[derive_seed(self._context.seed, "wording", row.sample_id) % len(known)]
