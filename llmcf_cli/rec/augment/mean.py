"""Ablation of the in-context transformer: the same tokens, pooled instead of read in order.

Legend: B batch, S example tokens, D model.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput, AugmentShape
from llmcf_cli.rec.augment.tokens import ExampleTokens
from llmcf_cli.rec.config import MeanConfig
from llmcf_cli.rec.input.examples import Examples
from llmcf_cli.rec.parts.layers import MLP


class MeanAugmenter(Augmenter):
    """context = MLP(x ⊕ mean of the tokens x_1, cot_1, y_1, …, x_K, cot_K, y_K), over the examples there are.

    The tokens are those of `ExampleTokens`, so what it lacks beside the transformer is the decoder alone: neither the
    order of examples nor which answer belongs to which row can be seen. Without any example the mean is zeros.

    Raises:
        ModelError: There are no text vectors or no examples.
    """

    def __init__(self, config: MeanConfig, shape: AugmentShape) -> None:
        super().__init__()
        self.context_dim = config.dim
        self.tokens = ExampleTokens(config, shape)
        self.mlp = MLP(2 * config.dim, (config.hidden,), config.dim, config.dropout)

    def forward(self, x: AugmentInput) -> Augmentation:
        """Context [B, D]."""
        tokens_BSD, mask_BS, query_BD = self.tokens(x)
        sum_BD = (tokens_BSD * mask_BS[..., None]).sum(1)
        mean_BD = sum_BD / mask_BS.sum(1, keepdim=True).clamp_min(1)
        return Augmentation(self.mlp(torch.cat([query_BD, mean_BD], 1)))

    def keep_examples(self, blocks: Iterator[Examples]) -> None:
        """See `Augmenter.keep_examples`: their tokens."""
        self.tokens.keep(blocks)
