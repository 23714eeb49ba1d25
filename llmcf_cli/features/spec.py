"""Which features there are, which values they know and on which scale they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.choice import ENTITIES, Choice, Entity

PADDING = 0
"""Id of "no value"; its embedding is zero and stays zero."""
UNKNOWN = 1
"""Id of a value that training never saw; of a numeric field on its own scale, of a missing number."""
FIRST_ID = 2
"""Id of a vocabulary's first value; of a numeric field on its own scale, of the number itself."""


FARTHEST = 1e4
"""Numbers farther from the mean, in standard deviations, count as that far; of n train entities none is beyond √n."""
_SAME = 1e-9  # of the largest number: a spread below it is rounding


@dataclass(frozen=True)
class Scale:
    """Statistics of a number over the entities of the train split: (value - mean) / deviation is what models read."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class FieldSpec:
    """One feature of a user or an item.

    Attributes:
        name: Column of the entity's table.
        entity: Whose feature it is.
        kind: One value (`categorical`), several (`multi`), or a number on its own scale (`numeric`).
        size: Ids in use, padding and unknown included.
        width: Values per entity in arrays; 1 unless it is `multi`.
        scale: Of a `numeric` field.
        edges: Of a number in buckets, which is a `categorical` field: bucket b holds edges[b - 1] ≤ value < edges[b],
            has id b + 2, and the last id is that of a missing number.
    """

    name: str
    entity: Entity
    kind: Literal["categorical", "multi", "numeric"]
    size: int
    width: int = 1
    scale: Scale | None = None
    edges: tuple[float, ...] | None = None

    @property
    def key(self) -> str:
        """Name that is unique over both entities, e.g. `item.class`."""
        return f"{self.entity}.{self.name}"

    @property
    def is_number(self) -> bool:
        """Whether its column holds numbers; such a field has no vocabulary."""
        return self.scale is not None or self.edges is not None

    @property
    def blank(self) -> int | float:
        """What stands in arrays for an entity that nobody knows."""
        if self.scale is not None:
            return float("nan")
        if self.edges is not None:
            return self.size - 1
        return PADDING if self.kind == "multi" else UNKNOWN


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
        return cls(tuple(map(_field_from_json, data["fields"])), int(data["history_length"]))


def _field_from_json(data: Mapping[str, Any]) -> FieldSpec:
    scale, edges = data["scale"], data["edges"]
    read = {"scale": None if scale is None else Scale(**scale), "edges": None if edges is None else tuple(edges)}
    return FieldSpec(**{**data, **read})


@dataclass(frozen=True)
class Vocab:
    """Value → id of every field of texts: id = position + 2; 0 is padding, 1 unknown.

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
        fields = [f for f in spec.fields if not f.is_number]
        return cls({f.key: _flat(table.filter(pc.equal(table["field"], f.key))["value"]) for f in fields})


def fit_features(
    users: pa.Table, items: pa.Table, choices: Sequence[Choice], counts: Mapping[Entity, NDArray[np.int64]],
    history_length: int, min_count: int = 1,
) -> tuple[FeatureSpec, Vocab]:  # fmt: skip
    """Fit the vocabularies and scales of the ids and the chosen columns.

    A value gets an id if the train samples show it at least `min_count` times, and a scale is that of the entities
    that train samples show, so nothing of an entity that only validation or test knows enters the model.

    Args:
        users: Table `user`, by user_row.
        items: Table `item`, by item_row.
        choices: The features beside the ids. Fields come in the order of the tables' columns.
        counts: How often each row occurs in train samples (as target or in a history), int64 [R + 1], by entity.
        history_length: Length of history arrays.
        min_count: Least train occurrences of a value.

    Raises:
        DataError: A chosen column is missing, or of another type than its kind needs.
    """
    fields: list[FieldSpec] = []
    values: dict[str, pa.StringArray] = {}
    for entity, table in zip(ENTITIES, (users, items), strict=True):
        chosen = {choice.name: choice for choice in choices if choice.entity == entity}
        missing = sorted(chosen.keys() - set(table.column_names))
        if missing:
            what = f"the {entity} table has no column {missing[0]!r}"
            raise DataError(
                what, code="column-missing", where="features", hint="run the recipe again with --force ingest"
            )
        ordered = [chosen[name] for name in table.column_names if name in chosen]
        for choice in [Choice(entity, f"{entity}_id", "categorical"), *ordered]:
            column, count_R = _flat(table[choice.name]), counts[entity][1:]
            if choice.kind == "numeric":
                fields.append(_fit_number(column, count_R, choice))
                continue
            known, width = _fit_texts(column, count_R, min_count, choice)
            fields.append(FieldSpec(choice.name, entity, choice.kind, len(known) + FIRST_ID, width))
            values[fields[-1].key] = known
    return FeatureSpec(tuple(fields), history_length), Vocab(values)


def grown_features(
    before: tuple[FeatureSpec, Vocab], now: tuple[FeatureSpec, Vocab]
) -> tuple[FeatureSpec, Vocab]:  # fmt: skip
    """Features in which values that training has seen since have ids of their own, after those of before.

    Scales and buckets of numbers stay, as weights were trained on them.

    Args:
        before: What a model was trained with.
        now: What `fit_features` finds in more rows of the same data.
    """
    found = {field.key: field for field in now[0].fields}
    fields, values = [], {}
    for field in before[0].fields:
        if field.is_number:
            fields.append(field)
            continue
        old, later = before[1].values[field.key], now[1].values[field.key]
        new = later.filter(pc.invert(pc.is_in(later, value_set=old)))
        values[field.key] = pa.concat_arrays([old.cast(pa.string()), new.cast(pa.string())])
        width = max(field.width, found[field.key].width)
        fields.append(replace(field, size=len(values[field.key]) + FIRST_ID, width=width))
    return FeatureSpec(tuple(fields), before[0].history_length), Vocab(values)


def list_parts(column: pa.Array) -> tuple[pa.Array, NDArray[np.int64]]:
    """A list array's child values and its lengths, int64 [n]; a null list has length 0.

    Slices and chunks are handled: values[sum(lengths[:i]) : sum(lengths[:i+1])] is list i.
    """
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    return column.flatten(), lengths.astype(np.int64)


def _fit_texts(
    column: pa.Array, count_R: NDArray[np.int64], min_count: int, choice: Choice
) -> tuple[pa.StringArray, int]:  # fmt: skip
    """The values that get an id, and how many an entity has at most."""
    width, values, weight_n = 1, column, count_R
    if (choice.kind == "multi") != _is_list(column.type):
        raise _wrong_type(column, choice)
    if choice.kind == "multi":
        values, length_R = list_parts(column)
        kept_n = _position_in_list(length_R) < choice.max_values
        values, weight_n = values.filter(pa.array(kept_n)), np.repeat(count_R, length_R)[kept_n]
        width = int(np.clip(length_R.max(initial=1), 1, choice.max_values))
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        raise _wrong_type(column, choice)
    seen = pa.table({"value": values.cast(pa.string()), "count": pa.array(weight_n)}).drop_null()
    totals = seen.group_by("value").aggregate([("count", "sum")])
    known = totals.filter(pc.greater_equal(totals["count_sum"], max(min_count, 1)))
    # Sorted, so that ids do not depend on the order of rows.
    return _flat(known["value"].combine_chunks().sort()), width


def _fit_number(column: pa.Array, count_R: NDArray[np.int64], choice: Choice) -> FieldSpec:
    """The scale or the buckets of a number, by the entities of the train split that have one, each counted once."""
    if not pa.types.is_float64(column.type):
        raise _wrong_type(column, choice)
    value_R = column.to_numpy(zero_copy_only=False)
    known_n = value_R[(count_R > 0) & np.isfinite(value_R)]
    if choice.transform == "quantile":
        inner = np.arange(1, choice.buckets) / choice.buckets
        edges = np.unique(np.quantile(known_n, inner)) if len(known_n) else np.zeros(0)
        if len(edges) and len(known_n) and edges[0] <= known_n.min():
            edges = edges[1:]  # a bucket below the least value would stay empty
        size = FIRST_ID + len(edges) + 2
        return FieldSpec(choice.name, choice.entity, "categorical", size, edges=tuple(map(float, edges)))
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = (float(f(known_n)) if len(known_n) else 0.0 for f in (np.mean, np.std))
    if not (np.isfinite(mean) and np.isfinite(deviation)):
        what = "the numbers are too large to standardise"
        raise DataError(
            what, code="feature-range", where=f"{choice.entity}.{choice.name}", hint="use `transform: quantile`"
        )
    if deviation <= _SAME * np.abs(known_n).max(initial=0):
        deviation = 1.0  # all the same
    return FieldSpec(choice.name, choice.entity, "numeric", FIRST_ID + 1, scale=Scale(mean, deviation))


def _position_in_list(length_R: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each value in its own list, int64 [sum of lengths]."""
    start_R = np.cumsum(length_R) - length_R
    return np.arange(length_R.sum()) - np.repeat(start_R, length_R)


def _wrong_type(column: pa.Array, choice: Choice) -> DataError:
    wanted = {"categorical": "strings", "multi": "lists of strings", "numeric": "numbers (double)"}[choice.kind]
    what = f"a {choice.kind} feature needs {wanted}, but this column holds {column.type}"
    return DataError(what, code="feature-kind", where=f"{choice.entity}.{choice.name}")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    return column.cast(pa.string()) if pa.types.is_large_string(column.type) else column
