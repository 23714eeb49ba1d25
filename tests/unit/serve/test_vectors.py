"""Exported vectors: their products are the model's scores, and recall is what a search by hand gives."""

from __future__ import annotations

import json

import numpy as np
import pytest
import retrieval_world
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import LlmcfError, ModelError, StoreError
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import NoneConfig, RankingConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.serve import vectors
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.store.open import open_lance


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return retrieval_world.make_data(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    return retrieval_world.save(tmp_path_factory.mktemp("bundle") / "b", data.resources)


@pytest.fixture(scope="module")
def scorer(folder):
    return Scorer.load(folder)


def read(folder, table, ids):
    found = open_lance(folder).open_table(table).to_arrow()
    return dict(zip(found[ids].to_pylist(), np.asarray(found["vector"].to_pylist()), strict=True))


def test_products_are_the_scores(scorer, tmp_path):
    made = vectors.export(scorer, tmp_path / "v")
    items, users = read(tmp_path / "v", vectors.ITEMS, "item_id"), read(tmp_path / "v", vectors.USERS, "user_id")
    assert (len(items), len(users)) == (made.items, made.users)
    assert set(items) == set(scorer.model.resources.catalog.items.ids.to_pylist())
    for user in list(users)[::20]:
        asked = [{"user_id": user, "item_id": item} for item in items]
        scores = scorer.score(asked)["score"].to_numpy()
        np.testing.assert_allclose([users[user] @ items[item] for item in items], scores, rtol=1e-4, atol=1e-4)


def test_a_history_of_the_request_is_read(scorer):
    asked = [{"user_id": "new", "history": ["i01", "i02"]}, {"user_id": "u1"}]
    found = vectors.user_vectors(scorer, asked)
    items = vectors.item_vectors(scorer)
    best = scorer.recommend(asked, 3, filter_seen=False).to_pylist()
    score_NI = found @ np.asarray(items["vector"].to_pylist()).T
    for number, row in enumerate(best):
        ranked = np.argsort(-score_NI[number // 3])
        assert items["item_id"][int(ranked[row["rank"] - 1])].as_py() == row["item_id"]


def test_recall_is_what_a_search_by_hand_gives(scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(vectors, "LEAST", 10)
    monkeypatch.setattr(vectors, "PARTITION", 6)
    made = vectors.export(scorer, tmp_path / "v", k=5, recall=0.6)
    assert made.partitions == 10
    assert made.best.recall >= 0.6
    written = json.loads((tmp_path / "v" / vectors.REPORT).read_text())
    assert written["best"] == {"probes": made.best.probes, "recall": made.best.recall, "p50_ms": made.best.p50_ms}
    items, users = read(tmp_path / "v", vectors.ITEMS, "item_id"), read(tmp_path / "v", vectors.USERS, "user_id")
    table, hits = open_lance(tmp_path / "v").open_table(vectors.ITEMS), 0
    for vector in users.values():
        exact = set(sorted(items, key=lambda item: -items[item] @ vector)[:5])
        query = table.search(vector.astype(np.float32)).distance_type("dot").nprobes(made.best.probes).limit(5)
        hits += len(exact & set(query.to_arrow()["item_id"].to_pylist()))
    assert made.queries == len(users)
    assert made.best.recall == pytest.approx(hits / (5 * len(users)), abs=0.01)
    everything = vectors.export(scorer, tmp_path / "all", k=5, recall=1.0)
    assert everything.best.recall == 1.0


def test_few_items_have_no_index(scorer, tmp_path):
    made = vectors.export(scorer, tmp_path / "v")
    assert (made.partitions, made.best) == (0, None)
    assert made.exact_p50_ms > 0
    assert not open_lance(tmp_path / "v").open_table(vectors.ITEMS).list_indices()


def test_what_is_refused_leaves_nothing(scorer, data, tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    with refused("folder-exists", StoreError):
        vectors.export(scorer, tmp_path / "there")
    monkeypatch.setattr(vectors, "LEAST", 10)
    monkeypatch.setattr(vectors, "_measured", lambda *_: ([vectors.Found(1, 0.5, 1.0)], 1.0))
    with refused("recall-unreachable", LlmcfError):
        vectors.export(scorer, tmp_path / "v", recall=0.9)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    ranking = RecModel(data.resources, retrieval_world.default("backbone", "deepfm"), NoneConfig(), seed=1)
    save_bundle(tmp_path / "ranking", ranking, task=RankingConfig(), recipe={"name": "shop"}, clock="global")
    with refused("lists-unsupported", ModelError):
        vectors.export(Scorer.load(tmp_path / "ranking"), tmp_path / "v")


def test_the_command(folder, tmp_path):
    found = CliRunner().invoke(app, ["bundle", "vectors", str(folder), "--out", str(tmp_path / "v")])
    assert found.exit_code == 0, found.output
    assert "60 items" in found.output
    assert "search over so few items is exact" in found.output
