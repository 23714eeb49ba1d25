"""What an engine promises to `gen-cot`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.llm.prompts.chat import Messages
from llmcf_cli.llm.prompts.rows import SampleTexts
from llmcf_cli.llm.prompts.spoken import spoken, storable
from llmcf_cli.plugin import Kind
from llmcf_cli.recipe.words import Words


@dataclass(frozen=True)
class Completion:
    """One generated answer.

    Attributes:
        text: The answer without special tokens.
        finish_reason: `stop` (the model ended it) or `length` (cut at the most new tokens).
        prompt_tokens: Tokens of the prompt, padding not counted.
        new_tokens: Tokens generated, the end token included.
        seconds: This answer's share of its batch's time.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    new_tokens: int
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Why a chat got no answer; it stands where its `Completion` would, so that the others of its batch are kept.

    Attributes:
        reason: What went wrong, in one sentence.
        retryable: Whether the same chat may succeed later (a busy server), or will fail the same way again.
    """

    reason: str
    retryable: bool


def answer(
    text: str, finish_reason: str, *, prompt_tokens: int, new_tokens: int, seconds: float
) -> Completion | Failure:
    """What a model wrote as an answer, or a failure where it only thought: think blocks are not kept.

    Args:
        text: What it wrote.
        finish_reason: `stop` or `length`.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens generated, those of the think block included.
        seconds: This answer's share of its batch's time.
    """
    said, why = spoken(storable(text))
    if why:
        hint = "raise max_new_tokens, or turn off the model's thinking" if finish_reason == "length" else "ask again"
        return Failure(f"{why}: {hint}", retryable=False)
    return Completion(said, finish_reason, prompt_tokens, new_tokens, seconds)


class Adjustable:
    """An engine that is its settings: with others, it is a copy that shares all else."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.samples: int = config.samples

    def asking(self, *, max_new_tokens: int, samples: int) -> Self:
        """See `Engine.asking`."""
        view = copy.copy(self)
        view.config = self.config.model_copy(update={"max_new_tokens": max_new_tokens, "samples": samples})
        view.samples = samples
        return view

    def as_sent(self, chat: Messages) -> tuple[list[dict[str, str]], tuple[str, ...]]:
        """See `Engine.as_sent`; nothing is changed."""
        return [dict(message) for message in chat], ()


@dataclass(frozen=True)
class Ingested:
    """What an engine reads that writes from the data.

    Attributes:
        database: DuckDB file of ingest.
        source: The recipe's `dataset.source`.
        words: Of the label.
        seed: Of this use of the engine.
    """

    database: Path
    source: ComponentConfig
    words: Words
    seed: int


@dataclass(frozen=True)
class Subject:
    """A user or an item that knowledge is written about.

    Attributes:
        row: Its row.
        as_of: Time of the last event that its text may rest on, in microseconds since 1970 (or a position).
        text: Its own text.
        history: Of a user: texts of the items of the events to write from, oldest first.
        history_rows: Of a user: rows of these items.
    """

    row: int
    as_of: int
    text: str
    history: list[str] = field(default_factory=list)
    history_rows: list[int] = field(default_factory=list)


class DataEngine(Protocol):
    """Writes from the ingested data, without a language model; `needs` of its configuration is `data`.

    Built as `Engine(config)`. What it writes is judged like any text, and kept in no cache: it costs nothing.
    """

    def open(self, data: Ingested) -> None:
        """Read what it will write from.

        Raises:
            LlmcfError: It cannot write about these data.
        """

    def write(self, rows: Sequence[SampleTexts]) -> list[str]:
        """The chain of thought of each train sample; a text depends on its own sample only, and may be empty."""


class DescribingEngine(DataEngine, Protocol):
    """Writes knowledge about users and items, too; its configuration says so in `describes`."""

    def describe(self, entity: str, subjects: Sequence[Subject]) -> list[str]:
        """A text about each user or item, from what stands in its `Subject` and from what rests on no event; it may be
        empty.

        Args:
            entity: `user` or `item`.
            subjects: Users, or items.
        """


class Engine(Protocol):
    """Generates text from chats; built as `Engine(config)`."""

    config: Any
    """Its settings, `max_new_tokens` and `samples` among them."""
    samples: int
    """Answers per prompt."""

    def asking(self, *, max_new_tokens: int, samples: int) -> Engine:
        """This engine, opened, with shorter answers or another number of them; weights and connections are shared."""

    def open(self, model: Path | None) -> None:
        """Prepare to generate with the model of a folder. Weights may be loaded at the first `generate`.

        None: the engine's configuration does not need the `model`.
        """

    def decode_settings(self, seed: int) -> dict[str, Any]:
        """Everything besides prompt and model that determines an answer, as JSON data: the cache key."""

    def max_prompt_tokens(self) -> int:
        """Most tokens a prompt may have."""

    def as_sent(self, chat: Messages) -> tuple[list[dict[str, str]], tuple[str, ...]]:
        """A chat as the model is to get it, and what was changed in it, in words; nothing else is changed later.

        Raises:
            ModelError: The model cannot be asked in such turns.
        """

    def count_tokens(self, chats: Sequence[Messages]) -> list[int]:
        """Tokens of each rendered prompt."""

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of `lengths` in batches of similar length within the token budget, about longest first."""

    def generate(self, chats: Sequence[Messages], seeds: Sequence[int]) -> list[Completion | Failure]:
        """One answer, or what became of it, per chat; each is drawn with its own seed, whatever else is in the batch.

        A chat that gets no answer has a `Failure` in its place, and the others their answers all the same.

        Raises:
            LlmcfError: No chat can be answered: the model, the key or the address is wrong.
        """


ENGINE: Kind[Engine] = Kind("engine")
DESCRIBING_ENGINE: Kind[DescribingEngine] = Kind("engine")
DATA_ENGINE: Kind[DataEngine] = Kind("engine")
