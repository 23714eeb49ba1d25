"""Generation through vLLM's offline engine.

vLLM is not run by the tests of this project, which have no GPU: they check what is handed to it, with a stand-in in its
place.
Its sampling is seeded per row; whether a text depends on its batch is up to vLLM's kernels.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from vllm import LLM, SamplingParams

from llmcf_cli.llm.config import VllmEngineConfig
from llmcf_cli.llm.engines.base import Completion, Failure
from llmcf_cli.llm.engines.local import LocalEngine
from llmcf_cli.llm.models.load import resolved_precision
from llmcf_cli.llm.prompts.chat import Messages


class VllmEngine(LocalEngine):
    """The tuned model on one or several GPUs; vLLM batches, caches beginnings and releases rows by itself."""

    config: VllmEngineConfig

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices in their order, `max_batch` at a time: vLLM makes its own batches of them."""
        most = self.config.max_batch
        return [list(range(start, min(start + most, len(lengths)))) for start in range(0, len(lengths), most)]

    def generate(self, chats: Sequence[Messages], seeds: Sequence[int]) -> list[Completion | Failure]:
        """One answer per chat, each drawn with its own seed."""
        start = time.perf_counter()
        prompts = self._encode(chats)
        sampling = [self._sampling(seed) for seed in seeds]
        outputs = self._weights().generate(
            [{"prompt_token_ids": ids} for ids in prompts], sampling_params=sampling, use_tqdm=False
        )
        seconds = (time.perf_counter() - start) / max(len(chats), 1)
        found: list[Completion | Failure] = []
        for ids, output in zip(prompts, outputs, strict=True):
            made = output.outputs[0]
            reason = "length" if made.finish_reason == "length" else "stop"
            found.append(
                self._answer(
                    list(made.token_ids), reason, prompt_tokens=len(ids), new_tokens=len(made.token_ids),
                    seconds=seconds,
                )
            )  # fmt: skip
        return found

    def _sampling(self, seed: int) -> SamplingParams:
        config = self.config
        if not config.temperature:
            return SamplingParams(temperature=0.0, max_tokens=config.max_new_tokens)
        return SamplingParams(
            temperature=config.temperature, top_k=config.top_k, seed=seed, max_tokens=config.max_new_tokens
        )

    def _weights(self) -> Any:
        if self._model is None:
            bf16 = resolved_precision(self.config.precision) == "bf16"
            self._model = LLM(
                model=str(self._folder), dtype="bfloat16" if bf16 else "float32",
                tensor_parallel_size=self.config.gpus, gpu_memory_utilization=self.config.memory_share,
                enable_prefix_caching=True, generation_config="vllm",
            )  # fmt: skip
        return self._model
