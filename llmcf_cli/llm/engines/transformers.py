"""Generation with a local model through Hugging Face transformers.

Shapes: B batch, L tokens of prompt and answer (or of the answer alone), V vocabulary, K candidates of top-k.

Every row draws from its own random stream: the noise of a token depends only on (row seed, step, token id), so a text
does not depend on which other rows share its batch, or on what a cache already held. What remains is floating-point
rounding: batch size may change the last bits of the logits, which decides a token only at a near tie (rare in fp32, not
so rare in bf16).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.seeding import GOLDEN, mixed, shifted
from llmcf_cli.llm.config import TransformersEngineConfig
from llmcf_cli.llm.engines.base import Completion, Failure
from llmcf_cli.llm.engines.decode import Pick, decode, suits
from llmcf_cli.llm.engines.local import LocalEngine
from llmcf_cli.llm.models.load import load_to_ask
from llmcf_cli.llm.prompts.batches import by_length, in_halves
from llmcf_cli.llm.prompts.chat import Messages


class TransformersEngine(LocalEngine):
    """Greedy decoding or top-k sampling with a temperature, in batches of prompts of similar length."""

    config: TransformersEngineConfig

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices in batches of similar length, longest first, each within `batch_tokens` and `max_batch`."""
        config = self.config
        return by_length(lengths, answer=config.max_new_tokens, most_tokens=config.batch_tokens, most=config.max_batch)

    def generate(self, chats: Sequence[Messages], seeds: Sequence[int]) -> list[Completion | Failure]:
        """One answer per chat. A batch too large for the GPU's memory is halved until it fits.

        Args:
            chats: Prompts.
            seeds: One per chat; unused when the temperature is 0.

        Raises:
            ModelError: Even one prompt does not fit into memory.
        """
        parts = in_halves(
            self._generate, list(zip(chats, seeds, strict=True)), where=str(self._folder),
            setting="cot.engine.max_prompt_tokens",
        )  # fmt: skip
        return [completion for part in parts for completion in part]

    def _generate(self, asked: Sequence[tuple[Messages, int]]) -> list[Completion | Failure]:
        model = self._weights()
        start = time.perf_counter()
        prompts = self._encode([chat for chat, _ in asked])
        ends = self._end_tokens()
        write = decode if suits(model) else self._library_generate
        answers = write(model, prompts, most=self.config.max_new_tokens, ends=ends, picks=self._picks(asked))
        seconds = (time.perf_counter() - start) / len(asked)
        found = []
        for prompt, ids in zip(prompts, answers, strict=True):
            ended = bool(ids) and ids[-1] in ends
            found.append(
                self._answer(
                    ids[:-1] if ended else ids, "stop" if ended else "length", prompt_tokens=len(prompt),
                    new_tokens=len(ids), seconds=seconds,
                )
            )  # fmt: skip
        return found

    @torch.inference_mode()
    def _library_generate(
        self, model: Any, prompts: Sequence[Sequence[int]], *, most: int, ends: Sequence[int], picks: Sequence[Any]
    ) -> list[list[int]]:
        """What `decode` returns, by the library's loop: for models with sliding windows, states, ALiBi and so on."""
        from transformers import GenerationConfig

        pad = self._tokenizer.pad_token_id
        batch = self._tokenizer.pad({"input_ids": [list(ids) for ids in prompts]}, return_tensors="pt").to(model.device)
        width = batch["input_ids"].shape[1]
        decoding = GenerationConfig(
            max_new_tokens=most, do_sample=False, pad_token_id=pad, eos_token_id=list(ends) or None
        )
        steps = [lambda tokens_BL, logits_BV, pick=pick: pick(tokens_BL[:, width:], logits_BV) for pick in picks]
        tokens_BL = model.generate(**batch, generation_config=decoding, logits_processor=steps)
        answers = []
        for row in tokens_BL[:, width:].tolist():
            stop = next((i for i, token in enumerate(row) if token in ends), len(row))
            answers.append(row[: stop + 1])
        return answers

    def _weights(self) -> Any:
        if self._model is None:
            if self._folder is None:
                raise ModelError("the engine has no model; call open() first", code="engine-no-model")
            self._model = load_to_ask(self._folder, self.config.precision)
            self._model.generation_config = type(self._model.generation_config)()  # decoding is the recipe's alone
        return self._model

    def _end_tokens(self) -> list[int]:
        named = self._weights().config.get_text_config().eos_token_id
        ends = [] if named is None else [named] if isinstance(named, int) else list(named)
        if self._tokenizer.eos_token_id is not None:
            ends.append(self._tokenizer.eos_token_id)
        return sorted(set(ends))

    def _picks(self, asked: Sequence[tuple[Messages, int]]) -> list[Pick]:
        config = self.config
        picks: list[Pick] = []
        if config.repetition_penalty > 1:
            picks.append(AnswerRepetition(config.repetition_penalty))
        if config.temperature > 0:
            seeds = [seed for _, seed in asked]
            picks.append(SeededSampling(seeds, config.temperature, config.top_k, self._weights().device))
        return picks


class AnswerRepetition:
    """Divides positive and multiplies negative logits of tokens that the answer (not the prompt) already holds."""

    def __init__(self, penalty: float) -> None:
        self._penalty = penalty

    def __call__(self, answer_BL: Tensor, logits_BV: Tensor) -> Tensor:
        found = logits_BV.gather(1, answer_BL)
        found = torch.where(found < 0, found * self._penalty, found / self._penalty)
        return logits_BV.scatter(1, answer_BL, found)

    def keep(self, rows_B: Tensor) -> None:
        """Nothing is kept per row."""


class SeededSampling:
    """Turns logits so that their argmax is a top-k, temperature sample of each row's own random stream.

    Gumbel-max: argmax_v(logit_v / T + g_v), g_v = −log(−log u_v), is distributed as softmax(logits / T). The uniform
    u_v is a hash of (row seed, step, v).

    Args:
        seeds: One per row.
        temperature: Softmax temperature, > 0.
        top_k: Candidates; 0: the whole vocabulary.
        device: Where logits are.
    """

    def __init__(self, seeds: Sequence[int], temperature: float, top_k: int, device: torch.device) -> None:
        self._seeds_B = _splitmix(torch.tensor(list(seeds), dtype=torch.int64, device=device))
        self._temperature, self._top_k = temperature, top_k

    def __call__(self, answer_BL: Tensor, logits_BV: Tensor) -> Tensor:
        size = logits_BV.shape[1]
        kept_BK, ids_BK = logits_BV.float().topk(min(self._top_k or size, size), dim=1)
        stream_B1 = _splitmix(self._seeds_B + answer_BL.shape[1])[:, None]
        noisy_BK = kept_BK.double() / self._temperature + _gumbel(_splitmix(stream_B1 + ids_BK * GOLDEN))
        out_BV = torch.full_like(logits_BV, -torch.inf, dtype=torch.float32)
        return out_BV.scatter_(1, ids_BK, noisy_BK.float())

    def keep(self, rows_B: Tensor) -> None:
        """The batch goes on with these rows, in this order."""
        self._seeds_B = self._seeds_B[rows_B]


def _splitmix(state: Tensor) -> Tensor:
    """The number that SplitMix64 draws next in each int64 state."""
    drawn: Tensor = mixed(state + GOLDEN)
    return drawn


def _gumbel(random: Tensor) -> Tensor:
    uniform = (shifted(random, 11).double() + 0.5) * 2.0**-53
    return -torch.log(-torch.log(uniform))
