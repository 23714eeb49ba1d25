"""What backbones over sequences, and augmenters of items, are.

Legend: B batch, L sequence, D item vector, n items, T text, V ids of items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from llmcf_cli.plugin import Kind
from llmcf_cli.rec.augment.base import Augmentation, Augmenter, AugmentInput


class SequenceBackbone(nn.Module, ABC):
    """Item vectors of a user's events → a user vector after each event. Built as `Class(config, length)`."""

    @abstractmethod
    def forward(self, event_BLD: Tensor, item_BL: Tensor) -> Tensor:
        """User vectors [B, L, D]. That of a position depends on events up to it, and on no padding.

        Args:
            event_BLD: Item vectors, oldest first, left-padded.
            item_BL: Their item rows; 0 where there is no event. What comes out there means nothing, but is finite.
        """


SEQUENCE_BACKBONE: Kind[SequenceBackbone] = Kind("backbone")


class ItemAugmenter(Augmenter):
    """An augmenter that makes item vectors of more than ids. Built as `Class(config, shape)`."""

    context_dim = 0

    def start(self, table_VD: Tensor, row_V: Tensor, text_IT: Tensor) -> None:
        """Set the embeddings of ids before training, in place.

        Args:
            table_VD: Embeddings; the first two rows are those of padding and of items that training does not know.
            row_V: Item row of each id; 0 for these two.
            text_IT: Text vectors by item row.
        """

    @abstractmethod
    def items(self, id_nD: Tensor, text_nT: Tensor) -> Tensor:
        """Item vectors [n, D], of the embeddings of their ids and the vectors of their texts; any leading shape."""

    def forward(self, x: AugmentInput) -> Augmentation:
        """No context: what it knows is in the item vectors."""
        return Augmentation(None)
