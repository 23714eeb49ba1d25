"""Tables → arrays: the one code path by which training, evaluation and serving read a sample.

Shapes: N samples, B batch, L history length, R rows of an entity, M values of a field, K examples, S signals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.choice import Entity
from llmcf_cli.features.spec import FARTHEST, FIRST_ID, PADDING, FeatureSpec, FieldSpec, Vocab, list_parts

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class EntityTable:
    """The encoded features of all users or all items.

    Attributes:
        entity: Which of the two.
        ids: Original ids; `ids[r - 1]` belongs to row r.
        columns: Field name → ids of its values, int32 [R + 1] or, for several values, [R + 1, M] padded with 0; of a
            numeric field its standardised numbers, float32 [R + 1], NaN where one is missing.
            Row 0 is padding in a history, and an entity nobody knows as a target.
    """

    entity: Entity
    ids: pa.StringArray
    columns: Mapping[str, NDArray[np.int32] | NDArray[np.float32]]

    def rows(self, ids: pa.Array) -> NDArray[np.int32]:
        """Row numbers of original ids, int32 [n]; 0 where the id is unknown or null."""
        asked = ids.cast(pa.string()).to_pylist()
        return np.fromiter((self._row_of.get(one, 0) for one in asked), np.int32, len(asked))

    @cached_property
    def _row_of(self) -> dict[str, int]:
        """Id → row. Kept, as Arrow would hash the whole catalogue anew for each request: 270 ms for a million ids."""
        return {one: row for row, one in enumerate(self.ids.to_pylist(), 1)}

    def extended(self, other: EntityTable) -> EntityTable:
        """This table followed by the rows of another one (without its row 0)."""
        columns = {name: np.concatenate([c, other.columns[name][1:]]) for name, c in self.columns.items()}
        return replace(self, ids=pa.concat_arrays([self.ids, other.ids]), columns=columns)


@dataclass(frozen=True)
class Catalog:
    """Encoded users and items."""

    users: EntityTable
    items: EntityTable


@dataclass(frozen=True)
class Samples:
    """Rows to train on or to score, without their entities' features, which are looked up per batch.

    Attributes:
        sample_id_N: int64.
        user_row_N: int32.
        item_row_N: int32.
        history_row_NL: int32 item rows, most recent last, left-padded with 0.
        label_N: float32, 0 or 1.
        time_N: int64.
    """

    sample_id_N: NDArray[np.int64]
    user_row_N: NDArray[np.int32]
    item_row_N: NDArray[np.int32]
    history_row_NL: NDArray[np.int32]
    label_N: NDArray[np.float32]
    time_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sample_id_N)

    def take(self, index: Any) -> Samples:
        """The samples at the given positions or under a mask."""
        return Samples(
            self.sample_id_N[index], self.user_row_N[index], self.item_row_N[index], self.history_row_NL[index],
            self.label_N[index], self.time_N[index],
        )  # fmt: skip

    def without_items(self) -> Samples:
        """The same, each of item row 0: of an item nobody knows."""
        return replace(self, item_row_N=np.zeros_like(self.item_row_N))

    def put(self, start: int, block: Samples) -> None:
        """Overwrite the samples from position `start` with a block."""
        for column in fields(self):
            getattr(self, column.name)[start : start + len(block)] = getattr(block, column.name)


@dataclass(frozen=True)
class Targets:
    """What losses compare predictions with; never an input of a model.

    Attributes:
        target_B: float32, as the task says.
        inputs: Name of an arm's input → values, of those that only losses read (`teacher`) and others.
    """

    target_B: torch.Tensor
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Shared:
    """What several rows of a batch have in common, each once, so that it is computed once.

    Attributes:
        history_row_HL: Distinct histories, int64.
        history_B: int64, which of them each row has.
        inputs: Name of an arm's input whose lookup `shares` → its distinct values, [G, …], and int64 [B], which of them
            each row has.
    """

    history_row_HL: torch.Tensor
    history_B: torch.Tensor
    inputs: Mapping[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """Samples on a device. Integers are int32 as in `Samples` when it holds a whole split, int64 once taken.

    Attributes:
        user_row_B: Rows of the user table.
        item_row_B: Rows of the item table.
        history_row_BL: Item rows, left-padded with 0.
        time_B: When the label was or would be known (int64); what is later than that is not for this row.
        target_B: See `Targets`; None where nothing is to be learned.
        inputs: Name of an arm's input → its values of the samples, [B, …].
        shared: What rows have in common, if that is known; its inputs are not in `inputs`. Lost where rows are taken.
    """

    user_row_B: torch.Tensor
    item_row_B: torch.Tensor
    history_row_BL: torch.Tensor
    time_B: torch.Tensor
    target_B: torch.Tensor | None = None
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)
    shared: Shared | None = None

    @property
    def targets(self) -> Targets:
        """The part that only losses read.

        Raises:
            ModelError: The batch was made without targets.
        """
        if self.target_B is None:
            raise ModelError("the batch has no targets", code="batch-incomplete", where="rec model")
        return Targets(self.target_B, self.inputs)

    def __len__(self) -> int:
        return len(self.user_row_B)

    def take(self, index_b: torch.Tensor) -> Batch:
        """The samples at the given positions, integers as int64."""
        parts = {name: part for name, part in vars(self).items() if name not in ("inputs", "shared")}
        inputs = {name: _taken(part, index_b) for name, part in self.inputs.items()}
        return Batch(**{name: _taken(part, index_b) for name, part in parts.items()}, inputs=inputs)


def _taken(part: torch.Tensor | None, index_b: torch.Tensor) -> Any:
    taken = None if part is None else part[index_b]
    return taken if taken is None or taken.is_floating_point() else taken.long()


def to_batch(
    samples: Samples, device: Any = "cpu", *, target_N: NDArray[np.float32] | None = None,
    inputs: Mapping[str, NDArray[Any] | None] | None = None,
) -> Batch:  # fmt: skip
    """Samples and what belongs to them as tensors on `device`, integers as int32. On a CPU nothing is copied.

    Args:
        samples: Rows.
        device: Where to.
        target_N: What is to be predicted of them.
        inputs: Name of an arm's input → its values, [N, …]; None where there are none.
    """
    import torch

    def tensor(array: NDArray[Any] | None) -> Any:
        return None if array is None else torch.as_tensor(array, device=device)

    return Batch(
        tensor(samples.user_row_N), tensor(samples.item_row_N), tensor(samples.history_row_NL),
        tensor(samples.time_N), tensor(target_N),
        {name: tensor(values) for name, values in (inputs or {}).items() if values is not None},
    )  # fmt: skip


def encode_entities(table: pa.Table, entity: Entity, spec: FeatureSpec, vocab: Vocab) -> EntityTable:
    """Features of users or items as ids and numbers; rows in the table's order become rows 1 … R.

    Args:
        table: Has `user_id` or `item_id`; a missing feature column counts as no value. Numbers may be written as text.
        entity: Whose table it is.
        spec: The fields to encode.
        vocab: Their ids.

    Raises:
        DataError: The id column is missing or holds the same id twice, or a number is none.
    """
    name = f"{entity}_id"
    if name not in table.column_names:
        raise DataError(f"the {entity} table has no column {name!r}", code="column-missing", allowed=table.column_names)
    ids = table[name].combine_chunks().cast(pa.string())
    if len(ids.unique()) != len(ids):
        raise DataError(f"duplicate {entity} ids", code="ids-repeat", where=name)
    columns = {f.name: _encode_field(table, f, vocab) for f in spec.fields if f.entity == entity}
    return EntityTable(entity, ids, columns)


def empty_samples(count: int, history_length: int) -> Samples:
    """Room for `count` samples, to be filled by `Samples.put`."""
    return Samples(
        np.empty(count, np.int64), np.empty(count, np.int32), np.empty(count, np.int32),
        np.empty((count, history_length), np.int32), np.empty(count, np.float32), np.empty(count, np.int64),
    )  # fmt: skip


def joined(*parts: Samples) -> Samples:
    """Samples one part after the other; histories are of one length."""
    return Samples(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))


def encode_rows(table: pa.Table, history_length: int) -> Samples:
    """Sample rows as arrays.

    Args:
        table: Columns sample_id, user_row, item_row, label, time and history (lists of item rows, oldest first).
        history_length: L; of a longer history the most recent L events are kept.

    Raises:
        DataError: A column is missing.
    """
    missing = {"sample_id", "user_row", "item_row", "label", "time", "history"} - set(table.column_names)
    if missing:
        raise DataError(
            f"sample rows lack the columns {', '.join(sorted(missing))}",
            code="column-missing",
            allowed=table.column_names,
        )

    def column(name: str, kind: Any) -> NDArray[Any]:
        values: NDArray[Any] = table[name].combine_chunks().to_numpy(zero_copy_only=False)
        return values.astype(kind)

    values, length_N = list_parts(table["history"].combine_chunks())
    return Samples(
        column("sample_id", np.int64), column("user_row", np.int32), column("item_row", np.int32),
        _last(values.to_numpy(zero_copy_only=False), length_N, history_length), column("label", np.float32),
        column("time", np.int64),
    )  # fmt: skip


def _last(values: NDArray[Any], length_N: NDArray[np.int64], width: int) -> NDArray[np.int32]:
    """The last `width` values of every list, right-aligned, int32 [N, width]."""
    end_N = np.cumsum(length_N)
    position_NL = end_N[:, None] + np.arange(-width, 0)
    inside_NL = position_NL >= (end_N - length_N)[:, None]
    if len(values) == 0:
        return np.zeros((len(length_N), width), np.int32)
    return np.where(inside_NL, values[np.where(inside_NL, position_NL, 0)], 0).astype(np.int32)


def _encode_field(table: pa.Table, field: FieldSpec, vocab: Vocab) -> NDArray[Any]:
    shape = (table.num_rows + 1, field.width) if field.kind == "multi" else (table.num_rows + 1,)
    out = np.full(shape, field.blank, np.float32 if field.kind == "numeric" else np.int32)
    if field.name not in table.column_names:
        if field.kind == "categorical" and not field.is_number:
            out[1:] = PADDING
        return out
    column = table[field.name].combine_chunks()
    if field.is_number:
        out[1:] = _encode_numbers(_numbers(column, field.key), field)
    elif field.kind == "categorical":
        out[1:] = vocab.encode(field, _texts(column, field))
    else:
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_null(column.type)):
            raise DataError(
                f"{field.name} holds single values ({column.type}), not lists", code="feature-kind",
                where=f"{field.entity} features",
                hint='give each row a list of texts, e.g. ["Comedy", "Drama"]',
            )  # fmt: skip
        values, length_R = list_parts(column)
        ids = vocab.encode(field, values.cast(pa.string()))
        position_RM = np.cumsum(length_R)[:, None] - length_R[:, None] + np.arange(field.width)
        inside_RM = np.arange(field.width) < length_R[:, None]
        if len(ids):
            out[1:] = np.where(inside_RM, ids[np.where(inside_RM, position_RM, 0)], 0)
    return out


def _texts(column: pa.Array, field: FieldSpec) -> pa.Array:
    """The values of a categorical feature as texts."""
    try:
        return column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{field.name} holds {column.type}, not single values", code="feature-kind",
            where=f"{field.entity} features", hint="give each row one text",
        ) from error  # fmt: skip


def _encode_numbers(value_R: NDArray[np.float64], field: FieldSpec) -> NDArray[Any]:
    """Standardised numbers, or the ids of their buckets."""
    if field.edges is not None:
        bucket_R = np.searchsorted(np.asarray(field.edges), value_R, side="right")
        return np.where(np.isnan(value_R), field.blank, bucket_R + FIRST_ID).astype(np.int32)
    assert field.scale is not None
    with np.errstate(over="ignore"):
        scaled_R = (value_R - field.scale.mean) / field.scale.deviation
    return np.clip(scaled_R, -FARTHEST, FARTHEST).astype(np.float32)


def _numbers(column: pa.Array, where: str) -> NDArray[np.float64]:
    """A column as numbers, float64, NaN where there is none.

    Raises:
        DataError: A text is no number.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        texts = pc.utf8_trim_whitespace(column)
        column = pc.if_else(pc.is_in(pc.utf8_lower(texts), pa.array(["", "nan"])), pa.scalar(None, texts.type), texts)
    try:
        values: NDArray[np.float64] = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"holds {column.type} values that are not numbers ({error})", code="value-unreadable", where=where
        ) from error
    return np.where(np.isfinite(values), values, np.nan)
