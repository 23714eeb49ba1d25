"""Whether what a bundle holds is fit to be used: a stranger may have made it.

Legend: E examples, I items, T text, S search space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from llmcf_cli.core.errors import LlmcfError, ModelError, PackageError, StoreError, UnknownNameError
from llmcf_cli.features.batch import EntityTable, Samples, to_batch
from llmcf_cli.features.choice import ENTITIES
from llmcf_cli.features.spec import FARTHEST, FIRST_ID, FeatureSpec, FieldSpec
from llmcf_cli.rec.config import MAX_EXAMPLES
from llmcf_cli.rec.input.resources import ExampleBank, Resources
from llmcf_cli.rec.input.signals import signals_of
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.predict import score

LARGEST = 1e6
"""Of a weight or a part of a vector; trained ones stay below a thousand."""
MAX_HISTORY, MAX_FIELDS, MAX_WIDTH = 1 << 16, 1 << 12, 1 << 16
ROWS_PER_BYTE = 64
"""Rows that a byte of a Parquet file can stand for; its rows have distinct ids, which take more."""


@contextmanager
def wholesome(path: Path) -> Iterator[None]:
    """Make whatever a malformed part makes a library raise one kind of error."""
    try:
        yield
    except (StoreError, ModelError, PackageError):
        raise
    except UnknownNameError as error:
        hint = "install the plugin that has it"
        raise ModelError(error.what, code="type-unknown", where=str(path), allowed=error.allowed, hint=hint) from error
    except Exception as error:
        what = error.what if isinstance(error, LlmcfError) else (str(error).splitlines() or [""])[0]
        raise StoreError(
            f"a part of the bundle is malformed ({type(error).__name__}: {what:.200})",
            code="bundle-malformed", where=str(path),
            hint="copy the bundle again, or make it anew with llmcf train-rec",
        ) from error  # fmt: skip


def open_table(path: Path) -> pa.Table:
    """A Parquet table whose size its file can account for.

    Raises:
        StoreError: It claims more rows.
    """
    with pq.ParquetFile(path) as file:
        if file.metadata.num_rows > ROWS_PER_BYTE * path.stat().st_size:
            raise StoreError(
                f"claims {file.metadata.num_rows:,} rows, more than it can hold",
                code="bundle-oversized",
                where=str(path),
            )
        return file.read()


def check_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> None:
    """Compare names and shapes of a file of weights with those of a model; nothing is read but the file's header.

    Raises:
        ModelError: They differ.
    """
    from safetensors import safe_open

    with safe_open(path, "np") as weights:
        found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            here, there = (f"has {name} {list(at[name])}" if name in at else f"has no {name}" for at in (found, wanted))
            raise ModelError(
                f"the weights do not fit the model: the file {here}, the model {there}",
                code="bundle-unfit",
                where=str(path),
            )


def check_finite(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Check numbers.

    Raises:
        ModelError: Some are not finite, or so large that products of a few would not be.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool((tensor.abs() <= LARGEST).all()):  # of NaN nothing holds
            raise ModelError(
                f"{name} holds values that are not finite, or beyond {LARGEST:,.0f}",
                code="bundle-values",
                where=str(path),
            )


def check_spec(spec: FeatureSpec, path: Path) -> None:
    """Check the fields that a bundle describes, before arrays are made for them.

    Raises:
        ModelError: One is missing, there twice, or out of bounds.
    """
    keys = [field.key for field in spec.fields]
    _demand(len(set(keys)) == len(keys) <= MAX_FIELDS and {"user.user_id", "item.item_id"} <= set(keys), path, "fields")
    _demand(1 <= spec.history_length <= MAX_HISTORY, path, "history_length")
    kinds = get_args(get_type_hints(FieldSpec)["kind"])
    _demand(all(field.entity in ENTITIES and field.kind in kinds for field in spec.fields), path, "kinds of fields")
    sizes = [size for field in spec.fields for size in (field.size, field.width)]
    _demand(all(isinstance(size, int) for size in sizes), path, "sizes of fields")
    _demand(all(1 <= field.width <= MAX_WIDTH for field in spec.fields), path, "widths of fields")
    _demand(all(map(_is_scaled_as_its_kind, spec.fields)), path, "scales of fields")


def _is_scaled_as_its_kind(field: FieldSpec) -> bool:
    """Whether a field has the statistics that its kind needs, and no others."""
    if field.kind == "numeric":
        scale = field.scale
        return scale is not None and field.edges is None and field.size == FIRST_ID + 1 and bool(
            np.isfinite([scale.mean, scale.deviation]).all() and scale.deviation > 0
        )  # fmt: skip
    if field.scale is not None or (field.edges is not None and field.kind != "categorical"):
        return False
    edges = np.asarray(field.edges or (), np.float64)
    sorted_edges = bool(np.isfinite(edges).all() and (np.diff(edges) > 0).all())
    return field.edges is None or (sorted_edges and field.size == FIRST_ID + len(edges) + 2)


def check_resources(found: Resources, path: Path) -> None:
    """Check that all numbers mean something: rows are in the catalogue, ids in the vocabulary, vectors finite.

    Raises:
        ModelError: Some do not.
    """
    users, items = found.catalog.users, found.catalog.items
    for table in (users, items):
        _demand(table.ids.null_count == 0, path, f"{table.entity} ids")
        _check_columns(table, found, path)
    _check_vectors(found.item_text_IT, path, "text vectors")
    count = found.num_examples
    _demand(isinstance(count, int) and 0 <= count <= MAX_EXAMPLES, path, "number of examples")
    if found.bank is not None:
        _demand(count > 0, path, "number of examples")
        _check_bank(found.bank, len(users.ids), len(items.ids), path)
    if found.knowledge is not None:
        for kind, part in vars(found.knowledge).items():
            _check_vectors(part.vector_NT, path, f"knowledge of {kind}")
            size = len(part.vector_NT)
            _demand(_within(part.slot_R, size) and part.as_of_N.shape == (size,), path, f"knowledge of {kind}")
        _demand(found.knowledge.users.vector_NT.shape[1] == found.knowledge.dim, path, "knowledge")
    if found.histories is not None:
        histories = found.histories
        _demand(len(histories) == len(users.ids) + 1, path, "histories")
        _demand(_within(histories.item_E, len(items.ids) + 1), path, "histories")
        within_user = np.ones(len(histories.time_E), bool)
        within_user[histories.offset_U[1:-1][histories.offset_U[1:-1] < len(within_user)]] = False
        _demand(bool((np.diff(histories.time_E) >= 0)[within_user[1:]].all()), path, "times of histories")
    if found.collaborative is not None:
        shape = found.collaborative.item_FID.shape
        _demand(len(shape) == 3 and found.collaborative.count_FI.shape == shape[:2], path, "collaborative vectors")
        _check_vectors(found.collaborative.item_FID.reshape(-1, shape[2]), path, "collaborative vectors")


def check_answer(model: RecModel, path: Path) -> None:
    """Score one request of an unknown user, with the first example if there are any: whether all parts go together.

    Raises:
        ModelError: The score is not finite.
    """
    resources, none = model.resources, np.zeros(1, np.int32)
    history = np.zeros((1, resources.spec.history_length), np.int32)
    asked = Samples(none.astype(np.int64), none, none, history, none.astype(np.float32), none.astype(np.int64))
    example_NK = np.zeros((1, resources.num_examples), np.int32) if model.inputs["examples"] else None
    signal_NS = None
    if model.inputs["signals"] and resources.collaborative is not None:
        signal_NS = signals_of(resources, asked, resources.collaborative.later_folds(1))
    score_N = score(model, to_batch(asked, model.device, example_NK=example_NK, signal_NS=signal_NS), 1)
    _demand(torch.isfinite(score_N).all(), path, "scores")


def _check_columns(table: EntityTable, found: Resources, path: Path) -> None:
    for field in found.spec.fields:
        if field.entity == table.entity:
            values = table.columns[field.name]
            if field.kind == "numeric":
                fits = values.dtype == np.float32 and not (np.abs(values) > FARTHEST).any()  # NaN: missing
            else:
                fits = _within(values, field.size)
            _demand(len(values) == len(table.ids) + 1 and fits, path, f"values of {field.key}")


def _check_bank(bank: ExampleBank, users: int, items: int, path: Path) -> None:
    rows = bank.samples
    _demand(_within(rows.user_row_N, users + 1), path, "users of examples")
    _demand(_within(rows.item_row_N, items + 1) and _within(rows.history_row_NL, items + 1), path, "items of examples")
    _demand(np.isin(rows.label_N, (0, 1)).all(), path, "labels of examples")
    for what, vectors in (("vectors", bank.vector_ES), ("signals", bank.signal_EG), ("chains of thought", bank.cot_ET)):
        _check_vectors(vectors, path, f"{what} of examples")
        _demand(vectors is None or len(vectors) == len(bank), path, f"{what} of examples")


def _check_vectors(vectors: Any, path: Path, what: str) -> None:
    fits = vectors is None or (vectors.ndim == 2 and vectors.dtype == np.float32 and (np.abs(vectors) <= LARGEST).all())
    _demand(fits, path, what)


def _within(ids: np.ndarray, size: int) -> bool:
    """Whether all ids are from 0 up to, but without, a size."""
    return np.issubdtype(ids.dtype, np.integer) and (not ids.size or (ids.min() >= 0 and ids.max() < size))


def _demand(holds: Any, path: Path, what: str) -> None:
    if not holds:
        raise ModelError(
            f"{what}: out of range, of another size or kind, or not finite", code="bundle-values", where=str(path)
        )
