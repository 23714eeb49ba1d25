"""The engine `vllm`: what it hands to vLLM, recorded by a stand-in, and what it says where vLLM is missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from refusals import refused

from llmcf_cli.core.errors import PackageError
from llmcf_cli.llm.config import VllmEngineConfig
from llmcf_cli.llm.engines.base import Completion
from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.plugin import registry

MODULE = "llmcf_cli.llm.engines.vllm"
CHATS = [[{"role": "user", "content": "why did the user like it"}], [{"role": "user", "content": "and then"}]]


class _LLM:
    made: list[dict[str, Any]] = []  # noqa: RUF012
    asked: list[tuple[Any, Any]] = []  # noqa: RUF012
    answers: list[list[int]] = []  # noqa: RUF012

    def __init__(self, **settings: Any) -> None:
        self.made.append(settings)

    def generate(self, prompts: Any, sampling_params: Any, use_tqdm: bool) -> list[Any]:
        self.asked.append((prompts, sampling_params))
        reasons = ("stop", "length")
        return [
            SimpleNamespace(outputs=[SimpleNamespace(token_ids=self.answers[i % 2], finish_reason=reasons[i % 2])])
            for i in range(len(prompts))
        ]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> type[_LLM]:
    """A recording stand-in for the package; it needs a GPU to run."""
    stand_in = ModuleType("vllm")
    stand_in.LLM, stand_in.SamplingParams = _LLM, lambda **settings: settings
    monkeypatch.setitem(sys.modules, "vllm", stand_in)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.setattr(_LLM, "made", [])
    monkeypatch.setattr(_LLM, "asked", [])
    return _LLM


def test_settings_become_vllms_own(vllm: type[_LLM], tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = VllmEngineConfig(max_new_tokens=12, temperature=0.7, top_k=9, precision="fp32", gpus=2, memory_share=0.5)
    engine = registry().build("engine", config)
    engine.open(tiny_model)
    assert engine.max_prompt_tokens() == 500
    tokens = load_tokenizer(tiny_model)
    vllm.answers = [tokens(text)["input_ids"] for text in (" the user<|end|>", "<think>so</think> the film")]
    found = engine.generate(CHATS, [5, 6])
    counts = engine.count_tokens(CHATS)
    assert [(c.text, c.finish_reason, c.prompt_tokens, c.new_tokens) for c in found] == [
        ("the user", "stop", counts[0], len(vllm.answers[0])), ("the film", "length", counts[1], len(vllm.answers[1])),
    ]  # fmt: skip
    assert all(isinstance(c, Completion) for c in found)
    ((prompts, sampling),) = vllm.asked
    assert [len(p["prompt_token_ids"]) for p in prompts] == counts
    assert sampling == [{"temperature": 0.7, "top_k": 9, "seed": seed, "max_tokens": 12} for seed in (5, 6)]
    (made,) = vllm.made
    assert (made["model"], made["dtype"]) == (str(tiny_model), "float32")
    assert (made["tensor_parallel_size"], made["gpu_memory_utilization"]) == (2, 0.5)
    sys.modules.pop(MODULE)


def test_greedy_draws_nothing(vllm: type[_LLM], tiny_model: Path) -> None:
    engine = registry().build("engine", VllmEngineConfig(temperature=0, max_new_tokens=12, max_batch=2))
    engine.open(tiny_model)
    vllm.answers = [[5], [6]]
    engine.generate(CHATS, [5, 6])
    assert vllm.asked[0][1] == [{"temperature": 0.0, "max_tokens": 12}] * 2
    assert engine.decode_settings(1) == engine.decode_settings(2)
    assert engine.batches([3, 9, 4]) == [[0, 1], [2]]
    sys.modules.pop(MODULE)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_the_missing_package_is_named() -> None:
    with refused("package-missing", PackageError, names="'vllm'") as error:
        registry().build("engine", VllmEngineConfig())
    assert "llmcf[vllm]" in str(error.value)
