"""The folder of an exported model: `model.onnx`, and `model.json`, which says what it takes and gives."""

import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

import onnx
from onnx import AttributeProto, GraphProto, TensorProto
from pydantic import Field

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.hashing import digest_file
from llmcf_cli.core.types import Config
from llmcf_cli.rec.bundle.manifest import FileRecord

MODEL, DESCRIPTION = "model.onnx", "model.json"
MAX_MODEL_BYTES = (1 << 31) - 1
"""Most that a file of this kind can be; larger ones keep their tensors in other files, and are refused."""
_MAX_DESCRIPTION_BYTES = 1 << 20
_AGAIN = "llmcf export-onnx BUNDLE --force"


class PortRecord(Config):
    """An input or output of the model."""

    name: str
    """Its name."""
    dtype: Literal["int64", "float32"]
    """Of its numbers."""
    shape: tuple[int | str, ...]
    """Sizes; a name stands for one that may differ from call to call, and is the same wherever it stands."""
    meaning: str
    """What it holds."""


class ModelDescription(Config):
    """What `model.json` says."""

    format: Literal["onnx 1"] = "onnx 1"
    llmcf: str
    """Version that made it."""
    bundle: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of the bundle that it was made of."""
    opset: int
    """Version of ONNX' operators."""
    file: FileRecord
    """`model.onnx`."""
    inputs: tuple[PortRecord, ...]
    """In the order of the model."""
    outputs: tuple[PortRecord, ...]


def write_package(folder: Path, model: bytes, describe: Any, *, replace: bool = False) -> None:
    """Write the folder as a whole.

    Args:
        folder: Must not exist, or hold nothing.
        model: The content of `model.onnx`.
        describe: `FileRecord` of that → `ModelDescription`.
        replace: Whether an earlier export may be there.

    Raises:
        StoreError: The folder holds something.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise StoreError("not a folder", code="onnx-exists", where=str(folder), hint="name another --out")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there and not (replace and there <= {MODEL, DESCRIPTION}):
        raise StoreError("not empty", code="onnx-exists", where=str(folder),
                         hint="replace an earlier export with --force, or name another --out")  # fmt: skip
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / MODEL).write_bytes(model)
    description = describe(FileRecord(sha256=digest_file(part / MODEL), bytes=len(model)))
    (part / DESCRIPTION).write_text(json.dumps(description.model_dump(mode="json"), indent=1))
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def read_package(folder: Path, bundle: str) -> tuple[ModelDescription, bytes]:
    """The description and the content of `model.onnx`, which are what was written.

    Args:
        folder: Where they are.
        bundle: Digest of the bundle that it must be made of.

    Raises:
        StoreError: There is none, it is of another bundle, malformed or changed, or reads other files.
    """
    paths = folder / DESCRIPTION, folder / MODEL
    for path in paths:
        if not path.is_file() or path.is_symlink():
            raise StoreError("the bundle has no ONNX export", code="onnx-missing", where=str(path),
                             hint=f"llmcf export-onnx {folder.parent}, or --engine torch")  # fmt: skip
    try:
        description = ModelDescription.model_validate(read_json(paths[0], _MAX_DESCRIPTION_BYTES, StoreError))
    except StoreError:
        raise
    except Exception as error:
        raise StoreError(f"does not describe an exported model: {str(error).splitlines()[0]:.200}",
                         code="onnx-malformed", where=str(paths[0]), hint=_AGAIN) from error  # fmt: skip
    if description.bundle != bundle:
        raise StoreError(f"was exported from another bundle, {description.bundle[:16]}…", code="onnx-other",
                         where=str(folder), hint=_AGAIN)  # fmt: skip
    size, record = paths[1].stat().st_size, description.file
    if size != record.bytes or size > MAX_MODEL_BYTES or digest_file(paths[1]) != record.sha256:
        raise StoreError("has changed since it was written", code="onnx-malformed", where=str(paths[1]), hint=_AGAIN)
    raw = paths[1].read_bytes()
    check_alone(raw, paths[1])
    return description, raw


def check_alone(raw: bytes, where: Path | str) -> None:
    """Whether a model reads no other file.

    Raises:
        StoreError: It does, or it is no model.
    """
    try:
        model = onnx.load_model_from_string(raw)
    except Exception as error:
        raise StoreError("not an ONNX model", code="onnx-malformed", where=str(where), hint=_AGAIN) from error
    nodes = [node for function in model.functions for node in function.node]
    if _elsewhere(model.graph) or any(_attribute_elsewhere(one) for node in nodes for one in node.attribute):
        raise StoreError("keeps tensors in other files", code="onnx-malformed", where=str(where), hint=_AGAIN)


def _elsewhere(graph: GraphProto) -> bool:
    """Whether a graph has a tensor in another file."""
    sparse = [tensor for one in graph.sparse_initializer for tensor in (one.values, one.indices)]
    own = any(tensor.data_location == TensorProto.EXTERNAL for tensor in (*graph.initializer, *sparse))
    return own or any(_attribute_elsewhere(one) for node in graph.node for one in node.attribute)


def _attribute_elsewhere(one: AttributeProto) -> bool:
    sparse = [tensor for part in (one.sparse_tensor, *one.sparse_tensors) for tensor in (part.values, part.indices)]
    tensors = (one.t, *one.tensors, *sparse)
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors) or any(
        _elsewhere(graph) for graph in (one.g, *one.graphs) if len(graph.node) or len(graph.initializer)
    )
