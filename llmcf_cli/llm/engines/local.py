"""What engines share that generate with a model's folder on this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.types import key_view
from llmcf_cli.llm.config import LocalEngineConfig
from llmcf_cli.llm.engines.base import Adjustable, Completion, Failure, answer
from llmcf_cli.llm.models.load import check_folder, context_length, load_tokenizer, resolved_precision
from llmcf_cli.llm.prompts.chat import SYSTEM_JOINED, Messages, chats_of
from llmcf_cli.llm.prompts.spoken import is_think_mark

_NOT_DECODING = ("samples", "max_prompt_tokens")  # they choose among answers or shape the prompt


class LocalEngine(Adjustable, ABC):
    """Tokenizer, context and decoding settings."""

    def __init__(self, config: LocalEngineConfig) -> None:
        super().__init__(config)
        self._folder: Path | None = None
        self._model: Any = None
        self._tokenizer: Any = None

    def open(self, model: Path | None) -> None:
        """Load the tokenizer now and the weights at the first `generate`.

        Raises:
            ModelError: The folder holds no causal language model with a chat template.
        """
        if model is None:
            raise ModelError(f"the engine {self.config.type} needs a model folder", code="engine-no-model")
        check_folder(model)
        self._tokenizer = load_tokenizer(model)
        self._folder, self._model = model, None
        self._context = context_length(model, self._tokenizer)
        if self.max_prompt_tokens() < 1:
            raise ModelError(
                f"the model's context of {self._context} tokens leaves no room for a prompt",
                code="prompt-no-room", where=str(model),
                hint=f"lower cot.engine.max_new_tokens ({self.config.max_new_tokens})",
            )  # fmt: skip

    def asking(self, *, max_new_tokens: int, samples: int) -> Self:
        """See `Engine.asking`."""
        view = super().asking(max_new_tokens=max_new_tokens, samples=samples)
        view._weights = self._weights  # type: ignore[method-assign]  # loaded at the first use of either, once
        return view

    def decode_settings(self, seed: int) -> dict[str, Any]:
        """Decoding settings and resolved precision; the seed counts only where something is drawn."""
        view = {k: v for k, v in key_view(self.config, str).items() if k not in _NOT_DECODING}
        view["precision"] = resolved_precision(self.config.precision)
        return {**view, "seed": seed} if self.config.temperature > 0 else {**view, "top_k": 0}

    def max_prompt_tokens(self) -> int:
        """Most tokens a prompt may have: the model's context less the answer, or the setting if that is lower."""
        room = self._context - self.config.max_new_tokens
        most: int = min(room, self.config.max_prompt_tokens or room)
        return most

    def count_tokens(self, chats: Sequence[Messages]) -> list[int]:
        """Tokens of each rendered prompt."""
        return [len(ids) for ids in self._encode(chats)]

    def as_sent(self, chat: Messages) -> tuple[list[dict[str, str]], tuple[str, ...]]:
        """See `Engine.as_sent`."""
        read = chats_of(self._tokenizer).as_read(chat)
        return read, () if len(read) == len(chat) else (SYSTEM_JOINED,)

    def _encode(self, chats: Sequence[Messages]) -> list[list[int]]:
        return chats_of(self._tokenizer).prompts(chats)

    def _answer(
        self, ids: Sequence[int], finish_reason: str, *, prompt_tokens: int, new_tokens: int, seconds: float
    ) -> Completion | Failure:
        """Generated tokens, without the one that ends them, as an answer."""
        marks = {i: t.content for i, t in self._tokenizer.added_tokens_decoder.items() if is_think_mark(t.content)}
        parts, start = [], 0
        for place in [n for n, token in enumerate(ids) if token in marks]:  # special ones would be skipped
            parts += [self._text(ids[start:place]), marks[ids[place]]]
            start = place + 1
        text = "".join([*parts, self._text(ids[start:])])
        return answer(text, finish_reason, prompt_tokens=prompt_tokens, new_tokens=new_tokens, seconds=seconds)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    @abstractmethod
    def _weights(self) -> Any:
        """The model, loaded at the first call."""
