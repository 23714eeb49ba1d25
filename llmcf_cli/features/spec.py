"""Which features there are and which values they know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError

Entity = Literal["user", "item"]
ENTITIES: tuple[Entity, Entity] = ("user", "item")

PADDING = 0
"""Id of "no value"; its embedding is zero and stays zero."""
UNKNOWN = 1
"""Id of a value that training never saw."""
FIRST_ID = 2
"""Id of a vocabulary's first value."""

MAX_VALUES = 16
"""Values kept of a field that may have several."""


@dataclass(frozen=True)
class FieldSpec:
    """One feature of a user or an item.

    Attributes:
        name: Column of the entity's table.
        entity: Whose feature it is.
        kind: One value (`categorical`) or several (`multi`).
        size: Ids in use, padding and unknown included.
        width: Values per entity in arrays; 1 for a categorical field.
    """

    name: str
    entity: Entity
    kind: Literal["categorical", "multi"]
    size: int
    width: int = 1

    @property
    def key(self) -> str:
        """Name that is unique over both entities, e.g. `item.class`."""
        return f"{self.entity}.{self.name}"


@dataclass(frozen=True)
class FeatureSpec:
    """All features of a sample.

    Attributes:
        fields: Features of users and items, ids first. `user_id` and `item_id` are always among them.
        history_length: Positions of a history array (most recent last).
    """

    fields: tuple[FieldSpec, ...]
    history_length: int

    def of(self, entity: Entity, kind: str) -> tuple[FieldSpec, ...]:
        """The fields of one entity and kind, in order."""
        return tuple(f for f in self.fields if f.entity == entity and f.kind == kind)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data; `from_json` is the inverse."""
        return {"fields": [asdict(f) for f in self.fields], "history_length": self.history_length}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FeatureSpec:
        """The spec that `to_json` described."""
        return cls(tuple(FieldSpec(**f) for f in data["fields"]), int(data["history_length"]))


@dataclass(frozen=True)
class Vocab:
    """Value → id of every field: id = position + 2; 0 is padding, 1 unknown.

    Attributes:
        values: Field key → its known values, in id order, as a string array.
    """

    values: Mapping[str, pa.StringArray]

    def encode(self, field: FieldSpec, values: pa.Array) -> NDArray[np.int32]:
        """Ids of string values, int32 [n]; null becomes padding, a value without an id unknown."""
        found = pc.index_in(values, value_set=self.values[field.key], skip_nulls=True)
        ids = pc.fill_null(pc.add(found, FIRST_ID), UNKNOWN)
        return cast(
            "NDArray[np.int32]",
            pc.if_else(pc.is_null(values), pa.scalar(PADDING, pa.int32()), ids).to_numpy(zero_copy_only=False),
        )

    def to_arrow(self) -> pa.Table:
        """Rows (field, value) in id order; `from_arrow` is the inverse."""
        keys = [key for key, values in self.values.items() for _ in range(len(values))]
        values = pa.concat_arrays([pa.array([], pa.string()), *self.values.values()])
        return pa.table({"field": pa.array(keys, pa.string()), "value": values})

    @classmethod
    def from_arrow(cls, table: pa.Table, spec: FeatureSpec) -> Vocab:
        """The vocabulary that `to_arrow` wrote, for the fields of `spec`."""
        values = {f.key: _flat(table.filter(pc.equal(table["field"], f.key))["value"]) for f in spec.fields}
        return cls(values)


def fit_features(
    users: pa.Table, items: pa.Table, counts: Mapping[Entity, NDArray[np.int64]], history_length: int,
    min_count: int = 1,
) -> tuple[FeatureSpec, Vocab]:  # fmt: skip
    """Choose the fields and fit their vocabularies.

    Fields are the id and every further column except `*_row` and `text`. A single-valued column in which no two
    entities share a value only repeats the id and is left out. A value gets an id if the train samples show it at
    least `min_count` times, so nothing of an entity that only validation or test knows enters the model.

    Args:
        users: Table `user`, by user_row.
        items: Table `item`, by item_row.
        counts: How often each row occurs in train samples (as target or in a history), int64 [R + 1], by entity.
        history_length: Length of history arrays.
        min_count: Least train occurrences of a value.

    Raises:
        DataError: A column holds neither strings nor lists of strings.
    """
    fields: list[FieldSpec] = []
    values: dict[str, pa.StringArray] = {}
    for entity, table in zip(ENTITIES, (users, items), strict=True):
        count_R = counts[entity][1:]
        for name in _feature_columns(table, entity):
            column = _flat(table[name])
            known, kind, width = _fit_column(column, count_R, min_count, f"{entity}.{name}")
            if kind == "categorical" and name != f"{entity}_id" and _repeats_id(column):
                continue
            field = FieldSpec(name, entity, kind, len(known) + FIRST_ID, width)
            fields.append(field)
            values[field.key] = known
    return FeatureSpec(tuple(fields), history_length), Vocab(values)


def list_parts(column: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """A list array's child values and its lengths, int64 [n]; a null list has length 0.

    Slices and chunks are handled: values[sum(lengths[:i]) : sum(lengths[:i+1])] is list i.
    """
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return column.flatten(), lengths.astype(np.int64)


def _feature_columns(table: pa.Table, entity: Entity) -> Sequence[str]:
    rest = [n for n in table.column_names if n not in (f"{entity}_id", f"{entity}_row", "text")]
    return [f"{entity}_id", *rest]


def _fit_column(
    column: pa.Array, count_R: NDArray[np.int64], min_count: int, where: str
) -> tuple[pa.StringArray, Literal["categorical", "multi"], int]:
    kind: Literal["categorical", "multi"] = "categorical"
    width = 1
    values, weight_n = column, count_R
    if _is_list(column.type):
        kind = "multi"
        values, length_R = list_parts(column)
        weight_n = np.repeat(count_R, length_R)
        width = int(min(max(length_R.max(initial=1), 1), MAX_VALUES))
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise DataError(f"features are strings or lists of strings, this is {column.type}", where=where)
    seen = pa.table({"value": values.cast(pa.string()), "count": pa.array(weight_n)}).drop_null()
    totals = seen.group_by("value").aggregate([("count", "sum")])
    known = totals.filter(pc.greater_equal(totals["count_sum"], max(min_count, 1)))
    # Sorted, so that ids do not depend on the order of rows.
    return _flat(known["value"].combine_chunks().sort()), kind, width


def _repeats_id(column: pa.Array) -> bool:
    present = column.drop_null()
    return len(present) > 0 and pc.count_distinct(present).as_py() == len(present)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column
