"""AutoInt. Song et al.: AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks, CIKM 2019.

Legend: B batch, G fields with the context's, D embedding, H heads, E head dimension, X width of a layer, C context.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.rec.config import AutoIntConfig
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape
from llmcf_cli.rec.ranking.base import RankingBackbone
from llmcf_cli.rec.ranking.parts import ContextField, Parallel


class AutoInt(RankingBackbone):
    """logit = ⟨w, e_1 ⊕ … ⊕ e_F⟩ (Eq. 9) + MLP(v_1 ⊕ … ⊕ v_F); the loss owns the sigmoid.

    e are the embeddings v after the interacting layers. With the MLP it is the paper's AutoInt+, with `hidden: []` its
    AutoInt. A context feature is one more field of both, through a projection.
    """

    def __init__(self, config: AutoIntConfig, shape: FieldShape, context_dim: int) -> None:
        super().__init__()
        self.context_field = ContextField(shape, context_dim)
        num_fields, width = self.context_field.num_fields, config.heads * config.head_dim
        inputs = [shape.embedding_dim] + [width] * (config.layers - 1)
        self.layers = nn.Sequential(
            *(InteractingLayer(dim, config.heads, config.head_dim, config.dropout) for dim in inputs)
        )
        self.out = Parallel(num_fields * width, num_fields * shape.embedding_dim, config.hidden, config.dropout)

    def forward(self, fields: FieldEmbeddings, context_BC: Tensor | None) -> Tensor:
        """Logits [B]."""
        fields_BGD = self.context_field(fields.fields_BFD, context_BC)
        logit_B: Tensor = self.out(self.layers(fields_BGD).flatten(1), fields_BGD.flatten(1))
        return logit_B


class InteractingLayer(nn.Module):
    """e_m ← ReLU(ẽ_m + W_Res e_m) (Eq. 8), where ẽ_m is what the heads mix from all fields (Eq. 7).

    A head mixes W_Value e_k (Eq. 6) by softmax_k ⟨W_Query e_m, W_Key e_k⟩ (Eq. 5): inner products as they are, not
    divided by √E.

    Args:
        dim: D.
        heads: H.
        head_dim: E.
        dropout: Share of attention weights dropped in training.
    """

    def __init__(self, dim: int, heads: int, head_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.project = nn.Linear(dim, 4 * heads * head_dim, bias=False)  # query, key, value, residual

    def forward(self, fields_BGD: Tensor) -> Tensor:
        """[B, G, D] → [B, G, H·E]."""
        query_BGX, key_BGX, value_BGX, residual_BGX = self.project(fields_BGD).chunk(4, -1)
        query_BHGE, key_BHGE, value_BHGE = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query_BGX, key_BGX, value_BGX)
        )
        mixed_BHGE = functional.scaled_dot_product_attention(
            query_BHGE,
            key_BHGE,
            value_BHGE,
            dropout_p=self.dropout if self.training else 0.0,
            scale=1.0,
        )
        return functional.relu(mixed_BHGE.transpose(1, 2).flatten(2) + residual_BGX)
