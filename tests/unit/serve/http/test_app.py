"""The endpoints answer what the scorer gives, and refuse the rest with a code and a remedy."""

from __future__ import annotations

import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from safetensors.numpy import load_file, save_file
from sealing import sealed
from serving import PATIENT, serving

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.bundle.golden import REQUESTS
from llmcf_cli.serve.scorer import Scorer

ASK = {"requests": [{"user_id": "u1", "candidates": ["i1", "i2", "i3"]}]}


def error_of(response):
    assert response.headers["content-type"] == "application/json"
    assert response.json()["request_id"] == response.headers["x-request-id"]
    return response.status_code, response.json()["error"]["code"]


def replay(world, split="test"):
    """Requests of offline rows: one list each, with history and time."""
    rows = world.data.splits[split]
    times = [np.datetime64(int(t), "us").astype(str) + "+00:00" for t in rows.time_N]
    return [
        {"user_id": f"u{u}", "candidates": [f"i{i}"], "history": [f"i{h}" for h in history if h], "time": time}
        for u, i, history, time in zip(rows.user_row_N, rows.item_row_N, rows.history_row_NL, times, strict=True)
    ]


def logits(response):
    assert response.status_code == 200, response.text
    return [score["score"]["logit"] for result in response.json()["results"] for score in result["scores"]]


def test_replayed_rows_get_the_offline_scores_alone_and_together(world, bundles, client):
    scorer, asked = Scorer.load(bundles["ict"]), replay(world)[:100]
    pairs = [{**row, "item_id": row["candidates"][0]} for row in asked]
    offline = scorer.score(pairs)["logit"].to_numpy()
    assert offline.std() > 0.1
    together = logits(client.post("/v1/score", json={"requests": asked}))
    np.testing.assert_allclose(together, offline, rtol=1e-5, atol=1e-5)
    with ThreadPoolExecutor(8) as pool:  # at once, so that they share batches
        alone = list(pool.map(lambda row: logits(client.post("/v1/score", json={"requests": [row]}))[0], asked))
    np.testing.assert_allclose(alone, offline, rtol=1e-5, atol=1e-5)


def test_an_answer_says_what_is_known(client, bundles):
    body = {"requests": [{"user_id": "nobody", "candidates": ["i1", "nothing"], "history": []},
                         {"user_id": "u1", "candidates": [" i2 "]}]}  # fmt: skip
    response = client.post("/v1/score", json=body)
    stranger, known = response.json()["results"]
    assert (stranger["known"], stranger["events"]) == (False, 0)
    assert [score["known"] for score in stranger["scores"]] == [True, False]
    assert known["known"]
    assert known["events"] > 0
    assert [score["item_id"] for score in known["scores"]] == ["i2"]  # as ingest reads ids
    assert response.json()["bundle"] == response.headers["x-bundle"] == Scorer.load(bundles["ict"]).digest


def test_events_that_the_catalogue_lacks_are_counted(client):
    asked = [{"user_id": "x", "candidates": ["i1"], "history": history} for history in (["i1", "I2", "?"], [], None)]
    found = client.post("/v1/score", json={"requests": asked}).json()["results"]
    assert [(one["events"], one["unknown_events"]) for one in found] == [(1, 2), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("one", "where", "near"),
    [({"user_id": "u1", "candidates": ["i1"], "histroy": []}, "requests.0.histroy", "history"),
     ({"user": "u1", "candidates": ["i1"]}, "requests.0.user_id", "")],
)  # fmt: skip
def test_a_field_that_is_none_is_told_with_those_that_are(client, one, where, near):
    error = client.post("/v1/score", json={"requests": [one]}).json()["error"]
    assert (error["code"], error["where"]) == ("body", where)
    assert {"user_id", "candidates", "history"} <= set(error["allowed"])
    assert near in error["what"]


def test_an_explained_score_moves_by_what_its_examples_do(client):
    plain = client.post("/v1/score", json=ASK).json()["results"][0]["scores"]
    shown = client.post("/v1/score", json=ASK | {"explain": True}).json()["results"][0]["scores"]
    for without, explained in zip(plain, shown, strict=True):
        assert explained["score"]["logit"] == pytest.approx(without["score"]["logit"], abs=1e-5)
        assert len(explained["examples"]) == 4
        likeness = [example["likeness"] for example in explained["examples"]]
        assert likeness == sorted(likeness, reverse=True)
        assert any(abs(example["moved"]) > 1e-3 for example in explained["examples"])


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 422, "body"), (b"{", 422, "body"), (b"[]", 422, "body"), (b"\xff\xfe", 422, "body"),
        (b'{"requests": []}', 422, "body"), (b'{"requests": [{"user_id": NaN, "candidates": ["i1"]}]}', 422, "body"),
        (b'{"requests": [{"user_id": "u1", "candidates": []}]}', 422, "body"),
        (b'{"requests": [{"user_id": true, "candidates": ["i1"]}]}', 422, "body"),
        (b'{"requests": [{"user_id": "u1", "candidates": [{"a": 1}]}]}', 422, "body"),
        (b'{"requests": [{"user_id": "u1", "candidates": ["i1"], "histroy": []}]}', 422, "body"),
        (b'{"requests": [{"user_id": "u1", "candidates": [" "]}]}', 422, "request-value"),
        (b'{"requests": [{"user_id": "u1", "candidates": ["i1"], "time": "soon"}]}', 422, "request-value"),
        (json.dumps({"requests": [{"user_id": "u1", "candidates": ["i1"] * 101}]}).encode(), 413, "rows-too-many"),
        (b" " * 20_001, 413, "body-too-large"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_told(bundles, body, status, code):
    with serving(bundles["none"], replace(PATIENT, rows=100, body_bytes=20_000)) as client:
        assert error_of(client.post("/v1/score", content=body)) == (status, code)
        assert client.post("/v1/score", json=ASK).status_code == 200


def test_one_wrong_request_of_a_batch_spoils_no_other(client):
    bad = {"requests": [{"user_id": "u1", "candidates": ["i1"], "time": "soon"}]}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: client.post("/v1/score", json=bad if n % 4 == 0 else ASK), range(32)))
    assert [response.status_code for response in found] == [422 if n % 4 == 0 else 200 for n in range(32)]


def test_a_key_is_demanded_where_there_is_one(bundles):
    with serving(bundles["none"], key="s3cret") as client:
        for path in ("/live", "/ready"):
            assert client.get(path).status_code == 200
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer "},
            {"Authorization": "Bearer é"},
        ):
            encoded = {name: value.encode() for name, value in headers.items()}
            for method, path in (("POST", "/v1/score"), ("GET", "/"), ("GET", "/metrics"), ("GET", "/info"),
                                 ("GET", "/docs"), ("POST", "/admin/reload"), ("POST", "/admin/rollback")):  # fmt: skip
                assert error_of(client.request(method, path, headers=encoded)) == (401, "key")
        right = {"Authorization": "Bearer s3cret"}
        assert client.post("/v1/score", json=ASK, headers=right).status_code == 200


def test_reload_rollback_and_a_broken_bundle(bundles, own_bundle, tmp_path):
    pointer = tmp_path / "champion"
    pointer.write_text(str(bundles["none"]))
    with serving(watch=pointer) as client:
        first = client.get("/info").json()["bundle"]
        assert error_of(client.post("/admin/rollback")) == (409, "rollback-none")
        pointer.write_text("own\n")  # relative to the file
        assert client.post("/admin/reload").json()["previous"] == first
        second = client.get("/info").json()["bundle"]
        assert client.get("/info").json()["augmenter"] == "ict"
        weights = own_bundle / "weights.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])  # half copied
        assert error_of(client.post("/admin/reload")) == (409, "bundle-changed")
        assert client.post("/v1/score", json=ASK).headers["x-bundle"] == second
        assert client.post("/admin/rollback").json()["bundle"] == first
        assert client.post("/v1/score", json=ASK).headers["x-bundle"] == first
        measured = client.get("/metrics").text
    counts = {outcome: float(re.search(rf'llmcf_reloads_total{{outcome="{outcome}"}} (\S+)', measured)[1])
              for outcome in ("done", "failed")}  # fmt: skip
    assert counts["done"] >= 2  # the file is watched too
    assert counts["failed"] >= 2


def test_a_bundle_that_answers_otherwise_than_when_it_was_made_is_not_served(bundles, own_bundle):
    with serving(own_bundle) as client:
        before = client.get("/info").json()
        assert before["golden"] == REQUESTS
        weights = load_file(own_bundle / "weights.safetensors")
        weights["embedding.table_VD"] *= 2
        save_file(weights, own_bundle / "weights.safetensors")
        sealed(own_bundle)
        assert error_of(client.post("/admin/reload")) == (409, "golden-differs")
        assert client.get("/ready").json()["bundle"] == before["bundle"]
        assert client.post("/v1/score", json=ASK).headers["x-bundle"] == before["bundle"]
        assert 'llmcf_reloads_total{outcome="failed"} 1.0' in client.get("/metrics").text
    with refused("golden-differs", ModelError), serving(own_bundle):
        pass
    (own_bundle / "golden.json").unlink()
    with serving(sealed(own_bundle, lambda manifest: manifest["files"].pop("golden.json"))) as client:
        assert client.get("/info").json()["golden"] == 0


def test_explanations_tell_the_reasoning_where_the_bundle_has_it(client, bundles):
    assert not client.get("/info").json()["reasoning"]
    shown = client.post("/v1/score", json=ASK | {"explain": True}).json()["results"][0]["scores"]
    assert {example["reasoning"] for score in shown for example in score["examples"]} == {None}
    scorer = Scorer.load(bundles["reasons"])
    items = scorer.model.resources.catalog.items.ids.to_pylist()
    with serving(bundles["reasons"]) as other:
        assert other.get("/info").json()["reasoning"]
        assert "reasoning" not in other.post("/v1/score", json=ASK).text
        told = other.post("/v1/score", json=ASK | {"explain": True}).json()["results"][0]["scores"]
        for example in (example for score in told for example in score["examples"]):
            at = int(example["reasoning"].split(">")[1].split("<")[0])
            assert items[scorer.model.resources.get("examples").samples.item_row_N[at] - 1] == example["item_id"]
        page = other.get("/", params={"user": "u1", "items": "i1", "history": ""}).text
        assert page.count("because &lt;i&gt;") == 4


def test_metrics_count_requests_rows_and_strangers(bundles):
    with serving(bundles["ict"]) as client:
        client.post("/v1/score", json={"requests": [{"user_id": "nobody", "candidates": ["i1", "nothing"]}]})
        client.post("/v1/score", content=b"{")
        measured = client.get("/metrics").text
    steps = [f'llmcf_step_seconds_count{{step="{step}"}} 1.0' for step in ("read", "encode", "match", "model")]
    for line in ('llmcf_requests_total{endpoint="/v1/score",status="200"} 1.0',
                 'llmcf_requests_total{endpoint="/v1/score",status="422"} 1.0', 'llmcf_unknown_total{kind="item"} 1.0',
                 'llmcf_unknown_total{kind="user"} 1.0', "llmcf_batch_rows_sum 2.0", "llmcf_score_count 2.0",
                 *steps):  # fmt: skip
        assert line in measured


def test_the_page_shows_scores_and_escapes_what_it_shows(client):
    page = client.get("/", params={"user": "u1", "items": "i1, i2", "history": ""})
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "world &lt;b&gt;&amp;" in page.text
    assert page.text.count("moves the score by") == 2 * 4
    attack = '"><script>alert(1)</script>'
    page = client.get("/", params={"user": attack, "items": attack, "history": attack})
    assert page.status_code == 200
    assert "<script" not in page.text
    assert client.get("/", params={"user": "u1", "items": "\x00 \x1b[31m"}).status_code == 200


def test_ids_on_the_page_may_have_blanks(client):
    text = client.get("/", params={"user": "u1", "items": "KI 339/141, i2,\n i3 "}).text
    assert "KI 339/141" in text
    assert text.count("unknown)") == 1


def test_the_documentation_loads_nothing_and_its_example_works(client):
    response = client.get("/docs")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"<script|src=|https?://(?!127)", response.text)
    for path in client.get("/openapi.json").json()["paths"]:
        assert path in response.text
    (example,) = re.findall(r"/v1/score -d &#39;|/v1/score -d '(.*)'</code>", response.text)
    assert client.post("/v1/score", content=html.unescape(example)).status_code == 200


def test_the_openapi_page_has_an_example_that_works(client):
    document = client.get("/openapi.json").json()
    body = document["paths"]["/v1/score"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert client.post("/v1/score", json=body["examples"][0]).status_code == 200
    found = json.dumps(document)
    for name in {part.split('"')[0] for part in found.split("#/components/schemas/")[1:]}:
        assert name in document["components"]["schemas"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8,
)  # fmt: skip
REQUEST = st.fixed_dictionaries(
    {"user_id": JSON | st.just("u1"), "candidates": st.lists(JSON | st.just("i1"), max_size=4) | JSON},
    optional={"history": st.lists(JSON | st.just("i2"), max_size=4) | JSON, "time": JSON, "more": JSON},
)


@given(st.fixed_dictionaries({"requests": st.lists(REQUEST, max_size=3) | JSON}, optional={"explain": JSON}) | JSON)
def test_no_request_is_a_fault_of_the_server(client, body):
    response = client.post("/v1/score", content=json.dumps(body).encode())
    assert response.status_code in (200, 413, 422)
