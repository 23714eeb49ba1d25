"""xDeepFM.

Lian et al.: xDeepFM: Combining Explicit and Implicit Feature Interactions for Recommender Systems, KDD 2018.

Legend: B batch, F fields, D embedding, H feature maps of a layer, Y feature maps of all layers, X pairs, C context.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmcf_cli.rec.config import XDeepFMConfig
from llmcf_cli.rec.parts.embedding import FieldShape
from llmcf_cli.rec.ranking.parts import ContextField, FMBackbone


class XDeepFM(FMBackbone):
    """logit = ⟨w_linear, x⟩ + MLP(v_1 ⊕ … ⊕ v_F) + ⟨w_cin, p⁺⟩ (Eq. 9); the loss owns the sigmoid.

    p⁺ = CIN(v_1, …, v_F) shares the embeddings v with the MLP. A context feature joins all three: one more field of the
    CIN through a projection, the MLP's input, and the linear term through weights of its own.
    """

    def __init__(self, config: XDeepFMConfig, shape: FieldShape, context_dim: int) -> None:
        super().__init__(config, shape, context_dim)
        self.context_field = ContextField(shape, context_dim)
        self.cin = CIN(self.context_field.num_fields, config.cin_maps)
        self.cin_weight = nn.Linear(sum(config.cin_maps), 1, bias=False)

    def interactions(self, fields_BFD: Tensor, context_BC: Tensor | None) -> Tensor:
        """⟨w_cin, p⁺⟩, [B]."""
        logit_B: Tensor = self.cin_weight(self.cin(self.context_field(fields_BFD, context_BC)))[:, 0]
        return logit_B


class CIN(nn.Module):
    """Compressed interaction network: p⁺ = p¹ ⊕ … ⊕ pᵀ, p^k_h = Σ_d X^k_hd (Eq. 7).

    X^k_h = Σ_{i,j} W^k_hij (X^{k−1}_i ∘ X⁰_j), where X⁰ holds the fields (Eq. 6): layer k makes interactions of k + 1
    fields. Without an activation, as the paper found best.

    A layer holds B·H·F·D numbers, all pairs of the H maps below with F fields, and compresses them by one matrix
    product. The last layer is read only through its sum over d, which goes before the product: B·H·F.

    Args:
        num_fields: F.
        maps: Feature maps of each layer.
    """

    def __init__(self, num_fields: int, maps: Sequence[int]) -> None:
        super().__init__()
        below = (num_fields, *maps[:-1])
        layers = zip(below, maps, strict=True)
        self.layers = nn.ModuleList(nn.Linear(width * num_fields, size, bias=False) for width, size in layers)

    def forward(self, fields_BFD: Tensor) -> Tensor:
        """[B, F, D] → [B, Y]."""
        fields_BDF = fields_BFD.mT.contiguous()
        maps_BDH, pooled = fields_BDF, []
        *inner, last = self.layers
        for layer in inner:
            maps_BDH = layer((maps_BDH[..., None] * fields_BDF[..., None, :]).flatten(2))
            pooled.append(maps_BDH.sum(1))
        summed_BX = (maps_BDH.mT @ fields_BDF).flatten(1)
        return torch.cat([*pooled, last(summed_BX)], 1)
