"""What a ranking backbone is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from llmcf_cli.plugin import Kind
from llmcf_cli.rec.parts.embedding import FieldEmbeddings


class RankingBackbone(nn.Module, ABC):
    """Field embeddings and a context feature → logits. Built as `Class(config, shape, context_dim)`.

    `shape` is a `rec.embedding.FieldShape`; `context_dim` is 0 for a plain backbone.
    """

    reads: ClassVar[frozenset[str]] = frozenset()
    """What it needs beyond the embeddings: `first_order` (a scalar weight per feature value)."""

    @abstractmethod
    def forward(self, fields: FieldEmbeddings, context_BC: Tensor | None) -> Tensor:
        """Logits [B]. `context_BC` is None exactly if `context_dim` is 0."""


BACKBONE: Kind[RankingBackbone] = Kind("backbone")
