"""Item vectors: embeddings of ids, and what the arms with texts add to them.

Legend: n items, I items of the catalogue, V ids of items or values of features, T text, D item vector, M values of a
feature, X those of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError, UnknownNameError
from llmcf_cli.features.batch import Catalog
from llmcf_cli.features.spec import FIRST_ID, UNKNOWN, FeatureSpec, FieldSpec
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
    """An embedding per item that training knows, and those of its features; an unknown item has the latter alone.

    Of a number it is the number times the feature's vector, or the vector of a missing one; of several values the mean.

    Args:
        spec: Says how many ids there are, and which features.
        catalog: Item row → ids.
        dim: D.
        features: Names of the features that are read.

    Raises:
        UnknownNameError: An item has no such feature.
    """

    id_I: Tensor
    feature_id_IX: Tensor
    feature_weight_IX: Tensor

    def __init__(self, spec: FeatureSpec, catalog: Catalog, dim: int, features: Sequence[str] = ()) -> None:
        super().__init__()
        fields = {field.name: field for field in spec.fields if field.entity == "item" and field.name != "item_id"}
        for name in features:
            if name not in fields:
                raise UnknownNameError("item feature", name, fields, where="rec.backbone.item_features")
        self.fields = tuple(fields[name] for name in features)
        self.table_VD = nn.Parameter(torch.randn(item_ids(spec), dim) * SPREAD)
        self.table_VD.data[: UNKNOWN + 1] = 0
        if self.fields:
            sizes = [1, *(field.size - 1 for field in self.fields)]
            self.feature_VD = nn.Parameter(torch.randn(sum(sizes), dim) * SPREAD)
            self.feature_VD.data[[0, *(first for field, first in self._firsts() if field.scale is None)]] = 0
        self.set_catalog(catalog)

    def set_catalog(self, catalog: Catalog) -> None:
        """Take other items, encoded with the same vocabularies."""
        id_I = np.asarray(catalog.items.columns["item_id"], np.int64).copy()
        id_I[id_I < FIRST_ID] = 0
        self._keep("id_I", id_I)
        if self.fields:
            parts = [_values(np.asarray(catalog.items.columns[field.name]), field, first)
                     for field, first in self._firsts()]  # fmt: skip
            for name, part in zip(("feature_id_IX", "feature_weight_IX"), zip(*parts, strict=True), strict=True):
                self._keep(name, np.concatenate(part, 1))

    def forward(self, row_n: Tensor) -> Tensor:
        """[n, D], any leading shape; zeros for row 0."""
        id_nD = functional.embedding(self.id_I[row_n], self.table_VD, padding_idx=0)
        if not self.fields:
            return id_nD
        row_m = row_n.flatten()
        feature_mD = functional.embedding_bag(
            self.feature_id_IX[row_m], self.feature_VD, mode="sum", per_sample_weights=self.feature_weight_IX[row_m],
            padding_idx=0,
        )  # fmt: skip
        return id_nD + feature_mD.view_as(id_nD)

    @property
    def row_V(self) -> Tensor:
        """Item row of each id; 0 for padding and the unknown item."""
        row_V = torch.zeros(len(self.table_VD), dtype=torch.int64, device=self.id_I.device)
        known = (self.id_I >= FIRST_ID).nonzero()[:, 0]
        row_V[self.id_I[known]] = known
        return row_V

    def _firsts(self) -> Iterator[tuple[FieldSpec, int]]:
        """Each feature, and where its unknown value stands in the common table, behind the row of padding."""
        first = 1
        for field in self.fields:
            yield field, first
            first += field.size - 1

    def _keep(self, name: str, array: NDArray[Any]) -> None:
        self.register_buffer(name, torch.as_tensor(array, device=self.table_VD.device), persistent=False)


def _values(column: NDArray[Any], field: FieldSpec, first: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows of the common table that items have of a feature, [I + 1, M], and what each counts; nothing for row 0."""
    if field.scale is not None:
        there_I1 = ~np.isnan(column)[:, None]
        id_IM = np.where(there_I1, FIRST_ID, UNKNOWN).astype(np.int64)
        weight_IM = np.where(there_I1, np.nan_to_num(column)[:, None], 1.0)
    else:
        id_IM = column.reshape(len(column), -1).astype(np.int64)
        weight_IM = (id_IM > 0) / np.maximum((id_IM > 0).sum(1, keepdims=True), 1)
    id_IM = np.where(id_IM > 0, id_IM + first - UNKNOWN, 0)
    id_IM[0] = 0
    return id_IM, weight_IM.astype(np.float32)


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
            "needs item text vectors", code="input-missing", where=f"augmenter {name}", hint="llmcf embed RECIPE"
        )  # fmt: skip
    return size
