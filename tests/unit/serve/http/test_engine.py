"""A server with exported models answers as one with the models themselves, through loading, changing and refusing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from exporting import export, trained
from refusals import refused
from serving import serving

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.rec.onnx.export import export_onnx
from llmcf_cli.serve.champion.canary import ask_both
from llmcf_cli.serve.champion.window import Window
from llmcf_cli.serve.core import EXPORTED
from llmcf_cli.serve.http.run import _written
from llmcf_cli.serve.http.settings import ServeSettings
from llmcf_cli.serve.requests import to_requests
from llmcf_cli.serve.scorer import Scorer


@pytest.fixture(scope="module")
def exported(world, tmp_path_factory):
    """Two trained bundles, exported."""
    found = {}
    for arm in ("ict", "none"):
        folder = tmp_path_factory.mktemp(arm)
        trained(world, folder, augmenter=arm)
        found[arm] = export(folder / "b")
    return found


@pytest.fixture
def own(exported, tmp_path):
    """A copy that a test may harm."""
    return Path(shutil.copytree(exported["ict"], tmp_path / "own"))


def asked(world, count):
    rows = world.data.splits["test"]
    return [
        {"user_id": f"u{rows.user_row_N[n]}", "candidates": [f"i{1 + (n + k) % 24}" for k in range(1 + n % 9)],
         "history": [f"i{i}" for i in rows.history_row_NL[n] if i]}
        for n in range(count)
    ]  # fmt: skip


def scores_of(response):
    assert response.status_code == 200, response.text
    return [one["score"]["logit"] for result in response.json()["results"] for one in result["scores"]]


@pytest.mark.parametrize("arm", ["ict", "none"])
def test_scores_are_those_of_the_model(world, exported, arm):
    requests = asked(world, 20)
    with serving(exported[arm]) as plain, serving(exported[arm], engine="onnx") as fast:
        assert [one.get("/info").json()["engine"] for one in (plain, fast)] == ["torch", "onnx"]
        nobody = {"user_id": "nobody", "candidates": ["nothing", "i3"], "history": []}
        for body in (requests, requests[:1], [nobody]):
            for explain in (False, True):
                answers = [one.post("/v1/score", json={"requests": body, "explain": explain}) for one in (plain, fast)]
                found, expected = (scores_of(one) for one in reversed(answers))
                np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
            moved = [[e["moved"] for r in one.json()["results"] for c in r["scores"] for e in c["examples"]]
                     for one in answers]  # fmt: skip
            np.testing.assert_allclose(*moved, rtol=0, atol=2e-5)
            assert len(moved[0]) > 0 or arm == "none"


def test_a_bundle_without_an_export_is_not_loaded_and_the_one_before_answers_on(bundles, exported, tmp_path):
    pointer = tmp_path / "champion"
    pointer.write_text(str(exported["ict"]))
    with serving(watch=pointer, engine="onnx") as client:
        first = client.get("/info").json()
        pointer.write_text(str(bundles["none"]))
        refusal = client.post("/admin/reload")
        assert refusal.json()["error"]["code"] == "onnx-missing"
        assert "export-onnx" in refusal.json()["error"]["hint"]
        assert client.get("/info").json() == first
        pointer.write_text(str(exported["none"]))
        assert client.post("/admin/reload").status_code == 200
        now = client.get("/info").json()
        assert (now["augmenter"], now["engine"], now["previous"]) == ("none", "onnx", first["bundle"])
        assert client.post("/admin/rollback").status_code == 200
        assert client.get("/info").json()["bundle"] == first["bundle"]


def test_golden_requests_are_asked_of_the_export(world, exported, own):
    """A whole export with other weights is found out before it serves."""
    scorer = Scorer.load(exported["ict"])
    for parameter in scorer.model.parameters():
        parameter.data *= 1.5
    shutil.rmtree(own / EXPORTED)
    scorer.model.eval().keep()
    export_onnx(scorer.model, scorer.values_of, own / EXPORTED, scorer.digest)
    with refused("golden-differs", ModelError), serving(own, engine="onnx"):
        pass


def test_the_canary_finds_no_difference_of_an_export(world, exported):
    fast, plain = (Scorer.load(exported["ict"], engine=engine) for engine in ("onnx", "torch"))
    assert fast.core.engine == "onnx"
    rows = [{"user_id": one["user_id"], "item_id": one["candidates"][0], "history": one["history"]}
            for one in asked(world, 40)]  # fmt: skip
    items = plain.model.resources.catalog.items.ids
    window = Window(to_requests(rows, plain.form), None, items, len(rows), "global", "", "")
    found = ask_both(plain, fast, window, fast.task)
    assert found.unanswered == 0
    assert found.pairs > 40
    assert found.largest_difference < 1e-5


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda folder: (folder / "model.onnx").write_bytes(b"x"), "onnx-malformed"),
        (lambda folder: (folder / "model.json").write_text("{}"), "onnx-malformed"),
        (lambda folder: shutil.rmtree(folder), "onnx-missing"),
        (lambda folder: (folder / "model.onnx").unlink(), "onnx-missing"),
        (lambda folder: other_bundle(folder / "model.json"), "onnx-other"),
    ],
)
def test_a_harmed_export_is_refused(own, harm, code):
    harm(own / EXPORTED)
    with refused(code, StoreError):
        Scorer.load(own, engine="onnx")
    Scorer.load(own)


def other_bundle(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "bundle": "0" * 64}))


def test_the_export_of_another_model_does_not_fit(exported, own):
    digest = json.loads((own / EXPORTED / "model.json").read_text())["bundle"]
    shutil.copytree(exported["none"] / EXPORTED, own / EXPORTED, dirs_exist_ok=True)
    path = own / EXPORTED / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "bundle": digest}))
    with refused("onnx-unfit", ModelError):
        Scorer.load(own, engine="onnx")


def test_an_export_takes_no_new_items_and_is_covered_by_no_signature(exported, tmp_path):
    scorer = Scorer.load(exported["none"], engine="onnx")
    with refused("onnx-items", ModelError):
        scorer.add_items(pa.table({"item_id": ["new"]}))
    assert scorer.unknown([{"user_id": "u1", "item_id": "new"}])["items"].ids == 1
    with refused("option-conflict", ModelError):
        Scorer.load(exported["none"], engine="onnx", signers=tmp_path / "keys")


def test_lists_have_no_export(lists_bundle):
    with refused("onnx-task", ModelError):
        Scorer.load(lists_bundle, engine="onnx")


def test_workers_get_the_engine(exported):
    assert json.loads(_written(ServeSettings(exported["ict"], engine="onnx")))["engine"] == "onnx"
