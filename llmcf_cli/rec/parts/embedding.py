"""Ids → embeddings of fields.

Legend: B batch, F fields, D embedding, L history, M values of a field, V ids of all vocabularies, R entity rows,
S single-valued fields, N numeric fields, P fields with several values, X all ids of a row.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.features.batch import Catalog, EntityTable
from llmcf_cli.features.choice import ENTITIES
from llmcf_cli.features.spec import FIRST_ID, UNKNOWN, FeatureSpec, FieldSpec

FIRST_ORDER = "first_order"


@dataclass(frozen=True)
class FieldEmbeddings:
    """The embedded features of a batch.

    Attributes:
        fields_BFD: One vector per field: single-valued fields, numeric fields (the number times the field's vector, or
            the vector of a missing number), fields with several values (mean over the values), and last the history
            (mean over its items).
        target_BD: Embedding of the target's item id.
        history_BLD: Item-id embeddings of the history, most recent last.
        history_mask_BL: True at positions of `history_BLD` that hold an item.
        first_order_B: Sum of the fields' scalar weights, if the backbone reads `first_order`.
    """

    fields_BFD: Tensor
    target_BD: Tensor
    history_BLD: Tensor
    history_mask_BL: Tensor
    first_order_B: Tensor | None = None

    @property
    def flat_BX(self) -> Tensor:
        """All fields side by side, [B, F·D]."""
        return self.fields_BFD.flatten(1)


@dataclass(frozen=True)
class FieldShape:
    """What a backbone or augmenter must know of the embeddings to size its layers.

    Attributes:
        num_fields: F, the pooled history included.
        embedding_dim: D.
        history_length: L.
    """

    num_fields: int
    embedding_dim: int
    history_length: int


class FieldEmbedding(nn.Module):
    """One embedding per vocabulary; the history shares the item id's.

    All vocabularies lie in one table, one after the other behind the shared padding row 0, so that fields of a kind are
    one gather and one scatter together. The encoded catalogue is a buffer outside `state_dict`.

    Args:
        spec: Fields and their sizes.
        catalog: Encoded features of users and items.
        embedding_dim: D.
        reads: What the backbone needs beyond the embeddings: `first_order`.
    """

    user_single_RS: Tensor
    user_multi_RPM: Tensor
    user_number_RN: Tensor
    user_number_id_RN: Tensor
    item_single_RS: Tensor
    item_multi_RPM: Tensor
    item_number_RN: Tensor
    item_number_id_RN: Tensor
    history_id_R: Tensor

    def __init__(self, spec: FeatureSpec, catalog: Catalog, embedding_dim: int, reads: Collection[str]) -> None:
        super().__init__()
        offsets, size = _offsets(spec)
        self.spec, self.reads = spec, frozenset(reads)
        # A value that training never shows keeps the zero vector it starts with, rather than noise.
        neutral = torch.tensor([0, *(offset + UNKNOWN for offset in offsets.values())])
        self.table_VD = nn.Parameter(torch.randn(size, embedding_dim) * 0.01)
        self.table_VD.data[neutral] = 0
        if FIRST_ORDER in self.reads:
            self.weight_V1 = nn.Parameter(torch.zeros(size, 1))
            self.bias = nn.Parameter(torch.zeros(()))
        self.set_catalog(catalog)

    @property
    def shape(self) -> FieldShape:
        """Sizes for the modules that read these embeddings."""
        return FieldShape(len(self.spec.fields) + 1, self.table_VD.shape[1], self.spec.history_length)

    def set_catalog(self, catalog: Catalog) -> None:
        """Take other entities, encoded with the same vocabularies (a server learns new items this way)."""
        offsets, _ = _offsets(self.spec)
        for entity, table in zip(ENTITIES, (catalog.users, catalog.items), strict=True):
            single, multi = self.spec.of(entity, "categorical"), self.spec.of(entity, "multi")
            number_RN = _stack_numbers(table, self.spec.of(entity, "numeric"))
            self._keep(f"{entity}_number_RN", np.nan_to_num(number_RN, nan=1.0))  # a missing one: its vector, once
            self._keep(f"{entity}_number_id_RN", _number_ids(number_RN, self.spec.of(entity, "numeric"), offsets))
            width = max((f.width for f in self.spec.fields if f.kind == "multi"), default=1)
            self._keep(f"{entity}_single_RS", _stack(table, single, offsets))
            self._keep(f"{entity}_multi_RPM", _stack_multi(table, multi, offsets, width))
        items = next(f for f in self.spec.fields if f.key == "item.item_id")
        ids = _stack(catalog.items, (items,), offsets)[:, 0]
        ids[0] = 0  # in a history, row 0 is padding
        self._keep("history_id_R", ids)

    def forward(self, user_row_B: Tensor, item_row_B: Tensor, history_row_BL: Tensor) -> FieldEmbeddings:
        """Embed a batch of rows (int64)."""
        single_BS = torch.cat([self.user_single_RS[user_row_B], self.item_single_RS[item_row_B]], 1)
        multi_BPM = torch.cat([self.user_multi_RPM[user_row_B], self.item_multi_RPM[item_row_B]], 1)
        history_BL = self.history_id_R[history_row_BL]
        number_BN = torch.cat([self.user_number_RN[user_row_B], self.item_number_RN[item_row_B]], 1)
        number_id_BN = torch.cat([self.user_number_id_RN[user_row_B], self.item_number_id_RN[item_row_B]], 1)
        num_single, (num_multi, width) = single_BS.shape[1], multi_BPM.shape[1:]
        # All ids of a row side by side: one gather, and one gradient of the table's size, whatever the fields.
        ids_BX = torch.cat([single_BS, number_id_BN, multi_BPM.flatten(1), history_BL], 1)
        sizes = (num_single, number_BN.shape[1], num_multi * width, history_BL.shape[1])
        rows_BXD = functional.embedding(ids_BX, self.table_VD, padding_idx=0)
        single_BSD, number_BND, multi_BXD, history_BLD = rows_BXD.split(sizes, 1)
        # Padding embeds to zeros, so a plain sum over M or L and the mean differ by a factor only.
        multi_share_BPM, history_share_BL = _shares(multi_BPM), _shares(history_BL)
        multi_BPD = multi_BXD.unflatten(1, (num_multi, width)).sum(2) * multi_share_BPM.amax(2, keepdim=True)
        history_BD = history_BLD.sum(1) * history_share_BL.amax(1, keepdim=True)
        fields_BFD = torch.cat([single_BSD, number_BND * number_BN[..., None], multi_BPD, history_BD[:, None]], 1)
        first_order_B = None
        if FIRST_ORDER in self.reads:
            share_BX = torch.cat([(single_BS > 0).float(), number_BN, multi_share_BPM.flatten(1), history_share_BL], 1)
            weight_BX = self.weight_V1[:, 0].index_select(0, ids_BX.flatten()).view_as(share_BX)
            first_order_B = (weight_BX * share_BX).sum(1) + self.bias
        target_BD = single_BSD[:, self.user_single_RS.shape[1]]  # item_id is the first of the item's fields
        return FieldEmbeddings(fields_BFD, target_BD, history_BLD, history_BL > 0, first_order_B)

    def _keep(self, name: str, array: np.ndarray) -> None:
        device = self.table_VD.device
        self.register_buffer(name, torch.as_tensor(array, device=device), persistent=False)


def _shares(ids_NM: Tensor) -> Tensor:
    """What each value counts in the mean over the last dimension; 0 for padding."""
    present_NM = (ids_NM > 0).float()
    return present_NM / present_NM.sum(-1, keepdim=True).clamp_min(1)


def _offsets(spec: FeatureSpec) -> tuple[dict[str, int], int]:
    """Field key → what to add to its ids in the common table; and the table's number of rows."""
    offsets, size = {}, 1
    for field in spec.fields:
        offsets[field.key] = size - 1
        size += field.size - 1
    return offsets, size


def kept_rows(before: FeatureSpec, after: FeatureSpec) -> np.ndarray:
    """Row of the common table of `after` for each row of that of `before`, int64: values keep their ids."""
    (old, size), (new, _) = _offsets(before), _offsets(after)
    row_V = np.zeros(size, np.int64)
    for field in before.fields:
        ids = np.arange(1, field.size)
        row_V[ids + old[field.key]] = ids + new[field.key]
    return row_V


def _shift(ids: np.ndarray, offset: int) -> np.ndarray:
    return np.where(ids > 0, ids.astype(np.int64) + offset, 0)


def _stack(table: EntityTable, fields: tuple[FieldSpec, ...], offsets: dict[str, int]) -> np.ndarray:
    return np.stack([_shift(table.columns[f.name], offsets[f.key]) for f in fields], 1)


def _stack_numbers(table: EntityTable, fields: tuple[FieldSpec, ...]) -> np.ndarray:
    """float32 [R + 1, N]."""
    columns = [np.asarray(table.columns[f.name], np.float32) for f in fields]
    return np.stack(columns, 1) if columns else np.zeros((len(table.ids) + 1, 0), np.float32)


def _number_ids(number_RN: np.ndarray, fields: tuple[FieldSpec, ...], offsets: dict[str, int]) -> np.ndarray:
    """What each number is multiplied with: the field's vector, or that of a missing number."""
    offset_N = np.array([offsets[f.key] for f in fields], np.int64)
    return np.where(np.isnan(number_RN), UNKNOWN, FIRST_ID) + offset_N


def _stack_multi(table: EntityTable, fields: tuple[FieldSpec, ...], offsets: dict[str, int], width: int) -> np.ndarray:
    out = np.zeros((len(table.ids) + 1, len(fields), width), np.int64)
    for at, field in enumerate(fields):
        out[:, at, : field.width] = _shift(table.columns[field.name], offsets[field.key])
    return out
