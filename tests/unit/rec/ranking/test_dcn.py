"""DCN and its cross network against their equations, written as loops."""

from __future__ import annotations

import math

import pytest
import torch

from llmcf_cli.rec.config import DCNConfig
from llmcf_cli.rec.ranking.dcn import DCN, CrossNetwork


def gelu(v):
    return 0.5 * v * (1 + math.erf(v / math.sqrt(2)))


def cross(module, x0):
    """Eq. 3 with the outer product x_0 x_lᵀ written out."""
    x = x0
    for w, b in zip(module.weight_LX.tolist(), module.bias_LX.tolist(), strict=True):
        outer = [[p * q for q in x] for p in x0]
        x = [sum(o * v for o, v in zip(row, w, strict=True)) + c + y for row, c, y in zip(outer, b, x, strict=True)]
    return x


@pytest.mark.parametrize("layers", [1, 3])
def test_cross_network_and_mlp_stand_side_by_side(build, loops, fields, context, layers):
    model = build(DCN, DCNConfig(hidden=(7, 5), cross_layers=layers), context)

    def reference(b):
        x0 = loops.flat(loops.fields(model, fields, context, b, gelu))
        return loops.parallel(model.out, cross(model.cross, x0), x0)

    loops.check(model, fields, context, reference)


def test_a_layer_raises_the_degree_by_one(fields):
    """Without biases, x_l has degree l + 1 in x_0: its differences of order l + 2 vanish, of order l + 1 not."""
    torch.manual_seed(0)
    x = fields.flat_BX
    for layers in (1, 2, 3):
        module = CrossNetwork(x.shape[1], layers).double()
        values = torch.stack([module(t * x) for t in range(layers + 3)])
        assert values.diff(n=layers + 2, dim=0).abs().max() < 1e-9
        assert values.diff(n=layers + 1, dim=0).abs().max() > 1e-3
