from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.models.load import load_causal_lm
from llmcf_cli.llm.tuning import packing as packing_module
from llmcf_cli.llm.tuning.collate import LeftPadded, Packed, packed_loss, padded_loss
from llmcf_cli.llm.tuning.packing import ATTENTION, _attend_each, _attend_padded, packed_attention, use_packed_attention


def _samples(sizes: list[tuple[int, int]], seed: int = 0) -> list[dict]:
    generator = np.random.default_rng(seed)
    return [{"tokens": generator.integers(10, 300, n), "prompt": p} for n, p in sizes]


def _alone(model: torch.nn.Module, samples: list[dict]) -> tuple[torch.Tensor, int]:
    """Summed loss of the answers, and their tokens, each sample on its own."""
    total, tokens = torch.zeros(()), 0
    for sample in samples:
        ids_L = torch.from_numpy(sample["tokens"])
        logits_LV = model(ids_L[None]).logits[0]
        answer = slice(sample["prompt"], None)
        total = total + torch.nn.functional.cross_entropy(
            logits_LV[sample["prompt"] - 1 : -1], ids_L[answer], reduction="sum"
        )
        tokens += len(ids_L[answer])
    return total, tokens


def _gradient(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("keeps_logits", [False, True])
def test_loss_and_gradient_are_those_of_every_sample_alone(tiny_model: Path, packed: bool, keeps_logits: bool) -> None:
    model = load_causal_lm(tiny_model, torch.float32)
    samples = _samples([(9, 6), (5, 2), (14, 13), (30, 1)])
    total, tokens = _alone(model, samples)
    expected = _gradient(model, total / tokens)
    if packed:
        use_packed_attention(model)
    collate, loss = (Packed(keeps_logits), packed_loss) if packed else (LeftPadded(0, keeps_logits), padded_loss)
    batch = collate([samples])
    labels = batch.pop("labels")
    outputs = model(**batch)
    assert loss(outputs, labels).item() == pytest.approx((total / tokens).item(), rel=1e-5)
    assert loss(outputs, labels, num_items_in_batch=2 * tokens).item() == pytest.approx(
        (total / tokens / 2).item(), rel=1e-5
    )
    assert torch.allclose(_gradient(model, loss(outputs, labels)), expected, rtol=1e-4, atol=1e-6)


def test_the_output_layer_works_on_answers_alone(tiny_model: Path) -> None:
    model = load_causal_lm(tiny_model, torch.float32)
    use_packed_attention(model)
    batch = Packed(keeps_logits=True)([_samples([(9, 6), (5, 2), (14, 13)])])
    batch.pop("labels")
    assert model(**batch).logits.shape[1] == 3 + 3 + 1


def test_a_sample_without_weight_has_no_part_in_loss_or_gradient(tiny_model: Path) -> None:
    model = load_causal_lm(tiny_model, torch.float32)
    use_packed_attention(model)
    (sample,) = _samples([(9, 6)])
    for collate, loss in ((Packed(True), packed_loss), (LeftPadded(0, True), padded_loss)):
        batch = collate([[{**sample, "prompt": 9}]])
        labels = batch.pop("labels")
        value = loss(model(**batch), labels, num_items_in_batch=4)
        assert value.item() == 0
        assert not _gradient(model, value).any()


@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    groups=st.sampled_from([1, 2]),
    scale=st.sampled_from([None, 0.3]),
)
def test_no_sample_sees_another(lengths: list[int], groups: int, scale: float | None) -> None:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    query, key, value = (torch.randn(1, heads, total, 8, generator=generator) for heads in (2 * groups, 2, 2))
    found = _attend_each(query, key, value, lengths, dropout=0.0, scale=scale)
    assert torch.allclose(found, _attend_padded(query, key, value, lengths, dropout=0.0, scale=scale), atol=1e-6)
    start = 0
    for length in lengths:
        piece = slice(start, start + length)
        changed = [x.clone() for x in (query, key, value)]
        for x in changed:
            x[:, :, piece] += 1
        after = _attend_each(*changed, lengths, dropout=0.0, scale=scale)
        others = torch.ones(total, dtype=torch.bool)
        others[piece] = False
        assert torch.equal(after[:, :, others], found[:, :, others])
        start += length


def test_attention_that_cannot_be_confined_is_refused() -> None:
    x = torch.zeros(1, 1, 8, 4)
    with refused("sample-too-long", ModelError, names="4") as error:
        packed_attention(torch.nn.Identity(), x, x, x, None, sliding_window=4, max_length_q=8)
    assert "packing: none" in error.value.hint
    with refused("packing-unsupported", ModelError):
        packed_attention(torch.nn.Identity(), x, x, x, None, softcap=30.0)


def test_a_model_that_mixes_packed_samples_is_refused(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_causal_lm(tiny_model, torch.float32)

    def leaky(module, query, key, value, attention_mask, **options):
        return packed_attention(module, query, key, value, attention_mask)

    monkeypatch.setattr(packing_module, "packed_attention", leaky)
    with refused("packing-unsupported", ModelError):
        use_packed_attention(model)
    assert model.config._attn_implementation != ATTENTION


def test_other_architectures_pack_too(tmp_path: Path) -> None:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM

    shape = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}  # fmt: skip
    torch.manual_seed(0)
    gemma = Gemma3TextConfig(**shape, sliding_window=64, layer_types=["sliding_attention", "full_attention"])
    for model in (Qwen3ForCausalLM(Qwen3Config(**shape)), Gemma3ForCausalLM(gemma)):
        use_packed_attention(model.eval())
