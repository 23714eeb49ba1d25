"""How likely a causal language model answers yes rather than no.

Legend: B batch, P prefix tokens, S tokens after it with padding, V vocabulary, Y and N tokens of either answer.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.batches import in_halves
from llmcf_cli.llm.models import context_length, load_to_ask, load_tokenizer

_LEAST_PREFIX = 8  # a shorter one costs more to attend to as a cache than to read again


@dataclass(frozen=True)
class Prefix:
    """Tokens that prompts begin with, read once.

    Attributes:
        length: P; 0: nothing shared.
        cache: Keys and values of one row; None if there are none.
    """

    length: int = 0
    cache: Any = None


class AnswerScorer:
    """Scores prompts by the model's next token: log(P(yes) / P(no)) and P(yes) + P(no).

    P sums over all surface forms of an answer: every token of the vocabulary that reads like it but for case and white
    space around it (`Yes`, ` Yes`, `yes`, …), each probability from the full softmax.

    Args:
        model: Folder in Hugging Face format, with a chat template.
        positive: The answer that counts as yes.
        negative: The answer that counts as no.
        precision: `auto`, `fp32` or `bf16`, see `resolved_precision`.

    Attributes:
        context: Most tokens of a prompt.

    Raises:
        ModelError: There is no such model, or an answer is no single token in any form.
    """

    def __init__(self, model: Path, positive: str, negative: str, precision: str) -> None:
        self.tokenizer = load_tokenizer(model)
        self.context = context_length(model, self.tokenizer)
        self.positive_Y, self.negative_N = surface_forms(self.tokenizer, positive, negative)
        self._folder, self._precision = model, precision
        self._model: Any = None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of chats that consist of one user's message each, up to where the answer begins."""
        chats = [[{"role": "user", "content": text}] for text in texts]
        rendered = self.tokenizer.apply_chat_template(chats, tokenize=False, add_generation_prompt=True)
        encoded: list[list[int]] = self.tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return encoded

    @torch.inference_mode()
    def read_prefix(self, prompts: Sequence[Sequence[int]]) -> Prefix:
        """What all prompts begin with, as keys and values; nothing if that is short or there is one prompt only."""
        first, last = min(prompts), max(prompts)  # in this order, what these two share all share
        shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        length = min(shared, min(map(len, prompts)) - 1)
        if len(prompts) < 2 or length < _LEAST_PREFIX:
            return Prefix()
        model = self._weights()
        ids_1P = torch.tensor([list(first[:length])], device=model.device)
        cache = model(input_ids=ids_1P, use_cache=True, **self._last_only()).past_key_values
        return Prefix(length, cache)

    def score(self, prompts: Sequence[Sequence[int]], prefix: Prefix) -> tuple[Tensor, Tensor]:
        """Score prompts, all of which begin with `prefix`, in one batch; halved while it is too large for the GPU.

        Returns:
            log(P(yes) / P(no)) and P(yes) + P(no), float32 [B] on the CPU.

        Raises:
            ModelError: Even one prompt does not fit into memory.
        """
        parts = in_halves(
            lambda some: self._score(some, prefix), prompts, where=str(self._folder),
            setting="teacher.max_prompt_tokens",
        )  # fmt: skip
        return torch.cat([ratio_B for ratio_B, _ in parts]), torch.cat([mass_B for _, mass_B in parts])

    @torch.inference_mode()
    def _score(self, prompts: Sequence[Sequence[int]], prefix: Prefix) -> tuple[Tensor, Tensor]:
        model = self._weights()
        rest = [list(prompt[prefix.length :]) for prompt in prompts]
        width = max(map(len, rest))
        pad = self.tokenizer.pad_token_id
        ids_BS = torch.tensor([[pad] * (width - len(ids)) + ids for ids in rest], device=model.device)
        seen_BX = torch.tensor(
            [[1] * prefix.length + [0] * (width - len(ids)) + [1] * len(ids) for ids in rest], device=model.device
        )
        # Padding stands between prefix and rest, unseen, so that every row's answer comes at the last position.
        position_BS = (seen_BX.cumsum(1) - 1).clamp_min(0)[:, prefix.length :]
        cache = copy.deepcopy(prefix.cache)  # the forward pass appends to it
        if cache is not None:
            cache.batch_repeat_interleave(len(prompts))
        logits_BSV = model(
            input_ids=ids_BS, attention_mask=seen_BX, position_ids=position_BS, past_key_values=cache,
            use_cache=cache is not None, **self._last_only(),
        ).logits  # fmt: skip
        return yes_or_no(logits_BSV[:, -1], self.positive_Y, self.negative_N)

    def _last_only(self) -> dict[str, int]:
        """Logits of one position instead of all, where the model can."""
        return {"logits_to_keep": 1} if self._weights()._supports_logits_to_keep() else {}

    def _weights(self) -> Any:
        if self._model is None:
            self._model = load_to_ask(self._folder, self._precision)
        return self._model


def yes_or_no(logits_BV: Tensor, positive_Y: Sequence[int], negative_N: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log(P(yes) / P(no)) and P(yes) + P(no) of next-token logits, float32 [B] on the CPU."""
    log_BV = logits_BV.float().log_softmax(1)
    yes_B, no_B = (log_BV[:, list(tokens)].logsumexp(1) for tokens in (positive_Y, negative_N))
    return (yes_B - no_B).cpu(), (yes_B.exp() + no_B.exp()).cpu()


def surface_forms(tokenizer: Any, positive: str, negative: str) -> tuple[list[int], list[int]]:
    """Ids of the tokens that read like either answer, but for case and white space around it.

    Raises:
        ModelError: An answer has none, or both have the same.
    """
    tokens: dict[str, list[int]] = {_plain(positive): [], _plain(negative): []}
    if len(tokens) < 2:
        raise ModelError(f"the answers {positive!r} and {negative!r} read the same", where="llm.mix")
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
    for token, text in enumerate(texts):
        if _plain(text) in tokens:
            tokens[_plain(text)].append(token)
    for answer in (positive, negative):
        if not tokens[_plain(answer)]:
            raise ModelError(
                f"the answer {answer!r} is no single token of this model in any form", where="llm.mix",
                hint="set positive and negative of the recommendation source to short words such as Yes and No",
            )  # fmt: skip
    return tokens[_plain(positive)], tokens[_plain(negative)]


def _plain(text: str) -> str:
    return text.strip().casefold()
