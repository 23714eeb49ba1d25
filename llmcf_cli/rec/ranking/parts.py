"""What several backbones share: how a context feature comes in, and how an MLP joins what is explicit.

Legend: B batch, F fields, G fields with the context's, D embedding, C context, X input of an MLP, Y explicit features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from llmcf_cli.rec.config import DeepBackboneConfig
from llmcf_cli.rec.parts.embedding import FIRST_ORDER, FieldEmbeddings, FieldShape
from llmcf_cli.rec.parts.layers import MLP
from llmcf_cli.rec.ranking.base import RankingBackbone


class ContextField(nn.Module):
    """The context feature as one more field: v_{F+1} = f(W·context + b).

    Args:
        shape: Sizes of the other fields.
        context_dim: C; 0 leaves the fields as they are.
        activation: f; the identity if there is none.
    """

    def __init__(self, shape: FieldShape, context_dim: int, *activation: nn.Module) -> None:
        super().__init__()
        self.num_fields = shape.num_fields + (context_dim > 0)
        self.project = nn.Sequential(nn.Linear(context_dim, shape.embedding_dim), *activation) if context_dim else None

    def forward(self, fields_BFD: Tensor, context_BC: Tensor | None) -> Tensor:
        """[B, F, D] and [B, C] → [B, G, D], where G is F + 1, or F without a context."""
        if self.project is None:
            return fields_BFD
        return torch.cat([fields_BFD, self.project(context_BC)[:, None]], 1)


class FMBackbone(RankingBackbone):
    """logit = ⟨w, x⟩ + ⟨u, context⟩ + MLP(v_1 ⊕ … ⊕ v_F ⊕ context) + interactions, which a subclass defines."""

    reads = frozenset({FIRST_ORDER})

    def __init__(self, config: DeepBackboneConfig, shape: FieldShape, context_dim: int) -> None:
        super().__init__()
        self.mlp = MLP(shape.num_fields * shape.embedding_dim + context_dim, config.hidden, 1, config.dropout)
        self.context_weight = nn.Linear(context_dim, 1, bias=False) if context_dim else None

    def forward(self, fields: FieldEmbeddings, context_BC: Tensor | None) -> Tensor:
        """Logits [B]."""
        assert fields.first_order_B is not None, "`reads` names it"
        logit_B = fields.first_order_B + self.interactions(fields.fields_BFD, context_BC)
        deep_B1: Tensor
        if context_BC is None:
            deep_B1 = self.mlp(fields.flat_BX)
        else:
            assert self.context_weight is not None, "a context needs a `context_dim`"
            deep_B1 = self.mlp(torch.cat([fields.flat_BX, context_BC], 1)) + self.context_weight(context_BC)
        return logit_B + deep_B1[:, 0]

    @abstractmethod
    def interactions(self, fields_BFD: Tensor, context_BC: Tensor | None) -> Tensor:
        """What the interactions add to the logit, [B]."""


class Parallel(nn.Module):
    """⟨w, y⟩ + MLP(x): explicit features y of the input x and an MLP beside them.

    A linear layer over y ⊕ (the MLP's last hidden layer) is the same sum.

    Args:
        explicit: Size of y.
        width: Size of x.
        hidden: Widths of the MLP's hidden layers; without any there is no MLP, and the logit is ⟨w, y⟩ + b.
        dropout: Share of hidden units dropped in training.
    """

    def __init__(self, explicit: int, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(explicit, 1, bias=not hidden)
        self.mlp = MLP(width, hidden, 1, dropout) if hidden else None

    def forward(self, explicit_BY: Tensor, input_BX: Tensor) -> Tensor:
        """Logits [B]."""
        logit_B1: Tensor = self.linear(explicit_BY)
        if self.mlp is not None:
            logit_B1 = logit_B1 + self.mlp(input_BX)
        return logit_B1[:, 0]
