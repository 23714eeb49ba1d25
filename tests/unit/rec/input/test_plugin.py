"""An input that the package does not know: trained with, predicted with, bundled, and served by many threads."""

from __future__ import annotations

import importlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.core.hashing import digest_file, digest_json
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle.bundle import load_bundle, save_bundle
from llmcf_cli.rec.config import DeepFMConfig, RankingConfig
from llmcf_cli.rec.input.dataset import load_task_data
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.sections import FitSection
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.stages.steps.task_data import arm_stages, trained_sections


@pytest.fixture
def recency(monkeypatch):
    """The plugin, registered for one test."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3] / "plugins"))
    plugin = importlib.import_module("recency")
    known = registry()
    monkeypatch.setattr(known, "_components", dict(known._components))
    known.register_from("recency.py 0123", plugin.register)
    yield plugin
    sys.modules.pop("recency")


@pytest.fixture
def trained(world, recency, tmp_path):
    """Data, a trained model, its bundle."""
    inputs = [recency.RecencyInputConfig()]
    data = load_task_data(world.database, Ranking(RankingConfig()), history_length=5, inputs=inputs)
    model = RecModel(data.resources, DeepFMConfig(embedding_dim=4, hidden=(8,)), recency.RecencyConfig(), seed=3)
    fit(model, data, FitSection(epochs=2, batch_size=32, learning_rate=0.05), seed=1, work=tmp_path / "work")
    save_bundle(tmp_path / "b", model, task=RankingConfig(), recipe={}, clock="global")
    return data, model, tmp_path / "b"


def requests(data, split="test"):
    rows = data.splits[split]
    history = [[f"i{i}" for i in h if i] for h in rows.history_row_NL]
    return pa.table({
        "user_id": [f"u{u}" for u in rows.user_row_N], "item_id": [f"i{i}" for i in rows.item_row_N],
        "history": history, "time": pa.array(rows.time_N).cast(pa.timestamp("us", "UTC")),
    })  # fmt: skip


def test_offline_and_online_scores_are_equal_and_read_the_input(trained):
    data, model, bundle = trained
    offline = predict(model, data, "test")
    scorer = Scorer.load(bundle)
    np.testing.assert_allclose(scorer.score(requests(data))["logit"].to_numpy(), offline, atol=1e-6)
    later = requests(data).set_column(3, "time", pa.array([10**12] * len(offline)).cast(pa.timestamp("us", "UTC")))
    assert np.abs(scorer.score(later)["logit"].to_numpy() - offline).max() > 1e-3
    assert np.isfinite(scorer.score(requests(data).drop_columns(["time"]))["logit"].to_numpy()).all()


def test_threads_that_score_and_add_items_get_what_one_thread_gets(trained):
    data, _, bundle = trained
    serial, shared = Scorer.load(bundle), Scorer.load(bundle)
    names = [f"new{n}" for n in range(12)]
    before = serial.score(requests(data))["logit"].to_numpy()
    for name in names:
        serial.add_items(pa.table({"item_id": [name], "brand": ["b1"]}))
    with ThreadPoolExecutor(6) as pool:
        scores = [pool.submit(shared.score, requests(data)) for _ in range(6)]
        adding = [pool.submit(shared.add_items, pa.table({"item_id": [name], "brand": ["b1"]})) for name in names]
        for done in adding:
            done.result()
        for done in scores:
            np.testing.assert_allclose(done.result()["logit"].to_numpy(), before, atol=1e-6)
    asked = pa.table({"user_id": ["u1"] * 12, "item_id": names})
    expected = serial.score(asked)["logit"].to_numpy()
    np.testing.assert_allclose(shared.score(asked)["logit"].to_numpy(), expected, atol=1e-6)


def test_its_part_of_a_bundle_is_named_and_checked(trained, monkeypatch, recency):
    _, _, bundle = trained
    manifest = json.loads((bundle / "bundle.json").read_text())
    assert manifest["inputs"] == [{"settings": {"type": "recency"}, "version": 1, "origin": "recency.py 0123"}]
    from safetensors.numpy import load_file, save_file

    arrays = load_file(bundle / recency.FILE)
    save_file({**arrays, "user_E": arrays["user_E"][::-1].copy()}, bundle / recency.FILE)
    file = bundle / recency.FILE
    manifest["files"][recency.FILE] = {"sha256": digest_file(file), "bytes": file.stat().st_size}
    manifest.pop("digest")
    (bundle / "bundle.json").write_text(json.dumps(manifest | {"digest": digest_json(manifest)}))
    with pytest.raises(ModelError, match="users of events"):
        load_bundle(bundle)
    monkeypatch.delitem(registry()._components, ("augmenter", "recency"))
    with pytest.raises(ModelError) as caught:
        load_bundle(bundle)
    assert "recency.py 0123" in caught.value.hint


def test_a_bundle_may_open_no_file_but_its_own(recency, tmp_path):
    from llmcf_cli.rec.input.stored import Stored, Storing

    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(StoreError):
        Stored(tmp_path, {"other.safetensors"}).only((recency.FILE,)).path("other.safetensors")
    with pytest.raises(StoreError):
        Storing(tmp_path, (recency.FILE,)).arrays("other.safetensors", {})


def test_it_needs_no_stage_but_ingest_and_its_code_is_part_of_the_key(recency):
    recipe = load_recipe("quickstart", ["rec.augment=recency"]).recipe
    assert [stage.name for stage in arm_stages(recipe)] == ["ingest"]
    assert [config.type for config in trained_sections(recipe)["inputs"]] == ["recency"]
    assert "inputs" not in trained_sections(load_recipe("quickstart").recipe)
    assert isinstance(recipe.rec.augment, ComponentConfig)
