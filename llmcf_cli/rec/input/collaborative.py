"""Collaborative vectors: what signals are made of; no model reads them by themselves."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.collaborative import COLLABORATIVE, Collaborative, load_collaborative
from llmcf_cli.rec.input.base import Input, Loaded, Made
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.stored import Stored, Storing, check_vectors, demand


class CollaborativeVectors(Input):
    """Holds `Collaborative`; a bundle keeps its last fold, all that rows outside the train split need."""

    files: ClassVar[tuple[str, ...]] = (COLLABORATIVE,)

    def load(self, made: Made) -> Loaded:
        """Of the same users and items."""
        found, catalog = load_collaborative(made.folders["collab"] / COLLABORATIVE), made.resources.catalog
        sizes = len(found.fold_of_user_U) - 1, found.item_FID.shape[1] - 1
        expected = len(catalog.users.ids), len(catalog.items.ids)
        if sizes != expected:
            raise DataError(
                f"vectors for {sizes[0]} users and {sizes[1]} items, but there are {expected[0]} and {expected[1]}",
                code="vectors-unfit", where="collaborative vectors", hint="run the recipe again with --force collab",
            )  # fmt: skip
        return Loaded(found)

    def stored(self, held: Any) -> Collaborative:
        """The last fold."""
        kept: Collaborative = held.serving()
        return kept

    def save(self, held: Any, out: Storing) -> None:
        """Its arrays by their names."""
        out.arrays(COLLABORATIVE, {f.name: getattr(held, f.name) for f in fields(held)})

    def read(self, stored: Stored, resources: Resources) -> Collaborative:
        """Of the catalogue's length."""
        found = Collaborative(**stored.arrays(COLLABORATIVE))
        if found.item_FID.shape[1] != len(resources.catalog.items.ids) + 1:
            what = "collaborative vectors and catalogue differ in the number of items"
            raise ModelError(what, code="bundle-unfit", where=str(stored.folder))
        return found

    def check(self, held: Any, resources: Resources, where: Path) -> None:
        """Shapes that fit, numbers that are moderate."""
        shape = held.item_FID.shape
        demand(len(shape) == 3 and held.count_FI.shape == shape[:2], where, "collaborative vectors")
        check_vectors(held.item_FID.reshape(-1, shape[2]), where, "collaborative vectors")

    def extended(self, held: Any, resources: Resources, items: pa.Table, given: Any) -> Collaborative:
        """What nobody took yet has zeros."""
        longer: Collaborative = held.extended(len(resources.catalog.items.ids))
        return longer
