"""Mean pooling: over the examples there are, whatever their order."""

from __future__ import annotations

import dataclasses

import torch

from llmcf_cli.rec.config import DeepFMConfig, MeanConfig
from llmcf_cli.rec.model import RecModel


def observe(world, batch, **settings):
    """What the augmenter got, what it gave, and the augmenter."""
    model = RecModel(world.data.resources, DeepFMConfig(), MeanConfig(**settings), seed=3).eval()
    seen = []
    model.augmenter.register_forward_hook(lambda module, args, output: seen.append((args[0], output.context_BC)))
    model(batch)
    return *seen[0], model.augmenter


def test_the_context_is_that_of_the_mean_over_existing_examples(world):
    batch = world.data.batch("train", inputs=["examples"]).take(torch.tensor([0, 20, 60, 150, 250, 300]))
    counts = set((batch.inputs["examples"] >= 0).sum(1).tolist())
    assert {0, 4} < counts  # none, some, all
    for tokens in (("row", "cot", "label"), ("row", "label")):
        x, context_BC, augmenter = observe(world, batch, tokens=tokens)
        tokens_BSD, mask_BS, query_BD = augmenter.tokens(x)
        for tokens_SD, mask_S, query_D, found_C in zip(tokens_BSD, mask_BS, query_BD, context_BC, strict=True):
            kept = [token for token, exists in zip(tokens_SD, mask_S.tolist(), strict=True) if exists]
            mean_D = torch.stack(kept).mean(0) if kept else torch.zeros_like(query_D)
            torch.testing.assert_close(found_C, augmenter.mlp(torch.cat([query_D, mean_D])), rtol=1e-5, atol=1e-6)


def test_the_order_of_examples_does_not_matter_but_they_do(world):
    batch = world.data.batch("train", inputs=["examples"]).take(torch.arange(290, 300))
    assert (batch.inputs["examples"] >= 0).all()
    context_BC = observe(world, batch)[1]
    turned = dataclasses.replace(batch, inputs={"examples": batch.inputs["examples"].flip(1)})
    torch.testing.assert_close(observe(world, turned)[1], context_BC, rtol=1e-5, atol=1e-6)
    fewer = dataclasses.replace(
        batch, inputs={"examples": batch.inputs["examples"].masked_fill(torch.tensor([0, 0, 1, 1]).bool(), -1)}
    )
    assert ((observe(world, fewer)[1] - context_BC).abs().amax(1) > 1e-5).all()
