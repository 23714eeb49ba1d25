"""Vectors of what a language model wrote about users and items, and which samples they are for.

Legend: R rows of an entity, N vectors and one of zeros, T text, B batch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.choice import ENTITIES
from llmcf_cli.features.vectors import vectors


@dataclass(frozen=True)
class EntityKnowledge:
    """The vectors of some users, or of some items.

    Attributes:
        slot_R: int64 [R + 1], which vector a row has; 0: none.
        vector_NT: float32, of unit norm; row 0 zeros.
        as_of_N: int64, the time that a vector's text reaches to; it is for samples strictly later.
    """

    slot_R: np.ndarray
    vector_NT: np.ndarray
    as_of_N: np.ndarray

    def extended(self, count: int) -> EntityKnowledge:
        """For a catalogue of `count` rows; nothing is known of the new ones."""
        return replace(self, slot_R=np.pad(self.slot_R, (0, count + 1 - len(self.slot_R))))


@dataclass(frozen=True)
class Knowledge:
    """What is known of users and items.

    Attributes:
        users: Their preferences.
        items: Facts about them.
    """

    users: EntityKnowledge
    items: EntityKnowledge

    @property
    def dim(self) -> int:
        """T."""
        return int(self.users.vector_NT.shape[1])


def read_knowledge(table: pa.Table, num_users: int, num_items: int) -> Knowledge:
    """Knowledge from the table `knowledge`.

    Args:
        table: Columns entity, row, as_of and vector.
        num_users: Users of the catalogue.
        num_items: Items of the catalogue.

    Raises:
        DataError: A row is in no catalogue, or there twice.
    """
    parts = [_entity(table, name, size) for name, size in zip(ENTITIES, (num_users, num_items), strict=True)]
    return Knowledge(*parts)


def _entity(table: pa.Table, entity: str, size: int) -> EntityKnowledge:
    table = table.filter(pc.equal(table["entity"], entity))
    row_n = table["row"].combine_chunks().to_numpy()
    if len(np.unique(row_n)) != len(row_n) or np.any((row_n < 1) | (row_n > size)):
        raise DataError(
            f"knowledge of {len(row_n)} {entity}s does not fit a catalogue of {size}",
            code="knowledge-unfit", where="knowledge",
            hint="run the recipe again with --force knowledge",
        )  # fmt: skip
    slot_R = np.zeros(size + 1, np.int64)
    slot_R[row_n] = np.arange(1, len(row_n) + 1)
    vector_nT, as_of_n = vectors(table["vector"]), table["as_of"].combine_chunks().to_numpy()
    return EntityKnowledge(slot_R, np.pad(vector_nT, ((1, 0), (0, 0))), np.pad(as_of_n, (1, 0)))


class KnowledgeLookup(nn.Module):
    """(rows, times) → vectors; its tables are buffers outside `state_dict`."""

    slot_R: Tensor
    vector_NT: Tensor
    as_of_N: Tensor

    def __init__(self, known: EntityKnowledge) -> None:
        super().__init__()
        for name, array in vars(known).items():
            self.register_buffer(name, torch.as_tensor(array), persistent=False)

    def forward(self, row_B: Tensor, time_B: Tensor) -> tuple[Tensor, Tensor]:
        """Vectors [B, T], and bool [B]: is there one, and is it for a sample of that time? Zeros where not."""
        slot_B = self.slot_R[row_B]
        known_B = (slot_B > 0) & (time_B > self.as_of_N[slot_B])
        return self.vector_NT[slot_B * known_B], known_B
