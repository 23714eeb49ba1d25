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
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from llmcf_cli import __version__
from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.hashing import digest_file, digest_json
from llmcf_cli.core.types import Clock, TaskConfig
from llmcf_cli.features.batch import Catalog, EntityTable, encode_rows
from llmcf_cli.features.choice import Entity
from llmcf_cli.features.collaborative import load_collaborative, save_collaborative
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spec import FeatureSpec, Vocab
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle.sound import (
    check_answer,
    check_finite,
    check_resources,
    check_spec,
    check_weights,
    open_table,
    wholesome,
)
from llmcf_cli.rec.input.knowledge import EntityKnowledge, Knowledge
from llmcf_cli.rec.input.resources import ExampleBank, Resources
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.tasks.base import TASK, Task

FORMAT = 3
OLDER_TASK = {"type": "ranking"}
"""Of bundles that name no task, from when there was no other."""
MAX_MANIFEST_BYTES = 4 << 20
MANIFEST, RECIPE, VOCAB = "bundle.json", "recipe.json", "vocab.parquet"
WEIGHTS, TEXT, COLLABORATIVE, KNOWLEDGE, VECTORS, EXAMPLES, HISTORY = (
    "weights.safetensors",
    "item_text.safetensors",
    "collaborative.safetensors",
    "knowledge.safetensors",
    "examples.safetensors",
    "examples.parquet",
    "history.parquet",
)
ALWAYS = frozenset({RECIPE, VOCAB, WEIGHTS, "user.parquet", "item.parquet"})
KNOWN = ALWAYS | {TEXT, COLLABORATIVE, KNOWLEDGE, VECTORS, EXAMPLES, HISTORY}
"""Files that a bundle may have. Nothing else is ever opened."""


@dataclass(frozen=True)
class Bundle:
    """A model ready to serve.

    Attributes:
        model: In evaluation mode, with everything it looks things up in.
        task: What it predicts.
        recipe: The resolved recipe it was made by, as JSON data.
        clock: `global` or `per_user`: how times of examples and requests compare.
        digest: Of its manifest, which names the digest of every file; the same for the same bundle anywhere.
    """

    model: RecModel
    task: Task
    recipe: Mapping[str, Any]
    clock: Clock
    digest: str


def save_bundle(
    path: Path, model: RecModel, *, task: TaskConfig, recipe: Mapping[str, Any], clock: Clock
) -> None:  # fmt: skip
    """Write a bundle. The same model and recipe give the same bytes.

    Args:
        path: Folder to make; must not hold anything yet.
        model: A trained model.
        task: Settings of what it predicts.
        recipe: The resolved recipe as JSON data.
        clock: `global` or `per_user`.

    Raises:
        StoreError: The folder is not empty.
    """
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise StoreError("the bundle folder is not empty", code="bundle-not-empty", where=str(path))
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
    if resources.histories is not None:
        pq.write_table(resources.histories.to_arrow(), path / HISTORY)
    files = {f.name: {"sha256": digest_file(f), "bytes": f.stat().st_size} for f in sorted(path.iterdir())}
    manifest = {
        "format": FORMAT, "llmcf": __version__, "clock": clock, "num_examples": resources.num_examples,
        "features": resources.spec.to_json(), "task": task.model_dump(mode="json"),
        "backbone": configs.backbone.model_dump(mode="json"), "augment": configs.augment.model_dump(mode="json"),
        "objectives": [config.model_dump(mode="json") for config in configs.objectives], "files": files,
    }  # fmt: skip
    manifest["digest"] = digest_json(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))


def load_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Read a bundle. Only files that its manifest lists are opened, and nothing is allocated that they do not fill.

    The digests find damage, not forgery: whoever makes a bundle makes them too.

    Args:
        path: Its folder.
        verify: Compare every file with its digest.

    Raises:
        StoreError: The folder is no bundle, of another format version, or a file is missing, changed or malformed.
        ModelError: The parts do not fit together, or a component that it names is not installed.
    """
    with wholesome(path):
        manifest = _manifest(path)
        _check_files(path, manifest["files"])
        if verify:
            _verify(path, manifest["files"])
        resources = _resources(path, manifest)
        backbone = _config("backbone", manifest["backbone"])
        _check_fit(path, resources.spec, backbone.embedding_dim)
        augment = _config("augmenter", manifest["augment"])
        objectives = [_config("objective", item) for item in manifest["objectives"]]
        with torch.device("meta"):  # sizes, without memory for them
            check_weights(path / WEIGHTS, RecModel(resources, backbone, augment, objectives).state_dict())
        model = RecModel(resources, backbone, augment, objectives)
        weights = load_tensors(path / WEIGHTS)
        check_finite(weights, path / WEIGHTS)
        model.load_state_dict(weights)
        check_answer(model, path)
        recipe = read_json(path / RECIPE, MAX_MANIFEST_BYTES, StoreError)
        if not isinstance(recipe, dict):
            raise StoreError("is no recipe", code="bundle-malformed", where=str(path / RECIPE))
        task = registry().build(TASK, _config("task", manifest.get("task", OLDER_TASK)))
        return Bundle(model.eval(), task, recipe, manifest["clock"], digest_json(manifest))


def _manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        raise StoreError(
            "is no bundle: it has no bundle.json", code="bundle-missing", where=str(path), hint="llmcf train-rec"
        )
    manifest: dict[str, Any] = read_json(file, MAX_MANIFEST_BYTES, StoreError)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        found, made = (manifest.get(key, "?") for key in ("format", "llmcf")) if isinstance(manifest, dict) else "??"
        raise StoreError(
            f"bundle format {found!s:.20}, this version reads {FORMAT}", code="bundle-format", where=str(path),
            hint=f"use llmcf {made!s:.20}, or train again",
        )  # fmt: skip
    if manifest.pop("digest", None) != digest_json(manifest):
        raise StoreError(
            "differs from what was written", code="bundle-changed", where=str(file), hint="copy the bundle again"
        )
    if manifest["clock"] not in ("global", "per_user"):
        raise StoreError("names no clock", code="bundle-malformed", where=str(file), allowed=("global", "per_user"))
    return manifest


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    """Whether the manifest lists what a bundle has, and no place elsewhere."""
    strange, lacking = sorted(files.keys() - KNOWN), sorted(ALWAYS - files.keys())
    if strange or lacking:
        what = f"lists {strange[0]!r:.60}, which is no part of a bundle" if strange else f"does not list {lacking[0]}"
        raise StoreError(what, code="bundle-foreign-file", where=str(path / MANIFEST))
    for name in files:
        if (path / name).is_symlink():
            raise StoreError(
                "is a link; a bundle has its own files",
                code="bundle-link",
                where=str(path / name),
                hint="copy the bundle again",
            )
        if not (path / name).is_file():
            raise StoreError(
                "the bundle lacks a file",
                code="bundle-incomplete",
                where=str(path / name),
                hint="copy the bundle again",
            )


def _verify(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, record in files.items():
        file = path / name
        if file.stat().st_size != record["bytes"] or digest_file(file) != record["sha256"]:
            raise StoreError(
                "differs from what was written", code="bundle-changed", where=str(file), hint="copy the bundle again"
            )


def _resources(path: Path, manifest: Mapping[str, Any]) -> Resources:
    files = manifest["files"]
    spec = FeatureSpec.from_json(manifest["features"])
    check_spec(spec, path / MANIFEST)
    vocab = Vocab.from_arrow(open_table(path / VOCAB), spec)
    for field in spec.fields:
        if not field.is_number and field.size != len(vocab.values[field.key]) + 2:
            raise ModelError(
                f"vocabulary of {field.key} does not fit the spec", code="bundle-unfit", where=str(path / VOCAB)
            )
    catalog = Catalog(*(_load_entities(path, entity, spec) for entity in ("user", "item")))
    text_IT = load_arrays(path / TEXT)["item_text_IT"] if TEXT in files else None
    if text_IT is not None and len(text_IT) != len(catalog.items.ids) + 1:
        raise ModelError(
            f"text vectors for {len(text_IT) - 1} items, catalogue of {len(catalog.items.ids)}",
            code="bundle-unfit",
            where=str(path),
        )
    bank = _load_bank(path, spec.history_length) if EXAMPLES in files else None
    collaborative = load_collaborative(path / COLLABORATIVE) if COLLABORATIVE in files else None
    if collaborative is not None and collaborative.item_FID.shape[1] != len(catalog.items.ids) + 1:
        raise ModelError(
            "collaborative vectors and catalogue differ in the number of items", code="bundle-unfit", where=str(path)
        )
    knowledge = _load_knowledge(path, catalog) if KNOWLEDGE in files else None
    histories = Histories.from_arrow(open_table(path / HISTORY)) if HISTORY in files else None
    found = Resources(
        spec, vocab, catalog, text_IT, bank, manifest["num_examples"], knowledge, collaborative, histories
    )
    check_resources(found, path)
    return found


def _check_fit(path: Path, spec: FeatureSpec, embedding_dim: int) -> None:
    """The mistakes that a user can make, before torch words them."""
    from safetensors import safe_open

    with safe_open(path / WEIGHTS, "np") as weights:
        rows, dim = weights.get_slice("embedding.table_VD").get_shape()
    expected = 1 + sum(field.size - 1 for field in spec.fields)
    if rows != expected:
        raise ModelError(
            f"vocabulary of {expected} ids does not fit weights for {rows}", code="bundle-unfit", where=str(path)
        )
    if dim != embedding_dim:
        raise ModelError(
            f"embedding dimension {embedding_dim}, but the weights have {dim}", code="bundle-unfit", where=str(path)
        )


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
    table = open_table(path / f"{entity}.parquet")
    columns = {}
    for field in spec.fields:
        if field.entity != entity:
            continue
        column = table[f"field.{field.name}"].combine_chunks()
        shape = (len(column), field.width) if field.kind == "multi" else (len(column),)
        values = column.flatten().to_numpy() if field.kind == "multi" else column.to_numpy()
        first = np.full((1, *shape[1:]), field.blank, values.dtype)
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
            raise ModelError(
                f"knowledge and catalogue differ in the number of {kind}",
                code="bundle-unfit",
                where=str(path / KNOWLEDGE),
            )
    return Knowledge(**parts)


def _save_bank(bank: ExampleBank, path: Path) -> None:
    columns = {name.rsplit("_", 1)[0]: array for name, array in asdict(bank.samples).items()}
    history_EL = columns.pop("history_row")
    history = pa.FixedSizeListArray.from_arrays(pa.array(history_EL.reshape(-1)), history_EL.shape[1])
    pq.write_table(pa.table({**columns, "history": history}), path / EXAMPLES)
    arrays = {name: getattr(bank, name) for name in ("cot_ET", "vector_ES", "signal_EG")}
    kept = {name: np.ascontiguousarray(array) for name, array in arrays.items() if array is not None}
    save_arrays(kept, path / VECTORS)


def _load_bank(path: Path, history_length: int) -> ExampleBank:
    table = open_table(path / EXAMPLES)
    if (width := table["history"].type.list_size) != history_length:
        raise ModelError(
            f"histories of {width} items, but the spec has {history_length}",
            code="bundle-unfit",
            where=str(path / EXAMPLES),
        )
    samples = encode_rows(table, history_length)
    arrays = load_arrays(path / VECTORS)
    if len(arrays["cot_ET"]) != len(samples):
        raise ModelError(
            f"{len(arrays['cot_ET'])} vectors for {len(samples)} examples",
            code="bundle-unfit",
            where=str(path / VECTORS),
        )
    return ExampleBank(samples, arrays["cot_ET"], arrays.get("vector_ES"), arrays.get("signal_EG"))
