"""Layers against their equations."""

from __future__ import annotations

import torch

from llmcf_cli.rec.parts.layers import Dice, rotary, rotate


def dice_and_input():
    torch.manual_seed(0)
    dice, x = Dice(3), torch.randn(50, 3) * 2 + 1
    dice.alpha_X.data = torch.tensor([0.1, -0.2, 0.3])
    return dice, x


def test_dice_normalises_by_the_batch_in_training():
    dice, x = dice_and_input()
    gate = torch.sigmoid((x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-8).sqrt())
    torch.testing.assert_close(dice(x), gate * x + (1 - gate) * dice.alpha_X * x)


def test_dice_normalises_by_running_averages_in_evaluation():
    dice, x = dice_and_input()
    for _ in range(200):
        dice(x)
    dice.eval()
    gate = torch.sigmoid((x[:1] - x.mean(0)) / x.var(0).sqrt())
    torch.testing.assert_close(dice(x[:1]), gate * x[:1] + (1 - gate) * dice.alpha_X * x[:1])


def test_rotated_products_depend_on_the_distance_alone():
    torch.manual_seed(0)
    query_HE, key_HE = torch.randn(2, 8), torch.randn(2, 8)
    turned = [rotate(x_HE.expand(1, 9, 2, 8), rotary(9, 8)) for x_HE in (query_HE, key_HE)]
    product_SSH = torch.einsum("bqhe,bshe->qsh", *turned)
    for distance in (0, 3):
        along_SH = torch.stack([product_SSH[s, s + distance] for s in range(9 - distance)])
        torch.testing.assert_close(along_SH, along_SH[:1].expand_as(along_SH))
    torch.testing.assert_close(product_SSH[4, 4], (query_HE * key_HE).sum(1))
    assert (product_SSH[0, 3] - product_SSH[0, 0]).abs().min() > 1e-3
    angle = torch.tensor(3.0)  # of the first pair at position 3
    expected = torch.stack([query_HE[:, 0] * angle.cos() - query_HE[:, 1] * angle.sin(),
                            query_HE[:, 0] * angle.sin() + query_HE[:, 1] * angle.cos()], 1)  # fmt: skip
    torch.testing.assert_close(turned[0][0, 3, :, :2], expected)
