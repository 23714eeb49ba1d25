"""Wide & Deep. Cheng et al.: Wide & Deep Learning for Recommender Systems, DLRS 2016.

Legend: B batch, C context.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmcf_cli.rec.parts.embedding import FIRST_ORDER, FieldEmbeddings, FieldShape
from llmcf_cli.rec.parts.layers import MLP
from llmcf_cli.rec.ranking.base import RankingBackbone
from llmcf_example_backbone.config import WideDeepConfig


class WideDeep(RankingBackbone):
    """logit = ⟨w, x⟩ + MLP(embeddings ⊕ context) (section 3.3, Eq. 3); the loss owns the sigmoid."""

    reads = frozenset({FIRST_ORDER})

    def __init__(self, config: WideDeepConfig, shape: FieldShape, context_dim: int) -> None:
        super().__init__()
        width = shape.num_fields * shape.embedding_dim + context_dim
        self.deep = MLP(width, config.hidden, 1, config.dropout)

    def forward(self, fields: FieldEmbeddings, context_BC: Tensor | None) -> Tensor:
        """Logits [B]."""
        inputs = [fields.flat_BX] if context_BC is None else [fields.flat_BX, context_BC]
        return fields.first_order_B + self.deep(torch.cat(inputs, 1))[:, 0]
