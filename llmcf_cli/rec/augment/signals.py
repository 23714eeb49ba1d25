"""The control for matching: what the likeness of target and history gives without any example."""

from __future__ import annotations

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput, AugmentShape
from llmcf_cli.rec.config import SignalsConfig
from llmcf_cli.rec.parts.layers import MLP


class SignalsAugmenter(Augmenter):
    """context = MLP(matching signals).

    Raises:
        ModelError: There are no signals.
    """

    def __init__(self, config: SignalsConfig, shape: AugmentShape) -> None:
        super().__init__()
        if not shape.size("signals"):
            raise ModelError(
                "needs matching signals", code="input-missing", where="augmenter signals", hint="llmcf collab RECIPE"
            )
        self.context_dim = config.dim
        self.mlp = MLP(shape.size("signals"), config.hidden, config.dim, config.dropout)

    def forward(self, x: AugmentInput) -> Augmentation:
        """[B, S] → [B, C]."""
        return Augmentation(self.mlp(x.query.inputs["signals"]))
