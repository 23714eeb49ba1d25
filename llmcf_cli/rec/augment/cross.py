"""Cross-attention: the target asks its examples, which do not read each other.

Legend: B batch, K examples of a row, P tokens per example, S = P·K, D model, H heads, E head dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.rec.augment.base import (
    COT_AUX,
    Augmentation,
    Augmenter,
    AugmentInput,
    AugmentShape,
    CoTPrediction,
)
from llmcf_cli.rec.augment.tokens import ExampleTokens
from llmcf_cli.rec.config import CrossConfig
from llmcf_cli.rec.kernels import attend, swiglu
from llmcf_cli.rec.layers import RMSNorm


class CrossAugmenter(Augmenter):
    """Layers of multi-head attention from x to the examples: keys of x_k, values of (x_k, cot_k, y_k).

    The tokens are those of `ExampleTokens`, so what it lacks beside the transformer is that examples read each other and
    have an order: only the query passes through the layers, at a small part of the cost. Where an objective wants it,
    W·h predicts the vector of cot_k from x_k alone.

    Args:
        config: Sizes, and which tokens an example has; the first of them makes the keys.
        shape: Sizes of what is read.

    Raises:
        ModelError: There are no text vectors or no examples.
    """

    def __init__(self, config: CrossConfig, shape: AugmentShape) -> None:
        super().__init__()
        self.context_dim = config.dim
        self.tokens = ExampleTokens(config, shape)
        self.examples_norm, self.norm = RMSNorm(config.dim), RMSNorm(config.dim)
        sizes = config.heads, config.dim, len(config.tokens) * config.dim
        self.layers = nn.ModuleList(CrossLayer(*sizes, config.dropout) for _ in range(config.layers))
        predicts = {"row", "cot"} <= set(config.tokens) and COT_AUX in shape.wanted
        self.cot_head = nn.Linear(config.dim, shape.cot_dim, bias=False) if predicts else None

    def forward(self, x: AugmentInput) -> Augmentation:
        """Context [B, D]; in training also the predictions of chains of thought, if an objective wants them."""
        tokens_BSD, mask_BS, x_BD = self.tokens(x)
        tokens_BSD = self.examples_norm(tokens_BSD) * mask_BS[..., None]
        tokens_BKPD = tokens_BSD.unflatten(1, (-1, len(self.tokens.kinds)))
        first_BKD, whole_BKX = tokens_BKPD[:, :, 0], tokens_BKPD.flatten(2)
        # Besides the examples there is always nothing to attend to: a key and a value of zeros.
        bias_BRS = torch.where(functional.pad(x.examples.mask_BK, (0, 1), value=True), 0.0, -torch.inf)[:, None]
        for layer in self.layers:
            x_BD = layer(x_BD, first_BKD, whole_BKX, bias_BRS)
        context_BD = self.norm(x_BD)
        if self.cot_head is None or not self.training:
            return Augmentation(context_BD)
        examples = x.examples
        prediction = CoTPrediction(
            first_BKD, self.cot_head.weight, examples.cot_UT, examples.slot_BK, examples.cot_mask_BK
        )
        return Augmentation(context_BD, {COT_AUX: prediction})


class CrossLayer(nn.Module):
    """x + Attention(RMSNorm(x), examples), then x + SwiGLU(RMSNorm(x)); no biases.

    Args:
        heads: H.
        dim: D, a multiple of H.
        width: Numbers that a value is made of.
        dropout: Share dropped after attention and feed-forward in training.
    """

    def __init__(self, heads: int, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = RMSNorm(dim), RMSNorm(dim)
        self.query, self.key = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.value, self.out = nn.Linear(width, dim, bias=False), nn.Linear(dim, dim, bias=False)
        inner = -(-8 * dim // 3 // 8) * 8
        self.gate, self.up = nn.Linear(dim, inner, bias=False), nn.Linear(dim, inner, bias=False)
        self.down = nn.Linear(inner, dim, bias=False)

    def forward(self, x_BD: Tensor, first_BKD: Tensor, whole_BKX: Tensor, bias_BRS: Tensor) -> Tensor:
        """[B, D] → [B, D]; the bias is of the K examples and of nothing, 0 or −∞."""
        query_BHRE = self.query(self.attention_norm(x_BD)).unflatten(1, (self.heads, 1, -1))
        mixed_BHRE = attend(query_BHRE, self._split(self.key(first_BKD)), self._split(self.value(whole_BKX)), bias_BRS)
        x_BD = x_BD + self._drop(self.out(mixed_BHRE.flatten(1)))
        inner_BI = swiglu(self.mlp_norm(x_BD), self.gate.weight, self.up.weight)
        return x_BD + self._drop(self.down(inner_BI))

    def _split(self, x_BKD: Tensor) -> Tensor:
        return functional.pad(x_BKD, (0, 0, 0, 1)).unflatten(2, (self.heads, -1)).transpose(1, 2)

    def _drop(self, x_BD: Tensor) -> Tensor:
        return functional.dropout(x_BD, self.dropout, self.training) if self.dropout else x_BD
