"""DCN. Wang, Fu, Fu, Wang: Deep & Cross Network for Ad Click Predictions, ADKDD 2017.

Legend: B batch, F fields, D embedding, X = F·D with the context's field, L layers, C context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcf_cli.rec.config import DCNConfig
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape
from llmcf_cli.rec.ranking.base import RankingBackbone
from llmcf_cli.rec.ranking.parts import ContextField, Parallel


class DCN(RankingBackbone):
    """logit = ⟨w, x_L ⊕ h⟩ (Eq. 5): cross network and MLP side by side; the loss owns the sigmoid.

    x_0 = v_1 ⊕ … ⊕ v_F (Eq. 2), x_L is the cross network's output (Eq. 3) and h the MLP's last hidden layer (Eq. 4). A
    context feature is one more field, GELU(W·context + b).
    """

    def __init__(self, config: DCNConfig, shape: FieldShape, context_dim: int) -> None:
        super().__init__()
        self.context_field = ContextField(shape, context_dim, nn.GELU())
        width = self.context_field.num_fields * shape.embedding_dim
        self.cross = CrossNetwork(width, config.cross_layers)
        self.out = Parallel(width, width, config.hidden, config.dropout)

    def forward(self, fields: FieldEmbeddings, context_BC: Tensor | None) -> Tensor:
        """Logits [B]."""
        input_BX = self.context_field(fields.fields_BFD, context_BC).flatten(1)
        logit_B: Tensor = self.out(self.cross(input_BX), input_BX)
        return logit_B


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 ⟨x_l, w_l⟩ + b_l + x_l (Eq. 3): each layer raises the degree in x_0 by one.

    Args:
        width: X.
        layers: L.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        bound = width**-0.5
        self.weight_LX = nn.Parameter(torch.empty(layers, width).uniform_(-bound, bound))
        self.bias_LX = nn.Parameter(torch.zeros(layers, width))

    def forward(self, input_BX: Tensor) -> Tensor:
        """x_0 [B, X] → x_L [B, X]."""
        x_BX = input_BX
        for weight_X, bias_X in zip(self.weight_LX, self.bias_LX, strict=True):
            x_BX = input_BX * (x_BX @ weight_X)[:, None] + bias_X + x_BX
        return x_BX
