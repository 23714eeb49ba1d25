"""No augmentation."""

from __future__ import annotations

from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput, AugmentShape
from llmcf_cli.rec.config import NoneConfig


class NoAugmenter(Augmenter):
    """The backbone alone: no context."""

    context_dim = 0

    def __init__(self, config: NoneConfig, shape: AugmentShape) -> None:
        super().__init__()

    def forward(self, x: AugmentInput) -> Augmentation:
        """Nothing."""
        return Augmentation(None)
