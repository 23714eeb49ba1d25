"""The control every result of LLM-CF must stand beside: text vectors, no examples."""

from __future__ import annotations

import torch

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput, AugmentShape, given
from llmcf_cli.rec.config import TextConfig
from llmcf_cli.rec.parts.layers import MLP


class TextAugmenter(Augmenter):
    """context = MLP(item ⊕ history ⊕ item ⊙ history), of the text vectors of target and history.

    With `signals` among its features, the matching signals stand beside them: all that LLM-CF reads of a row, without
    examples.

    Raises:
        ModelError: There are no text vectors.
    """

    def __init__(self, config: TextConfig, shape: AugmentShape) -> None:
        super().__init__()
        if not shape.size("text"):
            raise ModelError(
                "needs item text vectors", code="input-missing", where="augmenter text", hint="llmcf embed RECIPE"
            )
        self.context_dim = config.dim
        self.signals = "signals" in config.features
        width = 3 * shape.size("text") + (shape.size("signals") if self.signals else 0)
        self.mlp = MLP(width, config.hidden, config.dim, config.dropout)

    def forward(self, x: AugmentInput) -> Augmentation:
        """[B, T] twice → [B, C]."""
        text = given(x.query.inputs.get("text"), "text")
        item_BT, history_BT = text.item_BT, text.history_BT
        parts = [item_BT, history_BT, item_BT * history_BT]
        parts += [given(x.query.inputs.get("signals"), "signals")] if self.signals else []
        return Augmentation(self.mlp(torch.cat(parts, 1)))
