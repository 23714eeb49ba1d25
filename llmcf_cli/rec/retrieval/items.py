"""Item vectors: embeddings of ids, and what the arms with texts add to them.

Legend: n items, I items of the catalogue, V ids of items, T text, D item vector.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.features.batch import Catalog
from llmcf_cli.features.spec import FIRST_ID, UNKNOWN, FeatureSpec
from llmcf_cli.rec.augment.base import AugmentShape
from llmcf_cli.rec.parts.layers import MLP
from llmcf_cli.rec.retrieval.base import ItemAugmenter
from llmcf_cli.rec.retrieval.config import TextInitConfig, TextTowerConfig

SPREAD = 0.02
"""Standard deviation of embeddings before training."""


def item_ids(spec: FeatureSpec) -> int:
    """V: ids of items, those of padding and of an item that training does not know included."""
    return next(field.size for field in spec.fields if field.key == "item.item_id")


class ItemEmbedding(nn.Module):
    """An embedding per item that training knows; the others share one, which stays zero.

    Args:
        spec: Says how many ids there are.
        catalog: Item row → id.
        dim: D.
    """

    id_I: Tensor

    def __init__(self, spec: FeatureSpec, catalog: Catalog, dim: int) -> None:
        super().__init__()
        self.table_VD = nn.Parameter(torch.randn(item_ids(spec), dim) * SPREAD)
        self.table_VD.data[: UNKNOWN + 1] = 0
        self.set_catalog(catalog)

    def set_catalog(self, catalog: Catalog) -> None:
        """Take other items, encoded with the same vocabulary."""
        id_I = np.asarray(catalog.items.columns["item_id"], np.int64).copy()
        id_I[0] = 0
        self.register_buffer("id_I", torch.as_tensor(id_I, device=self.table_VD.device), persistent=False)

    def forward(self, row_n: Tensor) -> Tensor:
        """[n, D], any leading shape; zeros for row 0."""
        return functional.embedding(self.id_I[row_n], self.table_VD, padding_idx=0)

    def known(self, row_n: Tensor) -> Tensor:
        """The same rows, but 0 for items that training does not know."""
        return row_n * (self.id_I[row_n] >= FIRST_ID)

    @property
    def row_V(self) -> Tensor:
        """Item row of each id; 0 for padding and the unknown item."""
        row_V = torch.zeros(len(self.table_VD), dtype=torch.int64, device=self.id_I.device)
        known = (self.id_I >= FIRST_ID).nonzero()[:, 0]
        row_V[self.id_I[known]] = known
        return row_V


class TextTower(ItemAugmenter):
    """v_i = embedding of i's id + MLP(text of i)."""

    def __init__(self, config: TextTowerConfig, shape: AugmentShape) -> None:
        super().__init__()
        self.mlp = MLP(_text_size(shape, "text_tower"), config.hidden, shape.fields.embedding_dim, config.dropout)

    def items(self, id_nD: Tensor, text_nT: Tensor) -> Tensor:
        """The sum."""
        found_nD: Tensor = id_nD + self.mlp(text_nT)
        return found_nD


class TextInit(ItemAugmenter):
    """Embeddings start as the first D principal components of the texts of the items that training knows.

    They are scaled to the spread that embeddings have otherwise; where texts have fewer components, the rest is noise.
    """

    def __init__(self, config: TextInitConfig, shape: AugmentShape) -> None:
        super().__init__()
        _text_size(shape, "text_init")

    def start(self, table_VD: Tensor, row_V: Tensor, text_IT: Tensor) -> None:
        """By the eigenvectors of the covariance."""
        text_nT = text_IT[row_V[FIRST_ID:]].double()
        centred_nT = text_nT - text_nT.mean(0)
        _, axis_TT = torch.linalg.eigh(centred_nT.T @ centred_nT)
        size = min(table_VD.shape[1], axis_TT.shape[1])
        part_nK = centred_nT @ axis_TT.flip(1)[:, :size]
        if (spread := float(part_nK.std())) > 0:
            table_VD[FIRST_ID:, :size] = (part_nK * (SPREAD / spread)).to(table_VD.dtype)

    def items(self, id_nD: Tensor, text_nT: Tensor) -> Tensor:
        """The embeddings of ids."""
        return id_nD


def _text_size(shape: AugmentShape, name: str) -> int:
    if not (size := shape.size("text")):
        raise ModelError(
            "needs item text vectors", code="input-missing", where=f"augmenter {name}", hint="llmcf embed"
        )  # fmt: skip
    return size
