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
from llmcf_cli.rec.input.examples import Examples
from llmcf_cli.rec.parts.kept import Kept


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
                hint="llmcf match RECIPE",
            )
        self.context_dim = config.dim
        self.text = TextAugmenter(TextConfig(dim=config.dim, hidden=config.hidden, dropout=config.dropout), shape)
        self.novelty = Novelty(2 * texts, cots)
        self.weight_CT = nn.Parameter(torch.randn(config.dim, cots) / math.sqrt(cots))
        self.log_nearness = nn.Parameter(torch.tensor(math.log(config.nearness)))
        self.log_taste = nn.Parameter(torch.tensor(0.0))
        self.threshold = nn.Parameter(torch.tensor(float(config.threshold)))
        self.kept_EX = Kept()

    def learn_bank(self, blocks: Callable[[], Iterator[BankBlock]]) -> tuple[str, ...]:
        """See `Augmenter.learn_bank`."""
        notes, variance = self.novelty.fit(blocks)
        if variance:
            self.weight_CT.data.mul_(math.sqrt(len(self.novelty.mean_T) / variance))
        return notes

    def forward(self, x: AugmentInput) -> Augmentation:
        """Context [B, C]."""
        examples = given(x.inputs.get("examples"), "examples")
        kept_EX, texts_UT = self.kept_EX.value, None
        if kept_EX is None:
            said_UC = self.novelty.linear(examples.cot_UT, self.weight_CT)
        else:
            texts = (kept_EX.shape[1] - self.context_dim) // 2
            said_UC, item_UT, history_UT = kept_EX[examples.index_U].split([self.context_dim, texts, texts], 1)
            texts_UT = item_UT, history_UT
        said_BKC = functional.embedding(examples.slot_BK, said_UC)
        read_BC = torch.einsum("bk,bkc->bc", self.weights(x, examples.mask_BK, texts_UT), said_BKC)
        return Augmentation(given(self.text(x).context_BC, "text") + read_BC)

    def keep_examples(self, blocks: Iterator[Examples]) -> None:
        """See `Augmenter.keep_examples`: what they say, and the text vectors of their items and histories."""
        parts = []
        for block in blocks:
            text = given(block.rows.inputs.get("text"), "text")
            said_UC = self.novelty.linear(block.cot_UT, self.weight_CT)
            parts.append(torch.cat([said_UC, text.item_BT, text.history_BT], 1))
        self.kept_EX.value = torch.cat(parts)

    def weights(self, x: AugmentInput, mask_BK: Tensor, texts_UT: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """w [B, K]: how much of what each example says is taken; what is missing to 1 is "none like this".

        Args:
            x: Rows and examples.
            mask_BK: False where there is no example.
            texts_UT: See `AugmentInput.likeness`.
        """
        like = x.likeness(texts_UT)
        logit_BK = self.log_nearness.exp() * (like.item_BK - self.threshold) + self.log_taste.exp() * like.history_BK
        logit_BK = logit_BK.masked_fill(~mask_BK, -torch.inf)
        none_B1 = torch.zeros_like(logit_BK[:, :1])
        return torch.cat([none_B1, logit_BK], 1).softmax(1)[:, 1:]
