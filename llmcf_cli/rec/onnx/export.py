"""A trained ranking model as ONNX: backbone, augmenter, and all tables that they read, in one file.

Legend: N rows, L history.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmcf_cli import __version__
from llmcf_cli.core.errors import ModelError
from llmcf_cli.features.batch import Samples, to_batch
from llmcf_cli.rec.bundle.manifest import FileRecord
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.onnx.graph import PAIRS, SCORE, Graph, Port, feeds, ports_of, tensors
from llmcf_cli.rec.onnx.package import MAX_MODEL_BYTES, ModelDescription, PortRecord, check_alone, write_package
from llmcf_cli.rec.onnx.session import OnnxModel
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.rec.train.predict import score

Values = Callable[[Samples], Mapping[str, NDArray[Any] | None]]
"""Rows → values of the arm's inputs for them, by name."""
TOLERANCE = 1e-5
"""Largest difference from the model's own score, plus that share of it."""
SIZES = (1, 7, 100)
"""Numbers of rows that are compared."""


def export_onnx(
    model: Recommender, values_of: Values, folder: Path, digest: str, *, replace: bool = False
) -> ModelDescription:
    """Write a folder with `model.onnx` and `model.json`, once the exported model scores as the model does.

    Args:
        model: A trained model.
        values_of: Values of its inputs for requests.
        folder: Folder to make.
        digest: Of the bundle that the model is of.
        replace: Whether an earlier export may be there.

    Raises:
        ModelError: It cannot be exported, and why; or what is exported scores otherwise.
        StoreError: The folder holds something already.
    """
    raw, ports, opset = exported(model, values_of)
    check_alone(raw, "model.onnx")
    check_scores(model, values_of, OnnxModel(raw, ports))
    output = PortRecord(name=SCORE, dtype="float32", shape=(PAIRS,), meaning="the model's score: of ranking the logit")
    made: list[ModelDescription] = []

    def describe(file: FileRecord) -> ModelDescription:
        made.append(ModelDescription(
            llmcf=__version__, bundle=digest, opset=opset, file=file,
            inputs=tuple(PortRecord(**asdict(port)) for port in ports), outputs=(output,),
        ))  # fmt: skip
        return made[0]

    write_package(folder, raw, describe, replace=replace)
    return made[0]


def exported(model: Recommender, values_of: Values) -> tuple[bytes, tuple[Port, ...], int]:
    """The content of `model.onnx`, its inputs, and the version of its operators.

    Raises:
        ModelError: The model cannot be exported, and why.
    """
    if not isinstance(model, RecModel):
        raise ModelError(
            "the model searches the whole catalogue and leaves out items by user, which an ONNX graph cannot express",
            code="onnx-task", where="export-onnx", hint="use a bundle of the task `ranking`; of a cascade, `rank`",
        )  # fmt: skip
    tables = sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))
    if tables > MAX_MODEL_BYTES:
        raise ModelError(f"weights and tables: {tables / 1e9:.1f} GB; ONNX files hold at most 2.1 GB",
                         code="onnx-large",
                         where="export-onnx", hint="serve the bundle with --engine torch")  # fmt: skip
    samples = some_samples(model, 6)
    values = values_of(samples)
    ports = ports_of(model, values)
    free: dict[str, Any] = {}
    shapes = tuple(
        {
            at: free.setdefault(size, torch.export.Dim(size))
            for at, size in enumerate(port.shape)
            if isinstance(size, str)
        }
        for port in ports
    )
    graph = Graph(model, ports).eval()
    try:
        with torch.no_grad(), _quiet():
            program = torch.export.export(
                graph,
                tensors(ports, _several(ports, feeds(ports, samples, values))),
                dynamic_shapes=(shapes,),
                strict=False,
            )
            made = torch.onnx.export(
                program, input_names=[port.name for port in ports], output_names=[SCORE], dynamo=True,
                external_data=False, verbose=False,
            )  # fmt: skip
        assert made is not None, "no file is named"
        proto = made.model_proto
    except Exception as error:
        parts = f"backbone {model.configs.backbone.type}, augmenter {model.configs.augment.type}"
        raise ModelError(
            f"cannot be exported ({type(error).__name__}: {_reason(error)})", code="onnx-unsupported", where=parts,
            hint="serve the bundle with --engine torch",
        ) from error  # fmt: skip
    _name_sizes(proto, ports)
    return proto.SerializeToString(), ports, int(proto.opset_import[0].version)


def _several(ports: tuple[Port, ...], fed: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Tensors with at least two of everything that may be several: torch takes a 1 for the only size there is."""
    return {port.name: np.repeat(fed[port.name], 2, 0) if len(fed[port.name]) == 1 else fed[port.name]
            for port in ports}  # fmt: skip


def _name_sizes(proto: Any, ports: tuple[Port, ...]) -> None:
    """Call sizes that may differ from call to call as the ports do; torch numbers them."""
    del proto.graph.value_info[:]
    shapes = [port.shape for port in ports] + [(PAIRS,)]
    for value, shape in zip([*proto.graph.input, *proto.graph.output], shapes, strict=True):
        for dim, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            if isinstance(size, str):
                dim.dim_param = size


def check_scores(model: Recommender, values_of: Values, onnx: OnnxModel) -> None:
    """Compare an exported model with the model on requests with 1, 7 and 100 candidates.

    Where a model's own rounding moves its scores by more than `TOLERANCE`, as those of large weights, the export may be
    twice as far from the scores in float64 as the model is.

    Raises:
        ModelError: Some score differs by more.
    """
    for size in SIZES:
        samples = some_samples(model, size)
        values = values_of(samples)
        expected_N = score(model, to_batch(samples, model.device, inputs=values), size).cpu().numpy()
        found_N = onnx.score(samples, values)
        off_N, most_N = np.abs(found_N - expected_N), TOLERANCE * (1 + np.abs(expected_N))
        if (off_N <= most_N).all():  # NaN is not
            continue
        twin = copy.deepcopy(model).train().double()  # training, which ends what is kept in float32
        exact_N = score(twin, to_batch(samples, model.device, inputs=values), size).cpu().numpy()
        most_N = np.maximum(most_N, 2 * np.abs(expected_N - exact_N).max())
        if not (np.abs(found_N - exact_N) <= most_N).all():
            raise ModelError(f"scores of {size} candidates differ from the model's by up to {off_N.max():.3g}",
                             code="onnx-differs", where="model.onnx",
                             hint="serve the bundle with --engine torch")  # fmt: skip


def some_samples(model: Recommender, count: int) -> Samples:
    """Requests of several candidates each, the same at each call.

    Users and items are known and unknown ones, histories long, short and empty.
    """
    resources = model.resources
    rng = np.random.default_rng(count)
    users, items = len(resources.catalog.users.ids), len(resources.catalog.items.ids)
    length = resources.spec.history_length
    requests = -(-count // 3)
    request_N = np.sort(rng.integers(0, requests, count))
    request_N[0], request_N[-1] = 0, requests - 1
    user_R, events_R = rng.integers(0, users + 1, requests), rng.integers(0, length + 1, requests)
    user_R[-1], events_R[-1], events_R[0] = 0, length, 0
    event_RL = np.minimum(rng.integers(1, items + 2, (requests, length)), items)
    history_RL = np.where(np.arange(length, 0, -1) <= events_R[:, None], event_RL, 0)
    return Samples(
        np.full(count, -1, np.int64), user_R.astype(np.int32)[request_N],
        rng.integers(0, items + 1, count).astype(np.int32), history_RL.astype(np.int32)[request_N],
        np.zeros(count, np.float32), np.full(count, np.iinfo(np.int64).max, np.int64),
    )  # fmt: skip


def _reason(error: BaseException) -> str:
    """The innermost cause's first line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{(str(error).strip().splitlines() or [type(error).__name__])[0]:.200}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks to its own authors."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
