"""DCN V2.

Wang et al.: DCN V2: Improved Deep & Cross Network and Practical Lessons for Web-scale Learning to Rank Systems,
WWW 2021.

Legend: B batch, F fields, D embedding, X = F·D with the context's field, E experts, R and Q rank, Y = X, C context.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmcf_cli.rec.config import DCNv2Config
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape
from llmcf_cli.rec.parts.layers import MLP
from llmcf_cli.rec.ranking.base import RankingBackbone
from llmcf_cli.rec.ranking.parts import ContextField, Parallel


class DCNv2(RankingBackbone):
    """Cross network of low-rank experts with an MLP beside it or behind it; the loss owns the sigmoid.

    `parallel`: logit = ⟨w, x_L⟩ + MLP(x_0); `stacked`: logit = MLP(x_L), where x_0 = v_1 ⊕ … ⊕ v_F. A context feature
    is one more field, through a projection.
    """

    def __init__(self, config: DCNv2Config, shape: FieldShape, context_dim: int) -> None:
        super().__init__()
        self.context_field = ContextField(shape, context_dim)
        width = self.context_field.num_fields * shape.embedding_dim
        layers = range(config.cross_layers)
        self.cross = nn.ModuleList(LowRankCross(width, config.experts, config.rank) for _ in layers)
        self.out = {"parallel": Parallel, "stacked": Stacked}[config.structure](
            width, width, config.hidden, config.dropout
        )

    def forward(self, fields: FieldEmbeddings, context_BC: Tensor | None) -> Tensor:
        """Logits [B]."""
        input_BX = self.context_field(fields.fields_BFD, context_BC).flatten(1)
        x_BX = input_BX
        for layer in self.cross:
            x_BX = layer(input_BX, x_BX)
        logit_B: Tensor = self.out(x_BX, input_BX)
        return logit_B


class LowRankCross(nn.Module):
    """x_{l+1} = Σ_i G_i(x_l) E_i(x_l) + x_l, E_i(x_l) = x_0 ⊙ (U_i g(C_i g(V_iᵀ x_l)) + b) (Eqs. 3 and 4).

    g is tanh. The gates G are a softmax, so they sum to 1: x_0 and b leave the sum, and what is left of it is one
    product of all U side by side with all gated low-rank vectors.

    Args:
        width: X.
        experts: E; with one, its gate is always 1.
        rank: R.
    """

    def __init__(self, width: int, experts: int, rank: int) -> None:
        super().__init__()
        bound = rank**-0.5
        self.gate = nn.Linear(width, experts, bias=False)
        self.down = nn.Linear(width, experts * rank, bias=False)  # Vᵀ
        self.mix_EQR = nn.Parameter(torch.empty(experts, rank, rank).uniform_(-bound, bound))  # C
        self.up = nn.Linear(experts * rank, width)  # U and b

    def forward(self, input_BX: Tensor, x_BX: Tensor) -> Tensor:
        """x_0 and x_l → x_{l+1}, all [B, X]."""
        low_BER = torch.tanh(self.down(x_BX)).unflatten(1, self.mix_EQR.shape[:2])
        low_BEQ = torch.tanh(torch.einsum("ber,eqr->beq", low_BER, self.mix_EQR))
        gate_BE = self.gate(x_BX).softmax(1)
        mixed_BX: Tensor = self.up((gate_BE[..., None] * low_BEQ).flatten(1))
        return input_BX * mixed_BX + x_BX


class Stacked(nn.Module):
    """MLP(y): the MLP reads the explicit features y instead of the input.

    Args:
        explicit: Size of y.
        width: Size of the input, which only `Parallel` reads.
        hidden: Widths of hidden layers.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(self, explicit: int, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.mlp = MLP(explicit, hidden, 1, dropout)

    def forward(self, explicit_BY: Tensor, input_BX: Tensor) -> Tensor:
        """Logits [B]."""
        logit_B: Tensor = self.mlp(explicit_BY)[:, 0]
        return logit_B
