"""Operations with hand-written gradients: their values against torch's own, their gradients against differences."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from llmcf_cli.rec.parts.kernels import attend, swiglu, unit_rms


def numbers(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def bias_BRS():
    allowed = torch.rand(2, 3, 5) > 0.4
    allowed[..., 0] = True
    return torch.where(allowed, 0.0, -torch.inf).double()


def test_values_are_those_of_torch(bias_BRS):
    x, gate, up = numbers(4, 6), numbers(8, 6), numbers(8, 6)
    torch.testing.assert_close(unit_rms(x, 1e-6), functional.rms_norm(x, (6,), eps=1e-6))
    torch.testing.assert_close(swiglu(x, gate, up), functional.silu(x @ gate.T) * (x @ up.T))
    query, key, value = numbers(2, 2, 3, 4), numbers(2, 2, 5, 4), numbers(2, 2, 5, 4)
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias_BRS[:, None])
    torch.testing.assert_close(attend(query, key, value, bias_BRS), expected)


def test_attention_survives_scores_of_any_size(bias_BRS):
    query, key, value = (1e3 * numbers(2, 2, n, 4).float() for n in (3, 5, 5))
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias_BRS[:, None].float())
    torch.testing.assert_close(attend(query, key, value, bias_BRS.float()), expected)


def test_gradients_are_those_of_finite_differences(bias_BRS):
    assert torch.autograd.gradcheck(unit_rms, (numbers(4, 6), 1e-6))
    assert torch.autograd.gradcheck(swiglu, (numbers(4, 6), numbers(8, 6), numbers(8, 6)))
    attention = (numbers(2, 2, 3, 4), numbers(2, 2, 5, 4), numbers(2, 2, 5, 4), bias_BRS)
    assert torch.autograd.gradcheck(attend, attention)
