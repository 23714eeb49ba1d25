"""The folder that training leaves and serving loads. safetensors, Parquet and JSON; nothing in it is code."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file as save_tensors

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.core.files import read_json
from llmcf_cli.core.hashing import digest_file, digest_json
from llmcf_cli.core.types import Clock, InputConfig, TaskConfig
from llmcf_cli.features.batch import Catalog, EntityTable
from llmcf_cli.features.choice import Entity
from llmcf_cli.features.histories import Histories
from llmcf_cli.features.spec import FeatureSpec, Vocab
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle import format3
from llmcf_cli.rec.bundle.golden import Golden, make_golden, write_golden
from llmcf_cli.rec.bundle.manifest import FileRecord, Manifest, StoredComponent, Times
from llmcf_cli.rec.bundle.sound import (
    check_answer,
    check_finite,
    check_resources,
    check_spec,
    check_weights,
    wholesome,
)
from llmcf_cli.rec.input.base import Input, default_inputs, inputs_of
from llmcf_cli.rec.input.examples import EXAMPLES
from llmcf_cli.rec.input.needs import closure
from llmcf_cli.rec.input.resources import Resources
from llmcf_cli.rec.input.stored import Stored, Storing, demand
from llmcf_cli.rec.recommender import Recommender, build, recommender_of
from llmcf_cli.rec.tasks.base import TASK, Task
from llmcf_cli.tabular.times import TimeFormat

MAX_MANIFEST_BYTES = 4 << 20
MANIFEST, RECIPE, VOCAB, WEIGHTS, HISTORY, GOLDEN, REASONING = (
    "bundle.json", "recipe.json", "vocab.parquet", "weights.safetensors", "history.parquet", "golden.json",
    "reasoning.parquet",
)  # fmt: skip
ALWAYS = frozenset({RECIPE, VOCAB, WEIGHTS, "user.parquet", "item.parquet"})
"""Files that every bundle has. Beside them it has what its inputs declare, and may have `MAYBE`; no other file is ever
opened."""
MAYBE = frozenset({HISTORY, GOLDEN, REASONING})
"""Histories of users, golden requests, and what the chains of thought of the examples say."""
MAX_GOLDEN_BYTES, MAX_REASONING_BYTES = 4 << 20, 1 << 30
_PLAIN = re.compile(r"[a-z0-9_]+\.(json|parquet|safetensors)")


@dataclass(frozen=True)
class Bundle:
    """A model ready to serve.

    Attributes:
        model: In evaluation mode, with everything it looks things up in.
        task: What it predicts.
        inputs: Name → input that the augmenter reads, with the settings it is served by.
        clock: How times of examples and requests compare.
        times: How requests write times.
        recipe: The resolved recipe it was made by, as JSON data: for people, nothing here reads it.
        golden: Requests with the answers that it gave when it was made; None: it has none.
        reasoning_E: Texts of the examples' chains of thought; None: they are not in it.
        digest: Of its manifest, which names the digest of every file; the same for the same bundle anywhere.
    """

    model: Recommender
    task: Task
    inputs: Mapping[str, Input]
    clock: Clock
    times: TimeFormat
    recipe: Mapping[str, Any]
    golden: Golden | None
    reasoning_E: pa.StringArray | None
    digest: str


def save_bundle(
    path: Path, model: Recommender, *, task: TaskConfig, recipe: Mapping[str, Any], clock: Clock,
    times: TimeFormat = TimeFormat(), inputs: Iterable[InputConfig] = (), reasoning: Sequence[str] | None = None,
) -> None:  # fmt: skip
    """Write a bundle. The same model and settings give the same bytes.

    Args:
        path: Folder to make; must not hold anything yet.
        model: A trained model.
        task: Settings of what it predicts.
        recipe: The resolved recipe as JSON data, for people.
        clock: How times of examples and requests compare.
        times: How requests write times.
        inputs: Settings of inputs; one that is missing gets its defaults.
        reasoning: Texts of the chains of thought of all examples in their order, to be shown; None: leave them out.

    Raises:
        ValueError: There are not as many texts as examples.
        StoreError: The folder is not empty, or two inputs want a file of one name.
    """
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()):
        raise StoreError("the bundle folder is not empty", code="bundle-not-empty", where=str(path))
    resources, configs = model.resources, model.configs
    save_tensors({k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}, path / WEIGHTS)
    (path / RECIPE).write_text(json.dumps(recipe, indent=1, sort_keys=True))
    out = Storing(path, {VOCAB, HISTORY, "user.parquet", "item.parquet"})
    out.table(VOCAB, resources.vocab.to_arrow())
    for table in (resources.catalog.users, resources.catalog.items):
        out.table(f"{table.entity}.parquet", _catalog_table(table))
    if resources.histories is not None:
        out.table(HISTORY, resources.histories.to_arrow())
    read = default_inputs(model.served) | inputs_of(c for c in inputs if c.type in model.reads)
    served = [_save_input(read[name], resources, path) for name in model.served]
    golden = make_golden(model, inputs_of(served), clock)
    if golden is not None:
        write_golden(golden, path / GOLDEN)
    if reasoning is not None:
        if len(reasoning) != _examples(resources):
            raise ValueError(f"{len(reasoning)} texts for {_examples(resources)} examples")
        pq.write_table(pa.table({"text": pa.array(reasoning, pa.string())}), path / REASONING)
    files = {f.name: FileRecord(sha256=digest_file(f), bytes=f.stat().st_size) for f in sorted(path.iterdir())}
    manifest = Manifest(
        clock=clock, times=Times(format=times.format, zone=times.zone), task=StoredComponent.of("task", task),
        backbone=StoredComponent.of("backbone", configs.backbone),
        augment=StoredComponent.of("augmenter", configs.augment),
        objectives=tuple(StoredComponent.of("objective", config) for config in configs.objectives),
        inputs=tuple(StoredComponent.of("input", config) for config in served),
        features=resources.spec.to_json(), files=files,
    ).model_dump(mode="json")  # fmt: skip
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
        raw = _raw_manifest(path)
        _check_files(path, raw["files"])
        if verify:
            _verify(path, raw["files"])
        recipe = read_json(path / RECIPE, MAX_MANIFEST_BYTES, StoreError)
        if not isinstance(recipe, dict):
            raise StoreError("not a recipe", code="bundle-malformed", where=str(path / RECIPE))
        older = raw["format"] == format3.FORMAT
        manifest = Manifest.model_validate(format3.converted(raw, recipe) if older else raw)
        stored = Stored(path, frozenset(manifest.files), format3.RENAMED if older else {})
        task = manifest.task.config("task")
        augment = manifest.augment.config("augmenter")
        inputs = _inputs(path, manifest, augment.needs | task.needs)
        resources = _resources(stored, manifest, inputs)
        backbone = manifest.backbone.config("backbone")
        _check_fit(path, recommender_of(task.form).vocabulary(resources.spec), backbone.embedding_dim)
        objectives = [objective.config("objective") for objective in manifest.objectives]
        with torch.device("meta"):  # sizes, without memory for them
            check_weights(stored, WEIGHTS, build(task, resources, backbone, augment, objectives).state_dict())
        model = build(task, resources, backbone, augment, objectives)
        weights = {stored.now(WEIGHTS, name): tensor for name, tensor in load_tensors(path / WEIGHTS).items()}
        check_finite(weights, path / WEIGHTS)
        model.load_state_dict(weights)
        check_answer(model, inputs, path)
        golden = None
        if GOLDEN in manifest.files:
            golden = Golden.model_validate(read_json(path / GOLDEN, MAX_GOLDEN_BYTES, StoreError))
        made, times = registry().build(TASK, task), manifest.times.as_format()
        return Bundle(model.eval(), made, inputs, manifest.clock, times, recipe, golden, _reasoning(stored, resources),
                      digest_json(raw))  # fmt: skip


def bundle_digest(path: Path) -> str:
    """The digest of a bundle, `Bundle.digest`, by its manifest alone.

    Raises:
        StoreError: It has no manifest of a known format, or a changed one.
    """
    return digest_json(_raw_manifest(path))


def _examples(resources: Resources) -> int:
    bank = resources.get(EXAMPLES)
    return 0 if bank is None else len(bank)


def _reasoning(stored: Stored, resources: Resources) -> pa.StringArray | None:
    """The texts of all examples, if the bundle holds them."""
    if REASONING not in stored.files:
        return None
    path = stored.path(REASONING)
    demand(path.stat().st_size <= MAX_REASONING_BYTES, path, "reasoning")
    texts = stored.table(REASONING)["text"].combine_chunks()
    fits = len(texts) == _examples(resources) and texts.null_count == 0 and pa.types.is_string(texts.type)
    demand(fits, path, "reasoning")
    return texts


def _save_input(one: Input, resources: Resources, path: Path) -> InputConfig:
    """Write what an input holds; its settings in the bundle."""
    held = resources.get(one.name)
    if held is not None:
        one.save(one.stored(held), Storing(path, one.files))
    return one.settings(held)


def _inputs(path: Path, manifest: Manifest, needs: Collection[str]) -> dict[str, Input]:
    """The inputs that the manifest names: just those that the model reads, with all their files and no others."""
    inputs = inputs_of(one.config("input") for one in manifest.inputs)
    if [*inputs] != closure(needs) or len(inputs) != len(manifest.inputs):
        raise StoreError(
            "its inputs do not match those that its model reads", code="bundle-unfit", where=str(path / MANIFEST)
        )
    own = {file for one in inputs.values() for file in one.files}
    strange, lacking = (
        sorted(manifest.files.keys() - own - ALWAYS - MAYBE),
        sorted((own | ALWAYS) - manifest.files.keys()),
    )
    if strange or lacking:
        what = (
            f"lists {strange[0]!r:.60}, which does not belong in the bundle"
            if strange
            else f"does not list {lacking[0]}"
        )
        raise StoreError(what, code="bundle-foreign-file", where=str(path / MANIFEST))
    return inputs


def _raw_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    if not file.is_file():
        inner = path / "bundle"
        hint = f"use {inner}" if (inner / MANIFEST).is_file() else "llmcf run RECIPE prints the bundle to serve"
        raise StoreError("not a bundle: it has no bundle.json", code="bundle-missing", where=str(path), hint=hint)
    manifest: dict[str, Any] = read_json(file, MAX_MANIFEST_BYTES, StoreError)
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found not in (format3.FORMAT, Manifest.FORMAT) or isinstance(found, bool | float):
        made = str(manifest.get("llmcf", "?")) if isinstance(manifest, dict) else "?"
        newer = isinstance(found, int) and found > Manifest.FORMAT
        hint = (
            f"install llmcf {made:.20} or later"
            if newer
            else f"use llmcf {made:.20}, or train again: llmcf train-rec RECIPE"
        )
        what = f"bundle format {found!s:.20}; this version reads {format3.FORMAT} and {Manifest.FORMAT}"
        raise StoreError(what, code="bundle-format", where=str(path), hint=hint)
    if manifest.pop("digest", None) != digest_json(manifest):
        raise StoreError(
            "has changed since it was written", code="bundle-changed", where=str(file), hint="copy the bundle again"
        )
    return manifest


def _check_files(path: Path, files: Mapping[str, Any]) -> None:
    """Whether the manifest lists files of the folder, and no place elsewhere."""
    for name in files:
        if not _PLAIN.fullmatch(name) or name == MANIFEST:
            raise StoreError(
                f"lists {name!r:.60}, which does not belong in a bundle",
                code="bundle-foreign-file",
                where=str(path / MANIFEST),
            )
        if (path / name).is_symlink():
            raise StoreError(
                "is a link; a bundle must contain the file itself",
                code="bundle-link",
                where=str(path / name),
                hint="copy the bundle again",
            )
        if not (path / name).is_file():
            raise StoreError(
                "is missing from the bundle",
                code="bundle-incomplete",
                where=str(path / name),
                hint="copy the bundle again",
            )
    if RECIPE not in files:
        raise StoreError(f"does not list {RECIPE}", code="bundle-incomplete", where=str(path / MANIFEST))


def _verify(path: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for name, record in files.items():
        file = path / name
        if file.stat().st_size != record["bytes"] or digest_file(file) != record["sha256"]:
            raise StoreError(
                "has changed since it was written", code="bundle-changed", where=str(file), hint="copy the bundle again"
            )


def _resources(stored: Stored, manifest: Manifest, inputs: Mapping[str, Input]) -> Resources:
    path = stored.folder
    spec = FeatureSpec.from_json(manifest.features)
    check_spec(spec, path / MANIFEST)
    vocab = Vocab.from_arrow(stored.table(VOCAB), spec)
    for field in spec.fields:
        if not field.is_number and field.size != len(vocab.values[field.key]) + 2:
            raise ModelError(
                f"vocabulary of {field.key} does not fit the spec", code="bundle-unfit", where=str(path / VOCAB)
            )
    catalog = Catalog(*(_load_entities(stored, entity, spec) for entity in ("user", "item")))
    histories = Histories.from_arrow(stored.table(HISTORY)) if HISTORY in stored.files else None
    resources = Resources(spec, vocab, catalog, histories=histories)
    check_resources(resources, path)
    for name, one in inputs.items():
        if one.holds:
            held = one.read(stored.only(one.files), resources)
            one.check(held, resources, path)
            resources = resources.holding(**{name: held})
    return resources


def _check_fit(path: Path, expected: int, embedding_dim: int) -> None:
    """The mistakes that a user can make, before torch words them."""
    from safetensors import safe_open

    with safe_open(path / WEIGHTS, "np") as weights:
        rows, dim = weights.get_slice("embedding.table_VD").get_shape()
    if rows != expected:
        raise ModelError(
            f"the vocabulary has {expected} ids, but the weights have rows for {rows}",
            code="bundle-unfit",
            where=str(path),
        )
    if dim != embedding_dim:
        raise ModelError(
            f"the embedding dimension is {embedding_dim}, but the weights have {dim}",
            code="bundle-unfit",
            where=str(path),
        )


def _catalog_table(table: EntityTable) -> pa.Table:
    columns: dict[str, Any] = {f"{table.entity}_id": table.ids}
    for name, ids in table.columns.items():
        if ids.ndim == 1:
            columns[f"field.{name}"] = pa.array(ids[1:])
        else:
            columns[f"field.{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(ids[1:].reshape(-1)), ids.shape[1])
    return pa.table(columns)


def _load_entities(stored: Stored, entity: Entity, spec: FeatureSpec) -> EntityTable:
    table = stored.table(f"{entity}.parquet")
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
