"""Bundles: complete, checked, and no code in them."""

from __future__ import annotations

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.core.hashing import digest_file, digest_path
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle import load_bundle, save_bundle
from llmcf_cli.rec.config import (
    BCEConfig,
    CoTReconstructionConfig,
    DeepFMConfig,
    ICTConfig,
    KARConfig,
    NoneConfig,
    SignalsConfig,
)
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.predict import predict

OBJECTIVES = (BCEConfig(), CoTReconstructionConfig())


def build(world, augment=None, backbone=None):
    return RecModel(world.data.resources, backbone or DeepFMConfig(), augment or ICTConfig(), OBJECTIVES, seed=1)


@pytest.fixture(scope="module")
def saved(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "b"
    save_bundle(path, build(world), recipe={"name": "x"}, clock="global")
    return path


@pytest.fixture
def bundle(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "b")


def rewrite(bundle, change):
    """Edit bundle.json, and bring the digests up to date."""
    manifest = json.loads((bundle / "bundle.json").read_text())
    change(manifest)
    for name, record in manifest["files"].items():
        record.update(sha256=digest_file(bundle / name), bytes=(bundle / name).stat().st_size)
    (bundle / "bundle.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "augment",
    [ICTConfig(), ICTConfig(tokens=("row", "parts", "label")), NoneConfig(), KARConfig()],
    ids=["ict", "parts", "none", "kar"],
)
@pytest.mark.parametrize("backbone", registry().names("backbone"))
def test_a_loaded_model_gives_the_same_logits(world, tmp_path, augment, backbone):
    model = build(world, augment, registry().get("backbone", backbone).config()())
    save_bundle(tmp_path / "b", model, recipe={"name": "x"}, clock="per_user")
    found = load_bundle(tmp_path / "b")
    assert (found.recipe, found.clock) == ({"name": "x"}, "per_user")
    assert (predict(found.model, world.data, "test") == predict(model, world.data, "test")).all()
    assert not found.model.training


def test_the_same_model_gives_the_same_bytes(world, saved, tmp_path):
    save_bundle(tmp_path / "again", build(world), recipe={"name": "x"}, clock="global")
    assert digest_path(tmp_path / "again") == digest_path(saved)


def test_only_what_the_arm_needs_is_stored(world, tmp_path):
    save_bundle(tmp_path / "b", build(world, NoneConfig()), recipe={}, clock="global")
    names = {f.name for f in (tmp_path / "b").iterdir()}
    assert names == {
        "bundle.json", "recipe.json", "vocab.parquet", "user.parquet", "item.parquet", "weights.safetensors"
    }  # fmt: skip


def test_knowledge_of_another_catalogue_is_refused(world, tmp_path):
    save_bundle(tmp_path / "b", build(world, KARConfig()), recipe={}, clock="global")
    assert (tmp_path / "b" / "knowledge.safetensors").is_file()
    arrays = load_file(tmp_path / "b" / "knowledge.safetensors")
    save_file({**arrays, "items.slot_R": arrays["items.slot_R"][:-1]}, tmp_path / "b" / "knowledge.safetensors")
    rewrite(tmp_path / "b", lambda m: None)
    with pytest.raises(ModelError, match="number of items"):
        load_bundle(tmp_path / "b")


def test_a_bundle_holds_collaborative_vectors_of_all_users_only(world, tmp_path):
    save_bundle(tmp_path / "b", build(world, SignalsConfig()), recipe={}, clock="global")
    found = load_bundle(tmp_path / "b").model.resources.collaborative
    assert found.item_FID.shape[0] == 1
    assert (found.item_FID[0] == world.data.resources.collaborative.item_FID[-1]).all()
    assert (found.count_FI[0] == world.data.resources.collaborative.count_FI[-1]).all()
    assert not (tmp_path / "b" / "examples.parquet").exists()


def test_a_folder_with_something_in_it_is_not_overwritten(world, saved):
    with pytest.raises(StoreError, match="not empty"):
        save_bundle(saved, build(world), recipe={}, clock="global")


@pytest.mark.parametrize("name", ["weights.safetensors", "examples.parquet", "vocab.parquet", "recipe.json"])
def test_a_changed_or_missing_file_is_named(bundle, name):
    file = bundle / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(StoreError, match=rf"{name}.*differs"):
        load_bundle(bundle)
    file.unlink()
    with pytest.raises(StoreError, match=rf"{name}.*lacks"):
        load_bundle(bundle)


def test_no_bundle_and_another_format_are_refused(bundle, tmp_path):
    with pytest.raises(StoreError, match=r"no bundle\.json"):
        load_bundle(tmp_path)
    rewrite(bundle, lambda m: m.update(format=99))
    with pytest.raises(StoreError, match="format 99, this version reads 1"):
        load_bundle(bundle)
    (bundle / "bundle.json").write_text("{")
    with pytest.raises(StoreError, match="no JSON"):
        load_bundle(bundle)


def test_parts_that_do_not_fit_are_explained(bundle):
    weights = load_file(bundle / "weights.safetensors")
    rewrite(bundle, lambda m: m["backbone"].update(embedding_dim=16))
    with pytest.raises(ModelError, match="embedding dimension 16, but the weights have 32"):
        load_bundle(bundle)
    save_file({**weights, "embedding.table_VD": torch.zeros(7, 16)}, bundle / "weights.safetensors")
    rewrite(bundle, lambda m: None)
    with pytest.raises(ModelError, match="does not fit weights for 7"):
        load_bundle(bundle)


def test_a_vocabulary_of_another_model_is_refused(bundle):
    vocab = pq.read_table(bundle / "vocab.parquet")
    pq.write_table(vocab.slice(1), bundle / "vocab.parquet")
    rewrite(bundle, lambda m: None)
    with pytest.raises(ModelError, match=r"vocabulary of .* does not fit the spec"):
        load_bundle(bundle)


def test_text_vectors_of_another_encoder_are_refused(bundle):
    arrays = load_file(bundle / "item_text.safetensors")
    save_file({name: tensor[:, :-2].contiguous() for name, tensor in arrays.items()}, bundle / "item_text.safetensors")
    rewrite(bundle, lambda m: None)
    with pytest.raises(ModelError, match="weights do not fit the model"):
        load_bundle(bundle)


def test_weights_of_another_model_are_refused(bundle):
    rewrite(bundle, lambda m: m["augment"].update(layers=3))
    with pytest.raises(ModelError, match="weights do not fit the model"):
        load_bundle(bundle)
