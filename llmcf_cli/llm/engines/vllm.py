"""Generation through vLLM's offline engine.

vLLM is not run by the tests of this project, which have no GPU: they check what is handed to it, with a stand-in in its
place.
Its sampling is seeded per row; whether a text depends on its batch is up to vLLM's kernels.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.types import key_view
from llmcf_cli.llm.config import VllmEngineConfig
from llmcf_cli.llm.engines.base import Completion, Failure, Messages
from llmcf_cli.llm.models import check_folder, context_length, load_tokenizer, resolved_precision

_NOT_DECODING = ("samples", "max_prompt_tokens")


class VllmEngine:
    """The tuned model on one or several GPUs; vLLM batches, caches beginnings and releases rows by itself."""

    def __init__(self, config: VllmEngineConfig) -> None:
        self.config = config
        self.samples = config.samples
        self._llm: Any = None

    def open(self, model: Path | None) -> None:
        """Load the tokenizer now and the weights at the first `generate`.

        Raises:
            ModelError: The folder holds no causal language model with a chat template.
        """
        if model is None:
            raise ModelError("the engine vllm needs a model's folder")
        check_folder(model)
        self._tokenizer = load_tokenizer(model)
        self._folder, self._llm = model, None
        self._context = context_length(model, self._tokenizer)

    def asking(self, *, max_new_tokens: int, samples: int) -> VllmEngine:
        """See `Engine.asking`."""
        view = copy.copy(self)
        view.config = self.config.model_copy(update={"max_new_tokens": max_new_tokens, "samples": samples})
        view.samples = samples
        view._engine = self._engine  # type: ignore[method-assign]  # loaded at the first use of either, once
        return view

    def decode_settings(self, seed: int) -> dict[str, Any]:
        """Decoding settings and resolved precision; the seed counts only where something is drawn."""
        view = {k: v for k, v in key_view(self.config, str).items() if k not in _NOT_DECODING}
        view["precision"] = resolved_precision(self.config.precision)
        return {**view, "seed": seed} if self.config.temperature > 0 else {**view, "top_k": 0}

    def max_prompt_tokens(self) -> int:
        """Most tokens a prompt may have: the model's context less the answer, or the setting if that is lower."""
        room = self._context - self.config.max_new_tokens
        return min(room, self.config.max_prompt_tokens or room)

    def count_tokens(self, chats: Sequence[Messages]) -> list[int]:
        """Tokens of each rendered prompt."""
        return [len(ids) for ids in self._encode(chats)]

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices in their order, `max_batch` at a time: vLLM makes its own batches of them."""
        most = self.config.max_batch
        return [list(range(start, min(start + most, len(lengths)))) for start in range(0, len(lengths), most)]

    def generate(self, chats: Sequence[Messages], seeds: Sequence[int]) -> list[Completion | Failure]:
        """One answer per chat, each drawn with its own seed."""
        start = time.perf_counter()
        prompts = self._encode(chats)
        sampling = [self._sampling(seed) for seed in seeds]
        outputs = self._engine().generate(
            [{"prompt_token_ids": ids} for ids in prompts], sampling_params=sampling, use_tqdm=False
        )
        seconds = (time.perf_counter() - start) / max(len(chats), 1)
        found: list[Completion | Failure] = []
        for ids, output in zip(prompts, outputs, strict=True):
            answer = output.outputs[0]
            reason = "length" if answer.finish_reason == "length" else "stop"
            found.append(Completion(answer.text.strip(), reason, len(ids), len(answer.token_ids), seconds))
        return found

    def _sampling(self, seed: int) -> SamplingParams:
        config = self.config
        if not config.temperature:
            return SamplingParams(temperature=0.0, max_tokens=config.max_new_tokens)
        return SamplingParams(
            temperature=config.temperature, top_k=config.top_k, seed=seed, max_tokens=config.max_new_tokens
        )

    def _encode(self, chats: Sequence[Messages]) -> list[list[int]]:
        rendered = self._tokenizer.apply_chat_template(
            [list(chat) for chat in chats], tokenize=False, add_generation_prompt=True
        )
        ids: list[list[int]] = self._tokenizer(rendered, add_special_tokens=False)["input_ids"]
        return ids

    def _engine(self) -> Any:
        if self._llm is None:
            bf16 = resolved_precision(self.config.precision) == "bf16"
            self._llm = LLM(
                model=str(self._folder), dtype="bfloat16" if bf16 else "float32",
                tensor_parallel_size=self.config.gpus, gpu_memory_utilization=self.config.memory_share,
                enable_prefix_caching=True, generation_config="vllm",
            )  # fmt: skip
        return self._llm
