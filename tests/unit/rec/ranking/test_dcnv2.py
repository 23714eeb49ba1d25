"""DCN V2 and its cross layer of low-rank experts against their equations, written as loops."""

from __future__ import annotations

import math

import pytest
import torch

from llmcf_cli.rec.config import DCNv2Config
from llmcf_cli.rec.ranking.dcnv2 import DCNv2, LowRankCross


def product(matrix, x):
    return [sum(m * v for m, v in zip(row, x, strict=True)) for row in matrix]


def cross(layer, loops, x0, x):
    """Eqs. 3 and 4, expert by expert, each with x_0 and b inside the sum."""
    experts, rank, _ = layer.mix_EQR.shape
    gates = loops.softmax(loops.linear(layer.gate, x))
    out = list(x)
    for i in range(experts):
        at = slice(i * rank, (i + 1) * rank)
        low = [math.tanh(v) for v in product(layer.down.weight[at].tolist(), x)]
        low = [math.tanh(v) for v in product(layer.mix_EQR[i].tolist(), low)]
        high = product(layer.up.weight[:, at].tolist(), low)
        for n, b in enumerate(layer.up.bias.tolist()):
            out[n] += gates[i] * x0[n] * (high[n] + b)
    return out


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
@pytest.mark.parametrize(("layers", "experts", "rank"), [(1, 1, 2), (2, 3, 2), (3, 2, 4)])
def test_experts_cross_the_fields(build, loops, fields, context, structure, layers, experts, rank):
    config = DCNv2Config(hidden=(7, 5), structure=structure, cross_layers=layers, experts=experts, rank=rank)
    model = build(DCNv2, config, context)
    assert len(model.cross) == layers

    def reference(b):
        x = x0 = loops.flat(loops.fields(model, fields, context, b))
        for layer in model.cross:
            x = cross(layer, loops, x0, x)
        return loops.parallel(model.out, x, x0) if structure == "parallel" else loops.mlp(model.out.mlp, x)[0]

    loops.check(model, fields, context, reference)


def test_the_gate_decides_which_expert_speaks(fields):
    torch.manual_seed(0)
    x = fields.flat_BX
    both, alone = LowRankCross(x.shape[1], 2, 3).double(), LowRankCross(x.shape[1], 1, 3).double()
    # The first expert wins by far at this row, the second at its opposite.
    both.gate.weight.data = torch.stack([x[0], -x[0]]) * 1e3
    alone.load_state_dict(
        {
            "gate.weight": both.gate.weight[:1], "down.weight": both.down.weight[:3], "mix_EQR": both.mix_EQR[:1],
            "up.weight": both.up.weight[:, :3], "up.bias": both.up.bias,
        }
    )  # fmt: skip
    torch.testing.assert_close(both(x[:1], x[:1]), alone(x[:1], x[:1]))
    assert not torch.allclose(both(-x[:1], -x[:1]), alone(-x[:1], -x[:1]))
