"""What a mix source is: what it is built with, what it yields; and the source of recommendation questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.chat import encode_pair
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.decontaminate import EvaluationRuns
from llmcf_cli.llm.engines.base import Messages
from llmcf_cli.llm.question import questions
from llmcf_cli.llm.rows import SampleTexts, sample_texts, train_labels, train_order
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
    """

    data: Path
    locate: Callable[[str], Path]
    tokenizer: Any
    max_length: int
    seed: int
    evaluation: EvaluationRuns | None = None
    seen: set[bytes] = field(default_factory=set)


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


def measured(tokenizer: Any, prompt: Messages, completion: str) -> MixSample:
    """A sample with its tokens counted, the chat template's marks among the prompt's."""
    ids, prompt_tokens = encode_pair(tokenizer, prompt, [{"role": "assistant", "content": completion}])
    return MixSample(prompt, completion, prompt_tokens, len(ids) - prompt_tokens)


class RecommendationSource:
    """ "History + target item → Yes/No" from the train rows, both answers equally often unless told otherwise."""

    def __init__(self, config: RecommendationMixConfig, context: MixContext) -> None:
        self._config, self._context = config, context
        self.counts = {"history shortened": 0, "too long without history": 0}

    def capacity(self) -> int:
        """Train rows, or twice the rarer label's where labels are balanced."""
        with connect_read(self._context.data) as connection:
            positive, negative = train_labels(connection)
        return 2 * min(positive, negative) if self._config.balance == "labels" else positive + negative

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` samples in the seed's order; a row whose item alone is too long makes way for the next."""
        with connect_read(self._context.data) as connection:
            ids = train_order(connection, self._context.seed, self._config.balance, self.capacity())
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

        def ask(index: int, text: str) -> MixSample:
            return measured(tokenizer, [{"role": "user", "content": text}], answers[index])

        def count(indices: list[int], texts: list[str]) -> list[int]:
            found = [ask(i, text) for i, text in zip(indices, texts, strict=True)]
            return [sample.prompt_tokens + sample.completion_tokens for sample in found]

        asked = questions(config, rows, longest, count, wording=self._wording)
        for index, question in enumerate(asked):
            if question.tokens > longest:
                self.counts["too long without history"] += 1
                continue
            self.counts["history shortened"] += question.shortened
            yield ask(index, question.text)

    def _wording(self, row: SampleTexts) -> str:
        """The row's template: one of all, drawn by seed and sample."""
        known = (self._config.template, *self._config.templates)
        return known[derive_seed(self._context.seed, "wording", row.sample_id) % len(known)]
