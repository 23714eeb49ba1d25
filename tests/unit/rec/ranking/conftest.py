"""Small inputs, and the building blocks of the references: plain loops over numbers, in double precision.

Legend: B batch, F fields, D embedding, L history, C context.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape
from llmcf_cli.rec.parts.layers import Dice

B, F, D, L, C = 6, 4, 3, 5, 2


@pytest.fixture
def fields():
    """A batch of double precision; one history is full, one empty, and padding is noise that no one may read."""
    torch.manual_seed(1)
    mask_BL = torch.tensor([[0] * (L - n) + [1] * n for n in (5, 3, 0, 1, 2, 4)], dtype=torch.bool)
    history_BLD = torch.randn(B, L, D).double()
    return FieldEmbeddings(
        torch.randn(B, F, D).double(), torch.randn(B, D).double(), history_BLD, mask_BL, torch.randn(B).double()
    )


@pytest.fixture(params=[0, C], ids=["plain", "context"])
def context(request):
    torch.manual_seed(2)
    return torch.randn(B, request.param).double() if request.param else None


@pytest.fixture
def build():
    """(backbone class, its settings, context) → a model in double precision, away from its initial weights."""

    def make(component, config, context=None):
        torch.manual_seed(3)
        width = 0 if context is None else context.shape[1]
        return randomise(component(config, FieldShape(F, D, L), width).double()).eval()

    return make


def randomise(module):
    for parameter in module.parameters():
        parameter.data = torch.randn_like(parameter) * 0.5
    for part in module.modules():
        if isinstance(part, Dice):
            part.norm.running_mean.normal_()
            part.norm.running_var.uniform_(0.5, 2)
    return module


class Loops:
    """References: lists of floats in, lists of floats out."""

    @staticmethod
    def linear(layer, x):
        bias = layer.bias.tolist() if layer.bias is not None else [0.0] * layer.out_features
        return [
            sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(layer.weight.tolist(), bias, strict=True)
        ]

    @classmethod
    def mlp(cls, layers, x):
        for layer in layers:
            if isinstance(layer, nn.Linear):
                x = cls.linear(layer, x)
            elif isinstance(layer, Dice):
                x = cls.dice(layer, x)
            elif isinstance(layer, nn.PReLU):
                x = [v if v > 0 else layer.weight.item() * v for v in x]
            else:
                assert isinstance(layer, nn.ReLU), layer
                x = [max(v, 0.0) for v in x]
        return x

    @staticmethod
    def dice(layer, x):
        """p(s)·s + (1 − p(s))·α·s by the running averages."""
        mean, var = layer.norm.running_mean.tolist(), layer.norm.running_var.tolist()
        out = []
        for s, m, v, a in zip(x, mean, var, layer.alpha_X.tolist(), strict=True):
            p = 1 / (1 + math.exp(-(s - m) / math.sqrt(v + 1e-8)))
            out.append(p * s + (1 - p) * a * s)
        return out

    @classmethod
    def fields(cls, model, fields, context, b, activation=lambda v: v):
        """The fields of row b, and last the projected context if there is one: lists of D numbers."""
        rows = fields.fields_BFD[b].tolist()
        if context is not None:
            rows.append([activation(v) for v in cls.linear(model.context_field.project[0], context[b].tolist())])
        return rows

    @classmethod
    def linear_deep(cls, model, fields, context, b):
        extra = [] if context is None else context[b].tolist()
        logit = fields.first_order_B[b].item() + cls.mlp(model.mlp, fields.flat_BX[b].tolist() + extra)[0]
        return logit + (cls.linear(model.context_weight, extra)[0] if extra else 0)

    @classmethod
    def parallel(cls, part, explicit, inputs):
        return cls.linear(part.linear, explicit)[0] + (cls.mlp(part.mlp, inputs)[0] if part.mlp is not None else 0)

    @staticmethod
    def flat(rows):
        return [v for row in rows for v in row]

    @staticmethod
    def softmax(x):
        powers = [math.exp(v) for v in x]
        return [p / sum(powers) for p in powers]

    @staticmethod
    def check(model, fields, context, reference):
        """The model's logits are those of `reference`, a function of the row's number."""
        np.testing.assert_allclose(
            model(fields, context).detach().numpy(), [reference(b) for b in range(B)], rtol=1e-9, atol=1e-9
        )

    @staticmethod
    def take(fields, rows):
        """Some rows of a batch."""
        return FieldEmbeddings(*(getattr(fields, f.name)[rows] for f in dataclasses.fields(fields)))


@pytest.fixture
def loops():
    return Loops
