"""The folder that training leaves and serving loads. safetensors, Parquet and JSON; nothing in it is code.

Legend: E examples, I items, T text, S search space.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from llmcf_cli import __version__
from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.core.hashing import digest_file
from llmcf_cli.features.batch import Catalog, EntityTable, encode_rows
from llmcf_cli.features.collaborative import load_collaborative, save_collaborative
from llmcf_cli.features.spec import Entity, FeatureSpec, Vocab
from llmcf_cli.plugin import registry
from llmcf_cli.rec.dataset import ExampleBank, Resources
from llmcf_cli.rec.knowledge import EntityKnowledge, Knowledge
from llmcf_cli.rec.model import RecModel

FORMAT = 1
MANIFEST, RECIPE, VOCAB = "bundle.json", "recipe.json", "vocab.parquet"
WEIGHTS, TEXT, COLLABORATIVE, KNOWLEDGE, VECTORS, EXAMPLES = (
    "weights.safetensors",
    "item_text.safetensors",
    "collaborative.safetensors",
    "knowledge.safetensors",
    "examples.safetensors",
    "examples.parquet",
)
ARRAYS = ("cot_ET", "vector_ES", "signal_EG", "part_EJT")
"""What `VECTORS` may hold: fields of `ExampleBank`."""


@dataclass(frozen=True)
class Bundle:
    """A model ready to serve.

    Attributes:
        model: In evaluation mode, with everything it looks things up in.
        recipe: The resolved recipe it was made by, as JSON data.
        clock: `global` or `per_user`: how times of examples and requests compare.
    """

    model: RecModel
    recipe: Mapping[str, Any]
    clock: str


def save_bundle(path: Path, model: RecModel, *, recipe: Mapping[str, Any], clock: str) -> None:
    """Write a bundle. The same model and recipe give the same bytes.

    Args:
        path: Folder to make; must not hold anything yet.
        model: A trained model.
        recipe: The resolved recipe as JSON data.
        clock: `global` or `per_user`.

    Raises:
        StoreError: The folder is not empty.
    """
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise StoreError("the bundle folder is not empty", where=str(path))
    resources, configs = model.resources, model.configs
    save_tensors({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, path / WEIGHTS)
    (path / RECIPE).write_text(json.dumps(recipe, indent=1, sort_keys=True))
    pq.write_table(resources.vocab.to_arrow(), path / VOCAB)
    for table in (resources.catalog.users, resources.catalog.items):
        pq.write_table(_catalog_table(table), path / f"{table.entity}.parquet")
    if resources.item_text_IT is not None:
        save_arrays({"item_text_IT": np.ascontiguousarray(resources.item_text_IT)}, path / TEXT)
    if resources.knowledge is not None:
        _save_knowledge(resources.knowledge, path)
    if resources.collaborative is not None:
        save_collaborative(resources.collaborative.serving(), path / COLLABORATIVE)
    if resources.bank is not None:
        _save_bank(resources.bank, path)
    files = {f.name: {"sha256": digest_file(f), "bytes": f.stat().st_size} for f in sorted(path.iterdir())}
    manifest = {
        "format": FORMAT, "llmcf": __version__, "clock": clock, "num_examples": resources.num_examples,
        "features": resources.spec.to_json(),
        "backbone": configs["backbone"].model_dump(mode="json"), "augment": configs["augment"].model_dump(mode="json"),
        "objectives": [config.model_dump(mode="json") for config in configs["objectives"]], "files": files,
    }  # fmt: skip
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))


def load_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Read a bundle.

    Args:
        path: Its folder.
        verify: Compare every file with its digest.

    Raises:
        StoreError: The folder is no bundle, of another format version, or a file is missing or changed.
        ModelError: The parts do not fit together.
    """
    manifest = _manifest(path)
    if verify:
        _verify(path, manifest["files"])
    resources = _resources(path, manifest)
    backbone = _config("backbone", manifest["backbone"])
    _check_fit(path, resources.spec, backbone.embedding_dim)
    objectives = [_config("objective", item) for item in manifest["objectives"]]
    model = RecModel(resources, backbone, _config("augmenter", manifest["augment"]), objectives)
    try:
        model.load_state_dict(load_tensors(path / WEIGHTS))
    except (RuntimeError, SafetensorError) as error:
        lines = str(error).splitlines()
        what = f"the weights do not fit the model: {lines[min(1, len(lines) - 1)].strip()}"
        raise ModelError(what, where=str(path / WEIGHTS)) from error
    return Bundle(model.eval(), json.loads((path / RECIPE).read_text()), manifest["clock"])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise StoreError("is no bundle: it has no bundle.json", where=str(path), hint="llmcf train-rec") from error
    except ValueError as error:
        raise StoreError(f"is no JSON: {error}", where=str(path / MANIFEST)) from error
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"bundle format {manifest.get('format')}, this version reads {FORMAT}", where=str(path),
            hint=f"use llmcf {manifest.get('llmcf', '?')}, or train again",
        )  # fmt: skip
    return manifest


def _verify(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, record in files.items():
        file = path / name
        if not file.is_file():
            raise StoreError("the bundle lacks a file", where=str(file), hint="copy the bundle again")
        if file.stat().st_size != record["bytes"] or digest_file(file) != record["sha256"]:
            raise StoreError("differs from what was written", where=str(file), hint="copy the bundle again")


def _resources(path: Path, manifest: Mapping[str, Any]) -> Resources:
    spec = FeatureSpec.from_json(manifest["features"])
    vocab = Vocab.from_arrow(pq.read_table(path / VOCAB), spec)
    for field in spec.fields:
        if field.size != len(vocab.values[field.key]) + 2:
            raise ModelError(f"vocabulary of {field.key} does not fit the spec", where=str(path / VOCAB))
    catalog = Catalog(*(_load_entities(path, entity, spec) for entity in ("user", "item")))
    text_IT = load_arrays(path / TEXT)["item_text_IT"] if (path / TEXT).is_file() else None
    if text_IT is not None and len(text_IT) != len(catalog.items.ids) + 1:
        raise ModelError(
            f"text vectors for {len(text_IT) - 1} items, catalogue of {len(catalog.items.ids)}",
            where=str(path),
        )
    bank = _load_bank(path, spec.history_length) if (path / EXAMPLES).is_file() else None
    collaborative = load_collaborative(path / COLLABORATIVE) if (path / COLLABORATIVE).is_file() else None
    if collaborative is not None and collaborative.item_FID.shape[1] != len(catalog.items.ids) + 1:
        raise ModelError("collaborative vectors and catalogue differ in the number of items", where=str(path))
    knowledge = _load_knowledge(path, catalog) if (path / KNOWLEDGE).is_file() else None
    return Resources(spec, vocab, catalog, text_IT, bank, manifest["num_examples"], knowledge, collaborative)


def _check_fit(path: Path, spec: FeatureSpec, embedding_dim: int) -> None:
    """The mistakes that a user can make, before torch words them."""
    from safetensors import safe_open

    with safe_open(path / WEIGHTS, "np") as weights:
        rows, dim = weights.get_slice("embedding.table_VD").get_shape()
    expected = 1 + sum(field.size - 1 for field in spec.fields)
    if rows != expected:
        raise ModelError(f"vocabulary of {expected} ids does not fit weights for {rows}", where=str(path))
    if dim != embedding_dim:
        raise ModelError(f"embedding dimension {embedding_dim}, but the weights have {dim}", where=str(path))


def _config(kind: str, data: Mapping[str, Any]) -> Any:
    return registry().get(kind, data["type"], where="bundle.json").config().model_validate(dict(data))


def _catalog_table(table: EntityTable) -> pa.Table:
    columns: dict[str, Any] = {f"{table.entity}_id": table.ids}
    for name, ids in table.columns.items():
        if ids.ndim == 1:
            columns[f"field.{name}"] = pa.array(ids[1:])
        else:
            columns[f"field.{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(ids[1:].reshape(-1)), ids.shape[1])
    return pa.table(columns)


def _load_entities(path: Path, entity: Entity, spec: FeatureSpec) -> EntityTable:
    table = pq.read_table(path / f"{entity}.parquet")
    columns = {}
    for field in spec.fields:
        if field.entity != entity:
            continue
        column = table[f"field.{field.name}"].combine_chunks()
        shape = (len(column),) if field.kind == "categorical" else (len(column), field.width)
        values = column.to_numpy() if field.kind == "categorical" else column.flatten().to_numpy()
        # Row 0: an unknown entity has unknown values, and no list of them.
        first = np.full((1, *shape[1:]), 1 if field.kind == "categorical" else 0, np.int32)
        columns[field.name] = np.concatenate([first, values.reshape(shape)])
    return EntityTable(entity, table[f"{entity}_id"].combine_chunks(), columns)


def _save_knowledge(knowledge: Knowledge, path: Path) -> None:
    arrays = {f"{kind}.{name}": array for kind, part in vars(knowledge).items() for name, array in vars(part).items()}
    save_arrays({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path / KNOWLEDGE)


def _load_knowledge(path: Path, catalog: Catalog) -> Knowledge:
    arrays = load_arrays(path / KNOWLEDGE)
    parts = {}
    for kind, table in (("users", catalog.users), ("items", catalog.items)):
        parts[kind] = EntityKnowledge(**{name: arrays[f"{kind}.{name}"] for name in ("slot_R", "vector_NT", "as_of_N")})
        if len(parts[kind].slot_R) != len(table.ids) + 1:
            raise ModelError(f"knowledge and catalogue differ in the number of {kind}", where=str(path / KNOWLEDGE))
    return Knowledge(**parts)


def _save_bank(bank: ExampleBank, path: Path) -> None:
    columns = {name.rsplit("_", 1)[0]: array for name, array in asdict(bank.samples).items()}
    history_EL = columns.pop("history_row")
    history = pa.FixedSizeListArray.from_arrays(pa.array(history_EL.reshape(-1)), history_EL.shape[1])
    pq.write_table(pa.table({**columns, "history": history}), path / EXAMPLES)
    arrays = {name: getattr(bank, name) for name in ARRAYS}
    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    save_arrays(kept, path / VECTORS)


def _load_bank(path: Path, history_length: int) -> ExampleBank:
    samples = encode_rows(pq.read_table(path / EXAMPLES), history_length)
    arrays = load_arrays(path / VECTORS)
    if len(arrays["cot_ET"]) != len(samples):
        raise ModelError(f"{len(arrays['cot_ET'])} vectors for {len(samples)} examples", where=str(path / VECTORS))
    return ExampleBank(samples, **{name: arrays.get(name) for name in ARRAYS})
