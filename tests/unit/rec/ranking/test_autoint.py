"""AutoInt against its equations, written as loops."""

from __future__ import annotations

import pytest
import torch

from llmcf_cli.rec.config import AutoIntConfig
from llmcf_cli.rec.ranking.autoint import AutoInt, InteractingLayer


def interact(layer, loops, e):
    """Eqs. 5 to 8, field by field and head by head."""
    width = layer.project.out_features // 4
    size = width // layer.heads
    parts = [loops.linear(layer.project, one) for one in e]
    query, key, value, residual = ([p[n * width : (n + 1) * width] for p in parts] for n in range(4))
    out = []
    for m in range(len(e)):
        mixed = []
        for h in range(layer.heads):
            at = slice(h * size, (h + 1) * size)
            score = [sum(q * k for q, k in zip(query[m][at], other[at], strict=True)) for other in key]
            share = loops.softmax(score)
            mixed += [sum(a * v[d] for a, v in zip(share, value, strict=True)) for d in range(at.start, at.stop)]
        out.append([max(x + r, 0.0) for x, r in zip(mixed, residual[m], strict=True)])
    return out


@pytest.mark.parametrize("hidden", [(), (7, 5)], ids=["autoint", "autoint+"])
@pytest.mark.parametrize(("layers", "heads", "head_dim"), [(1, 1, 4), (2, 2, 3), (3, 3, 1)])
def test_fields_attend_to_fields(build, loops, fields, context, hidden, layers, heads, head_dim):
    config = AutoIntConfig(hidden=hidden, layers=layers, heads=heads, head_dim=head_dim)
    model = build(AutoInt, config, context)
    assert len(model.layers) == layers

    def reference(b):
        e = v = loops.fields(model, fields, context, b)
        for layer in model.layers:
            e = interact(layer, loops, e)
        return loops.parallel(model.out, loops.flat(e), loops.flat(v))

    loops.check(model, fields, context, reference)


def test_without_an_mlp_the_logit_keeps_its_bias(build, fields):
    assert build(AutoInt, AutoIntConfig(hidden=())).out.linear.bias is not None
    assert build(AutoInt, AutoIntConfig()).out.linear.bias is None  # the MLP has one


def test_attention_is_dropped_in_training_only(fields):
    torch.manual_seed(0)
    layer = InteractingLayer(fields.fields_BFD.shape[2], 2, 4, 0.5).double()
    first, second = layer(fields.fields_BFD), layer(fields.fields_BFD)
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(fields.fields_BFD), layer(fields.fields_BFD))
