"""Dice against its equation."""

from __future__ import annotations

import torch

from llmcf_cli.rec.layers import Dice


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
