"""xDeepFM and its CIN against their equations, written as loops."""

from __future__ import annotations

import pytest
import torch

from llmcf_cli.rec.config import XDeepFMConfig
from llmcf_cli.rec.ranking.xdeepfm import CIN, XDeepFM


def cin(module, v):
    """Eqs. 6 and 7, one number at a time."""
    below, pooled = v, []
    for layer in module.layers:
        weights = layer.weight.tolist()
        maps = [
            [
                sum(row[i * len(v) + j] * below[i][d] * v[j][d] for i in range(len(below)) for j in range(len(v)))
                for d in range(len(v[0]))
            ]
            for row in weights
        ]
        pooled += [sum(one) for one in maps]
        below = maps
    return pooled


@pytest.mark.parametrize("maps", [(5,), (5, 2), (2, 4, 3)])
def test_it_adds_linear_term_cin_and_mlp(build, loops, fields, context, maps):
    model = build(XDeepFM, XDeepFMConfig(hidden=(7, 5), cin_maps=maps), context)

    def reference(b):
        pooled = cin(model.cin, loops.fields(model, fields, context, b))
        return loops.linear_deep(model, fields, context, b) + loops.linear(model.cin_weight, pooled)[0]

    loops.check(model, fields, context, reference)


def test_layer_k_makes_interactions_of_k_plus_one_fields(fields):
    module = CIN(fields.fields_BFD.shape[1], (5, 4, 3)).double()
    once, twice = module(fields.fields_BFD), module(2 * fields.fields_BFD)
    degree = torch.tensor([2.0**2] * 5 + [2.0**3] * 4 + [2.0**4] * 3)
    torch.testing.assert_close(twice, once * degree)
