"""Vectors of what a language model wrote about users and items, and which samples they are for.

Legend: R rows of an entity, N vectors and one of zeros, T text, B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.batch import Batch
from llmcf_cli.features.choice import ENTITIES
from llmcf_cli.features.vectors import vectors
from llmcf_cli.rec.input.base import Input, Loaded, Made, QueryLookup, Rows
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.stored import Stored, Storing, check_vectors, demand, within
from llmcf_cli.store.open import read_lance

FILE = "knowledge.safetensors"


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


@dataclass(frozen=True)
class Known:
    """What a language model wrote about the user and the item of each row.

    Attributes:
        user_BT: Vectors; zeros where nothing may be known.
        user_known_B: bool, where something is.
        item_BT: As `user_BT`.
        item_known_B: As `user_known_B`.
    """

    user_BT: Tensor
    user_known_B: Tensor
    item_BT: Tensor
    item_known_B: Tensor


class WrittenKnowledge(Input):
    """Holds `Knowledge`."""

    files: ClassVar[tuple[str, ...]] = (FILE,)

    def load(self, made: Made) -> Loaded:
        """Of the table `knowledge`."""
        catalog = made.resources.catalog
        table = read_lance(made.folders["knowledge"] / "lance", "knowledge")
        return Loaded(read_knowledge(table, len(catalog.users.ids), len(catalog.items.ids)))

    def lookup(self, resources: Resources) -> KnownLookup:
        """`sizes`: `knowledge` is T."""
        return KnownLookup(resources.get("knowledge"))

    def save(self, held: Any, out: Storing) -> None:
        """Arrays `users.*` and `items.*`."""
        out.arrays(FILE, {f"{kind}.{n}": array for kind, part in vars(held).items() for n, array in vars(part).items()})

    def read(self, stored: Stored, resources: Resources) -> Knowledge:
        """Of the catalogue's length."""
        arrays, parts = stored.arrays(FILE), {}
        for kind, table in (("users", resources.catalog.users), ("items", resources.catalog.items)):
            part = {name: arrays[f"{kind}.{name}"] for name in ("slot_R", "vector_NT", "as_of_N")}
            if len(part["slot_R"]) != len(table.ids) + 1:
                what = f"knowledge and catalogue differ in the number of {kind}"
                raise ModelError(what, code="bundle-unfit", where=str(stored.path(FILE)))
            parts[kind] = EntityKnowledge(**part)
        return Knowledge(**parts)

    def check(self, held: Any, resources: Resources, where: Path) -> None:
        """Slots that exist, finite vectors of one length."""
        for kind, part in vars(held).items():
            check_vectors(part.vector_NT, where, f"knowledge of {kind}")
            size = len(part.vector_NT)
            demand(within(part.slot_R, size) and part.as_of_N.shape == (size,), where, f"knowledge of {kind}")
        demand(held.users.vector_NT.shape[1] == held.items.vector_NT.shape[1], where, "knowledge")

    def extended(self, held: Any, resources: Resources, items: pa.Table, given: Any) -> Knowledge:
        """Nothing is known of new items."""
        longer: Knowledge = replace(held, items=held.items.extended(len(resources.catalog.items.ids)))
        return longer

    def refreshed(self, held: Any, made: Made, items: pa.Table) -> Knowledge:
        """Nor of new users, unless something was written about them."""
        if "knowledge" in made.folders:
            written: Knowledge = self.load(made).held
            return written
        catalog = made.resources.catalog
        users, items_ = held.users.extended(len(catalog.users.ids)), held.items.extended(len(catalog.items.ids))
        return Knowledge(users, items_)


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


class KnownLookup(QueryLookup):
    """Queries → `Known`."""

    def __init__(self, knowledge: Knowledge) -> None:
        super().__init__()
        self.users, self.items = KnowledgeLookup(knowledge.users), KnowledgeLookup(knowledge.items)
        self.sizes = {"knowledge": knowledge.dim}

    def forward(self, batch: Batch, embed: Callable[[Batch], Rows]) -> Known:
        """What is known at each row's time."""
        users, items = self.users(batch.user_row_B, batch.time_B), self.items(batch.item_row_B, batch.time_B)
        return Known(*users, *items)


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
