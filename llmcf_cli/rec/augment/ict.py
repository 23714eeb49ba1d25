"""The in-context transformer of LLM-CF.

Legend: B batch, G distinct lists of examples of a batch, K examples of a row, P tokens per example, S sequence,
R positions read, T text, D model.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    given,
)
from llmcf_cli.rec.augment.tokens import ExampleTokens
from llmcf_cli.rec.config import ICTConfig
from llmcf_cli.rec.input.examples import Examples
from llmcf_cli.rec.parts.layers import CausalDecoder


class ICTAugmenter(Augmenter):
    """A causal decoder over [x_1, cot_1, y_1, …, x_K, cot_K, y_K, x] (LLM-CF, CIKM 2024).

    The tokens are those of `ExampleTokens`. The hidden state of the last position is the context. Where an objective
    wants it, W·h at x_k predicts the vector of cot_k, which x_k cannot see.

    Args:
        config: Sizes, and which tokens an example has.
        shape: Sizes of what is read.

    Raises:
        ModelError: There are no text vectors or no examples.
    """

    def __init__(self, config: ICTConfig, shape: AugmentShape) -> None:
        super().__init__()
        self.context_dim = config.dim
        self.tokens = ExampleTokens(config, shape)
        length = len(config.tokens) * shape.size("examples") + 1
        self.decoder = CausalDecoder(config.layers, config.heads, config.dim, config.dropout, length)
        predicts = {"row", "cot"} <= set(config.tokens) and COT_AUX in shape.wanted
        self.cot_head = nn.Linear(config.dim, shape.size("cot"), bias=False) if predicts else None

    def forward(self, x: AugmentInput) -> Augmentation:
        """Context [B, D]; in training also the predictions of chains of thought, if an objective wants them."""
        if not self.training:
            return Augmentation(self._context(x))
        seen_BSD, mask_BS, query_BD = self.tokens(x)
        tokens_BSD = torch.cat([seen_BSD, query_BD[:, None]], 1)
        mask_BS = functional.pad(mask_BS, (0, 1), value=True)
        head = self.cot_head
        # x_k stands at the head of every example, and the query x at the end.
        last = tokens_BSD.shape[1] - 1
        first = last if head is None else 0
        read_R = torch.arange(first, last + 1, len(self.tokens.kinds), device=tokens_BSD.device)
        hidden_BRD = self.decoder(tokens_BSD, mask_BS, read_R)
        if head is None:
            return Augmentation(hidden_BRD[:, -1])
        examples = given(x.inputs.get("examples"), "examples")
        prediction = CoTPrediction(hidden_BRD[:, :-1], head.weight, examples.cot_UT, examples.slot_BK, examples.mask_BK)
        return Augmentation(hidden_BRD[:, -1], {COT_AUX: prediction})

    def keep_examples(self, blocks: Iterator[Examples]) -> None:
        """See `Augmenter.keep_examples`: their tokens."""
        self.tokens.keep(blocks)

    def _context(self, x: AugmentInput) -> Tensor:
        """Contexts [B, D] as training has them, but what comes before x is read once for each list of examples."""
        examples = given(x.inputs.get("examples"), "examples")
        if examples.lists is None:
            list_GK, of_B = distinct_lists(examples.slot_BK.masked_fill(~examples.mask_BK, -1))
            slot_GK, mask_GK = list_GK.clamp_min(0), list_GK >= 0
        else:
            slot_GK, mask_GK, of_B = examples.lists
        sequences = self.tokens.sequences(examples, slot_GK, mask_GK)
        return self.decoder.continued(*sequences, self.tokens.query(x), of_B)


def distinct_lists(list_BK: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct rows of numbers from -1 on, int64 [G, K], and which of them each row is, int64 [B].

    `torch.unique` of rows, which is several times slower.
    """
    of_B = torch.zeros(len(list_BK), dtype=torch.int64, device=list_BK.device)
    for place_B in list_BK.unbind(1):
        of_B = torch.unique(of_B * (1 << 32) + place_B + 1, return_inverse=True)[1]
    list_GK = list_BK.new_empty(int(of_B.max()) + 1 if len(of_B) else 0, list_BK.shape[1])
    list_GK[of_B] = list_BK
    return list_GK, of_B
