"""Operations with backward passes of their own, where torch's are slow on CPUs at the sizes of a recommender.

Over a dozen tokens of a few dozen numbers, time goes to passes over memory rather than to products. The tests check
every gradient against finite differences. Together they gain 2 to 8 % of a step with `ict` (docs/benchmarks.md);
torch's own operations round otherwise, so taking them instead moves every number of an arm with a decoder.

Legend: N rows, D model, I inner width, B batch, H heads, R read positions, S sequence, E head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable


def unit_rms(x_ND: Tensor, eps: float) -> Tensor:
    """u = x / √(mean(x²) + ε) over the last dimension; any shape [..., D]."""
    return _apply(_UnitRMS, x_ND, eps)


def swiglu(x_ND: Tensor, gate_ID: Tensor, up_ID: Tensor) -> Tensor:
    """silu(W_gate x) ⊙ (W_up x), [N, D] → [N, I] (Shazeer, 2020, Eq. 6)."""
    return _apply(_SwiGLU, x_ND, gate_ID, up_ID)


def attend(query_BHRE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, bias_BRS: Tensor) -> Tensor:
    """softmax(q·k/√E + bias)·v, [B, H, R, E]. Some bias of each query must be finite; biases get no gradient."""
    return _apply(_Attend, query_BHRE, key_BHSE, value_BHSE, bias_BRS)


def _apply(function: type[Function], *given: Tensor | float) -> Tensor:
    # Without gradients, autograd would be half of the time of a small batch.
    out: Tensor = function.apply(*given) if torch.is_grad_enabled() else function.forward(_NO_CONTEXT, *given)
    return out


class _NoContext:
    """What `forward` needs of a context that keeps nothing."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep nothing."""


_NO_CONTEXT = _NoContext()


class _UnitRMS(Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, eps: float) -> Tensor:
        norm_N1 = torch.linalg.vector_norm(x_ND, dim=-1, keepdim=True)
        scale_N1 = norm_N1.square_().div_(x_ND.shape[-1]).add_(eps).rsqrt_()
        unit_ND: Tensor = x_ND * scale_N1
        ctx.save_for_backward(unit_ND, scale_N1)
        return unit_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None]:
        """∂x = s·(g − u·mean(g ⊙ u)), where u = s·x."""
        unit_ND, scale_N1 = ctx.saved_tensors
        along_N1 = (grad_ND * unit_ND).mean(-1, keepdim=True)
        return torch.addcmul(grad_ND, unit_ND, along_N1, value=-1).mul_(scale_N1), None


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, gate_ID: Tensor, up_ID: Tensor) -> Tensor:
        gate_NI, up_NI = x_ND @ gate_ID.mT, x_ND @ up_ID.mT
        sigmoid_NI = torch.sigmoid(gate_NI)
        ctx.save_for_backward(x_ND, gate_ID, up_ID, gate_NI, up_NI, sigmoid_NI)
        return (gate_NI * sigmoid_NI).mul_(up_NI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_NI: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """With silu(a) = a·σ and silu'(a) = σ + σ·a·(1 − σ)."""
        x_ND, gate_ID, up_ID, gate_NI, up_NI, sigmoid_NI = ctx.saved_tensors
        slope_NI = (1 - sigmoid_NI).mul_(gate_NI)
        slope_NI = torch.addcmul(sigmoid_NI, sigmoid_NI, slope_NI, out=slope_NI)
        gate_grad_NI = slope_NI.mul_(up_NI).mul_(grad_NI)
        up_grad_NI = (gate_NI * sigmoid_NI).mul_(grad_NI)
        x_grad_ND = (gate_grad_NI @ gate_ID).addmm_(up_grad_NI, up_ID)
        return x_grad_ND, gate_grad_NI.mT @ x_ND, up_grad_NI.mT @ x_ND


class _Attend(Function):
    @staticmethod
    def forward(ctx: Any, query_BHRE: Tensor, key_BHSE: Tensor, value_BHSE: Tensor, bias_BRS: Tensor) -> Tensor:
        query_BHRE = query_BHRE * query_BHRE.shape[-1] ** -0.5
        weight_BHRS = (query_BHRE @ key_BHSE.mT).add_(bias_BRS[:, None])
        weight_BHRS.sub_(weight_BHRS.amax(-1, keepdim=True)).exp_()
        weight_BHRS.div_(weight_BHRS.sum(-1, keepdim=True))
        mixed_BHRE = weight_BHRS @ value_BHSE
        ctx.save_for_backward(query_BHRE, key_BHSE, value_BHSE, weight_BHRS, mixed_BHRE)
        return mixed_BHRE

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BHRE: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """∂score = w ⊙ (g·vᵀ − ⟨g, mixed⟩)."""
        query_BHRE, key_BHSE, value_BHSE, weight_BHRS, mixed_BHRE = ctx.saved_tensors
        along_BHR1 = (grad_BHRE * mixed_BHRE).sum(-1, keepdim=True)
        score_BHRS = (grad_BHRE @ value_BHSE.mT).sub_(along_BHR1).mul_(weight_BHRS)
        query_grad_BHRE = (score_BHRS @ key_BHSE).mul_(query_BHRE.shape[-1] ** -0.5)
        return query_grad_BHRE, score_BHRS.mT @ query_BHRE, weight_BHRS.mT @ grad_BHRE, None
