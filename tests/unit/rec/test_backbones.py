"""DeepFM and DIN against their equations, written as loops."""

from __future__ import annotations

import pytest
import torch

from llmcf_cli.rec.config import DeepFMConfig, DINConfig
from llmcf_cli.rec.embedding import FieldEmbeddings, FieldShape
from llmcf_cli.rec.layers import Dice
from llmcf_cli.rec.ranking.deepfm import DeepFM, pairwise
from llmcf_cli.rec.ranking.din import DIN

B, F, D, L, C = 6, 4, 3, 5, 2


def fields():
    torch.manual_seed(1)
    mask = torch.tensor([[0] * (L - n) + [1] * n for n in (5, 3, 0, 1, 2, 4)], dtype=torch.bool)
    return FieldEmbeddings(
        torch.randn(B, F, D), torch.randn(B, D), torch.randn(B, L, D) * mask[..., None], mask, torch.randn(B)
    )


def test_pairwise_is_the_sum_over_pairs():
    x = fields().fields_BFD
    expected = [sum(x[b, i] @ x[b, j] for i in range(F) for j in range(i + 1, F)) for b in range(B)]
    torch.testing.assert_close(pairwise(x), torch.stack(expected))


@pytest.mark.parametrize("context", [None, torch.randn(B, C)])
def test_deepfm_adds_linear_pairs_and_mlp(context):
    torch.manual_seed(2)
    model, x = DeepFM(DeepFMConfig(hidden=(7,)), FieldShape(F, D, L), 0 if context is None else C), fields()
    inputs = x.flat_BX if context is None else torch.cat([x.flat_BX, context], 1)
    first, second = model.mlp[0], model.mlp[2]
    deep = (torch.relu(inputs @ first.weight.T + first.bias) @ second.weight.T + second.bias)[:, 0]
    expected = x.first_order_B + pairwise(x.fields_BFD) + deep
    if context is not None:
        expected = expected + context @ model.context_weight.weight[0]
    torch.testing.assert_close(model(x, context), expected)


@pytest.mark.parametrize("attention", ["sum", "softmax"])
@pytest.mark.parametrize("activation", ["dice", "prelu"])
def test_din_attends_as_the_loop_does(attention, activation):
    torch.manual_seed(3)
    config = DINConfig(hidden=(7,), attention_hidden=(4,), attention=attention, activation=activation)
    model, x = DIN(config, FieldShape(F, D, L), 0).eval(), fields()
    found = model.interest(x.target_BD, x.history_BLD, x.history_mask_BL)
    for b in range(B):
        events = [x.history_BLD[b, j] for j in range(L) if x.history_mask_BL[b, j]]
        target = x.target_BD[b]
        weights = [model.unit(torch.cat([e, target, e - target, e * target])[None])[0, 0] for e in events]
        if attention == "softmax" and weights:
            weights = torch.stack(weights).softmax(0)
        expected = sum((w * e for w, e in zip(weights, events, strict=True)), torch.zeros(D))
        torch.testing.assert_close(found[b], expected, rtol=1e-5, atol=1e-6)


def test_dins_interest_takes_the_place_of_the_pooled_history():
    torch.manual_seed(3)
    model, x = DIN(DINConfig(), FieldShape(F, D, L), 0).eval(), fields()
    before = model(x, None)
    x.fields_BFD[:, -1] += 1
    assert torch.equal(model(x, None), before)
    x.fields_BFD[:, 0] += 1
    assert not torch.equal(model(x, None), before)


def test_din_survives_a_batch_without_history_and_a_single_row():
    model, x = DIN(DINConfig(), FieldShape(F, D, L), 0).train(), fields()
    empty = FieldEmbeddings(x.fields_BFD, x.target_BD, x.history_BLD * 0, torch.zeros(B, L, dtype=torch.bool))
    logits = model(empty, None)
    logits.sum().backward()
    assert torch.isfinite(logits).all()
    # Every parameter takes part, as training over several processes requires.
    assert all(p.grad is not None for p in model.parameters())
    one = FieldEmbeddings(*(t[:1] for t in (x.fields_BFD, x.target_BD, x.history_BLD, x.history_mask_BL)))
    assert torch.isfinite(model(one, None)).all()


def test_dice_follows_its_equation():
    torch.manual_seed(0)
    dice, x = Dice(3), torch.randn(50, 3) * 2 + 1
    dice.alpha_X.data = torch.tensor([0.1, -0.2, 0.3])
    gate = torch.sigmoid((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-8).sqrt())
    torch.testing.assert_close(dice(x), gate * x + (1 - gate) * dice.alpha_X * x)
