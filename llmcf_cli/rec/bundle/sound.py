"""Whether what a bundle holds is fit to be used: a stranger may have made it. Inputs check their own part."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import torch

from llmcf_cli.core.errors import LlmcfError, ModelError, PackageError, StoreError, UnknownNameError
from llmcf_cli.features.batch import EntityTable, Samples, to_batch
from llmcf_cli.features.choice import ENTITIES
from llmcf_cli.features.spec import FARTHEST, FIRST_ID, FeatureSpec, FieldSpec
from llmcf_cli.rec.input.base import Input
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.stored import LARGEST, Stored, demand, within
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.rec.train.predict import score

MAX_HISTORY, MAX_FIELDS, MAX_WIDTH = 1 << 16, 1 << 12, 1 << 16


@contextmanager
def wholesome(path: Path) -> Iterator[None]:
    """Make whatever a malformed part makes a library raise one kind of error."""
    try:
        yield
    except (StoreError, ModelError, PackageError):
        raise
    except UnknownNameError as error:
        hint = "install the plugin that provides it"
        raise ModelError(error.what, code="type-unknown", where=str(path), allowed=error.allowed, hint=hint) from error
    except Exception as error:
        what = error.what if isinstance(error, LlmcfError) else (str(error).splitlines() or [""])[0]
        raise StoreError(
            f"a part of the bundle is malformed ({type(error).__name__}: {what:.200})",
            code="bundle-malformed", where=str(path),
            hint="copy the bundle again, or train again: llmcf train-rec RECIPE",
        ) from error  # fmt: skip


def check_weights(stored: Stored, file: str, expected: Mapping[str, torch.Tensor]) -> None:
    """Compare names and shapes of a file of weights with those of a model; nothing is read but the file's header.

    Raises:
        ModelError: They differ.
    """
    from safetensors import safe_open

    path = stored.path(file)
    with safe_open(path, "np") as weights:
        sizes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
    found = {stored.now(file, name): size for name, size in sizes.items()}
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
                f"{name} has values that are not finite, or beyond {LARGEST:,.0f}",
                code="bundle-values",
                where=str(path),
            )


def check_spec(spec: FeatureSpec, path: Path) -> None:
    """Check the fields that a bundle describes, before arrays are made for them.

    Raises:
        ModelError: One is missing, there twice, or out of bounds.
    """
    keys = [field.key for field in spec.fields]
    demand(len(set(keys)) == len(keys) <= MAX_FIELDS and {"user.user_id", "item.item_id"} <= set(keys), path, "fields")
    demand(1 <= spec.history_length <= MAX_HISTORY, path, "history_length")
    kinds = get_args(get_type_hints(FieldSpec)["kind"])
    demand(all(field.entity in ENTITIES and field.kind in kinds for field in spec.fields), path, "kinds of fields")
    sizes = [size for field in spec.fields for size in (field.size, field.width)]
    demand(all(isinstance(size, int) for size in sizes), path, "sizes of fields")
    demand(all(1 <= field.width <= MAX_WIDTH for field in spec.fields), path, "widths of fields")
    demand(all(map(_is_scaled_as_its_kind, spec.fields)), path, "scales of fields")


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
    """Check that catalogue and histories mean something: ids in the vocabulary, items in the catalogue.

    Raises:
        ModelError: Some do not.
    """
    users, items = found.catalog.users, found.catalog.items
    for table in (users, items):
        demand(table.ids.null_count == 0, path, f"{table.entity} ids")
        _check_columns(table, found, path)
    if found.histories is not None:
        histories = found.histories
        demand(len(histories) == len(users.ids) + 1, path, "histories")
        demand(within(histories.item_E, len(items.ids) + 1), path, "histories")
        within_user = np.ones(len(histories.time_E), bool)
        within_user[histories.offset_U[1:-1][histories.offset_U[1:-1] < len(within_user)]] = False
        demand(bool((np.diff(histories.time_E) >= 0)[within_user[1:]].all()), path, "times of histories")


def check_answer(model: Recommender, inputs: Mapping[str, Input], path: Path) -> None:
    """Score one request of an unknown user, with some values of the inputs: whether all parts go together.

    Raises:
        ModelError: The score is not finite.
    """
    resources, none = model.resources, np.zeros(1, np.int32)
    history = np.zeros((1, resources.spec.history_length), np.int32)
    asked = Samples(none.astype(np.int64), none, none, history, none.astype(np.float32), none.astype(np.int64))
    values = {name: one.trial(resources, asked) for name, one in inputs.items()}
    score_N = score(model, to_batch(asked, model.device, inputs=values), 1)
    demand(torch.isfinite(score_N).all(), path, "scores")


def _check_columns(table: EntityTable, found: Resources, path: Path) -> None:
    for field in found.spec.fields:
        if field.entity == table.entity:
            values = table.columns[field.name]
            if field.kind == "numeric":
                fits = values.dtype == np.float32 and not (np.abs(values) > FARTHEST).any()  # NaN: missing
            else:
                fits = within(values, field.size)
            demand(len(values) == len(table.ids) + 1 and fits, path, f"values of {field.key}")
