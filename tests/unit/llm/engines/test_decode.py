from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from llmcf_cli.llm.config import TransformersEngineConfig
from llmcf_cli.llm.engines.decode import decode, suits
from llmcf_cli.llm.engines.transformers import SeededSampling, TransformersEngine
from llmcf_cli.llm.models.load import load_causal_lm
from llmcf_cli.llm.models.packed import PackedLinear, pack_linears

SHAPE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.4,
    "pad_token_id": None, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
MOST = 14


def _model(config: type, kind: type) -> Any:
    torch.manual_seed(3)
    return kind(config(**SHAPE)).eval()


@pytest.fixture(scope="module", params=[(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)])
def model(request: pytest.FixtureRequest) -> Any:
    return _model(*request.param)


@torch.inference_mode()
def _one_by_one(model: Any, prompt: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The library's greedy answer to one prompt, without padding."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=MOST, do_sample=False, pad_token_id=0,
        eos_token_id=list(ends) or None,
    )  # fmt: skip
    return out[0, len(prompt) :].tolist()


PROMPTS = [[5, 6, 7], [5, 6, 7, 8, 9, 1, 2], [5], [30, 31], [5, 6, 7], [5, 6], list(range(1, 25))]


@pytest.mark.parametrize("ends", [(), (3,), (3, 11, 17, 20, 25)])
def test_greedy_is_what_the_library_generates(model: Any, ends: tuple[int, ...]) -> None:
    assert suits(model)
    expected = [_one_by_one(model, prompt, ends) for prompt in PROMPTS]
    assert decode(model, PROMPTS, most=MOST, ends=ends) == expected
    if len(ends) > 1:
        assert len({len(answer) for answer in expected}) > 2  # rows leave at different steps


@given(
    prompts=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=6),
    ends=st.sets(st.integers(0, 39), max_size=12),
)
@settings(max_examples=25, deadline=None)
def test_any_batch_is_its_rows_alone(model: Any, prompts: list[list[int]], ends: set[int]) -> None:
    assert decode(model, prompts, most=6, ends=ends) == [decode(model, [p], most=6, ends=ends)[0] for p in prompts]


def test_what_prompts_share_is_read_once(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: read.append(kw["input_ids"].shape) or forward(**kw))
    start = list(range(1, 21))
    decode(model, [[*start, 30, 31], [*start, 35, 36], [*start, 35, 36]], most=2, ends=())
    assert [tuple(shape) for shape in read] == [(1, 21), (1, 1), (3, 1), (3, 1)]


def test_rows_that_ended_are_not_computed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    firsts = [decode(model, [prompt], most=1, ends=())[0][0] for prompt in PROMPTS]
    rows = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: rows.append(kw["input_ids"].shape) or forward(**kw))
    decode(model, PROMPTS, most=3, ends=[firsts[0]])
    steps = [tuple(shape) for shape in rows if shape[1] == 1][-2:]
    assert steps[0][0] < len(PROMPTS)


def test_draws_stay_with_their_row(model: Any) -> None:
    def draw(chosen: list[int]) -> list[list[int]]:
        picks = [SeededSampling([100 + i for i in chosen], 1.5, 0, torch.device("cpu"))]
        return decode(model, [PROMPTS[i] for i in chosen], most=MOST, ends=(3, 11), picks=picks)

    together = draw(list(range(7)))
    assert together == [draw([i])[0] for i in range(7)]
    assert together[0] != together[4]  # the same prompt, another seed


def test_other_attention_goes_to_the_library(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not suits(_model(Gemma2Config, Gemma2ForCausalLM))  # sliding windows
    chats = [[{"role": "user", "content": "why did the user " * n}] for n in (1, 5, 2)]

    def answers(temperature: float) -> list[Any]:
        engine = TransformersEngine(
            TransformersEngineConfig(max_new_tokens=12, precision="fp32", temperature=temperature)
        )
        engine.open(tiny_model)
        return [(c.text, c.finish_reason, c.prompt_tokens, c.new_tokens) for c in engine.generate(chats, [1, 2, 3])]

    own = answers(0), answers(0.9)
    monkeypatch.setattr("llmcf_cli.llm.engines.transformers.suits", lambda model: False)
    assert (answers(0), answers(0.9)) == own


def test_packed_layers_compute_the_same(tiny_model: Path) -> None:
    model = load_causal_lm(tiny_model, torch.float32)
    ids = torch.randint(0, 200, (3, 9))
    before = model(input_ids=ids).logits
    pack_linears(model)
    assert isinstance(model.lm_head, PackedLinear)
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, before.detach(), rtol=1e-4, atol=1e-4)
    bias = torch.nn.Linear(6, 5)
    x = torch.randn(2, 4, 6)
    torch.testing.assert_close(PackedLinear(bias)(x), bias(x).detach())
