"""Vectors of item texts: of the target, and of the history as their mean.

Legend: B batch, I items, n of them new, T text, L history.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.batch import Batch
from llmcf_cli.features.vectors import item_text_array
from llmcf_cli.rec.input.base import Input, Loaded, Made, RowLookup, tensor_table
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.stored import Stored, Storing, check_vectors
from llmcf_cli.store.open import read_lance

TEXT = "text"
FILE = "item_text.safetensors"
NORM_TOLERANCE = 0.01


@dataclass(frozen=True)
class TextOf:
    """Texts of rows.

    Attributes:
        item_BT: Vector of the target item.
        history_BT: Mean of the history's item vectors, renormalised; zeros for an empty history.
    """

    item_BT: Tensor
    history_BT: Tensor


class Text(Input):
    """Holds float32 [I + 1, T]: unit rows, row 0 zeros."""

    files: ClassVar[tuple[str, ...]] = (FILE,)

    def load(self, made: Made) -> Loaded:
        """Of the table `item_text`."""
        table = read_lance(made.folders["embed"] / "lance", "item_text")
        return Loaded(item_text_array(table, len(made.resources.catalog.items.ids)))

    def lookup(self, resources: Resources) -> TextLookup:
        """`sizes`: `text` is T."""
        return TextLookup(resources.get("text"))

    def save(self, held: Any, out: Storing) -> None:
        """One array."""
        out.arrays(FILE, {"item_text_IT": held})

    def read(self, stored: Stored, resources: Resources) -> NDArray[np.float32]:
        """Of the catalogue's length."""
        text_IT, items = stored.arrays(FILE)["item_text_IT"], len(resources.catalog.items.ids)
        if len(text_IT) != items + 1:
            what = f"text vectors for {len(text_IT) - 1} items, but the catalogue has {items}"
            raise ModelError(what, code="bundle-unfit", where=str(stored.folder))
        return text_IT

    def check(self, held: Any, resources: Resources, where: Path) -> None:
        """Finite and moderate."""
        check_vectors(held, where, "text vectors")

    def extended(self, held: Any, resources: Resources, items: pa.Table, given: Any) -> NDArray[np.float32]:
        """New rows: given vectors of norm 1, or zeros."""
        return np.concatenate([held, _checked(given, items["item_id"].combine_chunks(), held.shape[1])])

    def refreshed(self, held: Any, made: Made, items: pa.Table) -> NDArray[np.float32]:
        """Of the longer table, in which texts that have changed have new vectors."""
        longer: NDArray[np.float32] = self.load(made).held
        return longer


class TextLookup(RowLookup):
    """Rows → `TextOf`."""

    item_text_IT: Tensor

    def __init__(self, text_IT: NDArray[np.float32]) -> None:
        super().__init__()
        tensor_table(self, "item_text_IT", text_IT)
        self.sizes = {"text": text_IT.shape[1]}

    def forward(self, batch: Batch) -> TextOf:
        """The direction of the history's sum is the direction of its mean."""
        history_BL, of_B = batch.history_row_BL, None
        if batch.shared is not None:
            history_BL, of_B = batch.shared.history_row_HL, batch.shared.history_B
        elif not (self.training or torch.compiler.is_exporting()) and len(history_BL) > 1:
            # A request's candidates have one history, one after another.
            new_B = functional.pad((history_BL[1:] != history_BL[:-1]).any(1), (1, 0), value=True)
            history_BL, of_B = history_BL[new_B], new_B.cumsum(0) - 1
        if torch.compiler.is_exporting():  # which has no such operation; row 0 is zeros
            sum_BT = self.item_text_IT[history_BL].sum(1)
        else:
            sum_BT = functional.embedding_bag(history_BL, self.item_text_IT, mode="sum", padding_idx=0)
        history_BT = functional.normalize(sum_BT, dim=1, eps=1e-6)
        return TextOf(self.item_text_IT[batch.item_row_B], history_BT if of_B is None else history_BT[of_B])


def _checked(given: Any, ids: pa.Array, dim: int) -> NDArray[np.float32]:
    """Text vectors of new items, float32 [n, T]; zeros where there are none."""
    expected = (len(ids), dim)
    text_nT = np.zeros(expected, np.float32) if given is None else np.asarray(given, np.float32)
    if text_nT.shape != expected:
        raise DataError(f"text vectors {text_nT.shape}, expected {expected}", code="vectors-unfit", where="add_items")
    with np.errstate(over="ignore"):
        norm_n = np.linalg.norm(text_nT, axis=1)
    wrong_n = ~(np.isfinite(norm_n) & ((norm_n == 0) | (np.abs(norm_n - 1) < NORM_TOLERANCE)))
    if wrong_n.any():
        chosen = ids.filter(pa.array(wrong_n))
        named = f"item {chosen[0].as_py()!r}" + (f" and {len(chosen) - 1:,} more" if len(chosen) > 1 else "")
        what = f"{named}: a text vector has norm {norm_n[wrong_n][0]:g} instead of 1"
        raise DataError(what, code="items-norm", where="add_items", hint="use vectors from the recipe's encoder")
    return text_nT
