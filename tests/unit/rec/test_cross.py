"""Cross-attention: by hand, one row at a time; and what it may and must not see."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional

from llmcf_cli.rec.augment.base import COT_AUX
from llmcf_cli.rec.config import BCEConfig, CoTReconstructionConfig, CrossConfig, DeepFMConfig
from llmcf_cli.rec.model import RecModel


def model(world, **settings):
    objectives = (BCEConfig(), CoTReconstructionConfig())
    built = RecModel(world.data.resources, DeepFMConfig(), CrossConfig(**settings), objectives, seed=3)
    torch.manual_seed(3)
    for parameter in built.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built.eval()


def observe(built, batch):
    """What the augmenter got and gave."""
    seen = []
    hook = built.augmenter.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    built(batch)
    hook.remove()
    return seen[0]


def context(built, batch):
    return observe(built, batch)[1].context_BC


@pytest.fixture
def batch(world):
    """Rows with no example, with some, and with all."""
    found = world.data.batch("train").take(torch.tensor([0, 1, 2, 20, 60, 150, 250, 300]))
    counts = (found.example_BK >= 0).sum(1)
    assert (counts.min(), counts.max()) == (0, 4)
    return found


def attended(layer, x_D, parts):
    """One row through a layer: softmax over its examples and a key of zeros, head by head."""
    query_HE = layer.query(layer.attention_norm(x_D)).view(layer.heads, -1)
    mixed = []
    for head, query_E in enumerate(query_HE):
        at = slice(head * len(query_E), (head + 1) * len(query_E))
        keys = [layer.key(first)[at] for first, _ in parts] + [torch.zeros_like(query_E)]
        values = [layer.value(whole)[at] for _, whole in parts] + [torch.zeros_like(query_E)]
        weight = torch.stack([query_E @ key / len(query_E) ** 0.5 for key in keys]).softmax(0)
        mixed.append(sum(w * value for w, value in zip(weight, values, strict=True)))
    x_D = x_D + layer.out(torch.cat(mixed))
    normed_D = layer.mlp_norm(x_D)
    return x_D + layer.down(functional.silu(layer.gate(normed_D)) * layer.up(normed_D))


@pytest.mark.parametrize("kinds", [("row", "cot", "label"), ("row", "label"), ("label",)])
def test_the_context_is_that_of_attention_row_by_row(world, batch, kinds):
    built = model(world, tokens=kinds)
    x, output = observe(built, batch)
    augmenter = built.augmenter
    tokens_BSD, mask_BS, query_BD = augmenter.tokens(x)
    for row, x_D in enumerate(query_BD):
        places = augmenter.examples_norm(tokens_BSD[row]).split(len(kinds))
        exist = mask_BS[row].split(len(kinds))
        parts = [
            (tokens[0], torch.cat([token * here for token, here in zip(tokens, there, strict=True)]))
            for tokens, there in zip(places, exist, strict=True)
            if there[0]
        ]
        for layer in augmenter.layers:
            x_D = attended(layer, x_D, parts)
        torch.testing.assert_close(output.context_BC[row], augmenter.norm(x_D), rtol=1e-4, atol=1e-5)


def test_the_order_of_examples_does_not_matter_but_they_do(world, batch):
    built = model(world)
    before = context(built, batch)
    turned = dataclasses.replace(batch, example_BK=batch.example_BK.flip(1), score_BK=batch.score_BK.flip(1))
    torch.testing.assert_close(context(built, turned), before, rtol=1e-5, atol=1e-6)
    built.bank_label_E = 1 - built.bank_label_E
    changed = (context(built, batch) - before).abs().amax(1) > 1e-5
    assert changed.tolist() == (batch.example_BK >= 0).any(1).tolist()


def test_a_chain_of_thought_that_is_missing_is_not_seen(world, batch):
    built = model(world)
    built.bank_cot_ET = torch.zeros_like(built.bank_cot_ET)
    before = context(built, batch)
    for parameter in built.augmenter.tokens.cot.parameters():
        parameter.data += 1
    assert torch.equal(context(built, batch), before)


def test_a_prediction_sees_neither_chain_of_thought_nor_label(world):
    built = model(world).train()
    batch = world.data.batch("train").take(torch.arange(300, 310))
    before = built(batch).aux[COT_AUX]
    assert before.mask_BK.all()
    built.bank_cot_ET = -2 * built.bank_cot_ET
    built.bank_label_E = 1 - built.bank_label_E
    assert torch.equal(built(batch).aux[COT_AUX].hidden_BKD, before.hidden_BKD)


def test_rows_without_examples_are_finite_forward_and_backward(world, batch):
    built = model(world).train()
    empty = dataclasses.replace(batch, example_BK=torch.full_like(batch.example_BK, -1))
    loss = built.loss(built(empty), empty.targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)
