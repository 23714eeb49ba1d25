"""An augmentation that sees what chains of thought say: like examples, what is new in them, one linear layer.

Legend: B batch, K examples of a row, U distinct examples of a batch, T text, C context.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput, AugmentShape, BankBlock, given
from llmcf_cli.rec.augment.novelty import Novelty
from llmcf_cli.rec.augment.text import TextAugmenter
from llmcf_cli.rec.config import ReadoutConfig, TextConfig


class ReadoutAugmenter(Augmenter):
    """context = that of `text` + Σ_k w_k · W·c_k.

    c_k is what the chain of thought of example k says that its row does not, at one scale (`Novelty`). w is a softmax
    over α·(cos(item, item_k) − θ) + β·cos(history, history_k) of the examples, and 0 for "none like this"; α, β > 0 and
    θ are learned. W starts at random, so that what examples say has variance 1 in each number of the context from the
    first step on: from W = 0 it is learned after the ids of the backbone have overfitted.

    Raises:
        ModelError: There are no text vectors or no examples.
    """

    def __init__(self, config: ReadoutConfig, shape: AugmentShape) -> None:
        super().__init__()
        texts, cots = shape.size("text"), shape.size("cot")
        if not (texts and cots and shape.size("examples")):
            raise ModelError(
                "needs item text vectors and retrieved examples",
                code="input-missing",
                where="augmenter readout",
                hint="llmcf match",
            )
        self.context_dim = config.dim
        self.text = TextAugmenter(TextConfig(dim=config.dim, hidden=config.hidden, dropout=config.dropout), shape)
        self.novelty = Novelty(2 * texts, cots)
        self.weight_CT = nn.Parameter(torch.randn(config.dim, cots) / math.sqrt(cots))
        self.log_nearness = nn.Parameter(torch.tensor(math.log(config.nearness)))
        self.log_taste = nn.Parameter(torch.tensor(0.0))
        self.threshold = nn.Parameter(torch.tensor(float(config.threshold)))

    def learn_bank(self, blocks: Callable[[], Iterator[BankBlock]]) -> tuple[str, ...]:
        """See `Augmenter.learn_bank`."""
        notes, variance = self.novelty.fit(blocks)
        if variance:
            self.weight_CT.data.mul_(math.sqrt(len(self.novelty.mean_T) / variance))
        return notes

    def forward(self, x: AugmentInput) -> Augmentation:
        """Context [B, C]."""
        examples = given(x.inputs.get("examples"), "examples")
        said_UC = self.novelty.linear(examples.cot_UT, self.weight_CT)
        said_BKC = functional.embedding(examples.slot_BK, said_UC)
        read_BC = torch.einsum("bk,bkc->bc", self.weights(x, examples.mask_BK), said_BKC)
        return Augmentation(given(self.text(x).context_BC, "text") + read_BC)

    def weights(self, x: AugmentInput, mask_BK: Tensor) -> Tensor:
        """w [B, K]: how much of what each example says is taken; what is missing to 1 is "none like this"."""
        like = x.likeness()
        logit_BK = self.log_nearness.exp() * (like.item_BK - self.threshold) + self.log_taste.exp() * like.history_BK
        logit_BK = logit_BK.masked_fill(~mask_BK, -torch.inf)
        none_B1 = logit_BK.new_zeros(len(logit_BK), 1)
        return torch.cat([none_B1, logit_BK], 1).softmax(1)[:, 1:]
