"""`/v1/recommend` and the page answer what `Scorer.recommend` gives, and refuse the rest with a code and a remedy."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import PATIENT, serving

from llmcf_cli.serve.scorer import Scorer

ASK = {"requests": [{"user_id": "u0", "k": 3}]}


@pytest.fixture(scope="module")
def client(lists_bundle):
    with serving(lists_bundle) as found:
        yield found


@pytest.fixture(scope="module")
def scorer(lists_bundle):
    return Scorer.load(lists_bundle)


def error_of(response):
    assert response.json()["request_id"] == response.headers["x-request-id"]
    return response.status_code, response.json()["error"]["code"]


def items_of(response):
    assert response.status_code == 200, response.text
    return [[item["item_id"] for item in result["items"]] for result in response.json()["results"]]


def replayed(shop):
    """Requests of offline rows, as clients would write them."""
    rows, catalog = shop.splits["test"], shop.resources.catalog
    users, items = catalog.users.ids.to_pylist(), catalog.items.ids.to_pylist()
    times = [np.datetime64(int(t), "us").astype(str) + "+00:00" for t in rows.time_N]
    return [
        {"user_id": users[u - 1], "history": [items[h - 1] for h in history if h], "time": time}
        for u, history, time in zip(rows.user_row_N, rows.history_row_NL, times, strict=True) if history.any()
    ]  # fmt: skip


def test_replayed_rows_get_the_lists_of_the_scorer_alone_and_together(client, scorer, shop):
    asked, k = replayed(shop)[:100], 5
    offline = scorer.recommend(asked, k)
    names = np.array(offline["item_id"].to_pylist()).reshape(-1, k).tolist()
    together = client.post("/v1/recommend", json={"requests": [{**one, "k": k} for one in asked]})
    assert items_of(together) == names
    scores = [item["score"] for result in together.json()["results"] for item in result["items"]]
    np.testing.assert_allclose(scores, offline["score"].to_numpy(), rtol=1e-5, atol=1e-5)
    with ThreadPoolExecutor(8) as pool:  # at once, so that they share batches
        ask = pool.map(lambda one: client.post("/v1/recommend", json={"requests": [{**one, "k": k}]}), asked)
        assert [items_of(response)[0] for response in ask] == names


def test_requests_of_one_batch_want_different_things(client, scorer):
    free = scorer.recommend([{"user_id": "u0"}], 9)["item_id"].to_pylist()
    body = {"requests": [
        {"user_id": "u0", "k": 9}, {"user_id": "u0", "k": 2, "allow": free[3:7], "deny": free[3:4]},
        {"user_id": "somebody", "history": ["i01", "gone", "i02"], "k": 60, "filter_seen": False}, {"user_id": "u7"},
    ]}  # fmt: skip
    response = client.post("/v1/recommend", json=body)
    whole, some, stranger, standard = items_of(response)
    assert whole == free
    assert some == free[4:6]
    assert sorted(stranger) == sorted(scorer.model.resources.catalog.items.ids.to_pylist())
    assert len(standard) == 10
    told = [(one["known"], one["unknown_events"]) for one in response.json()["results"]]
    assert told == [(True, 0), (True, 0), (False, 1), (True, 0)]
    assert response.json()["results"][2]["events"] == 2
    assert response.json()["bundle"] == response.headers["x-bundle"] == scorer.digest


def wrong(**request):
    return json.dumps({"requests": [{"user_id": "u0", **request}]}).encode()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 422, "body"), (b'{"requests": []}', 422, "body"), (wrong(k=0), 422, "body"), (wrong(k="5"), 422, "body"),
        (wrong(allow=[]), 422, "body"), (wrong(candidates=["i01"]), 422, "body"), (wrong(deny=[None]), 422, "body"),
        (wrong(deny=[" "]), 422, "request-value"), (wrong(time="soon"), 422, "request-value"),
        (wrong(deny=["no item"]), 422, "id-unknown"), (wrong(allow=["no item"]), 422, "id-unknown"),
        (wrong(k=61), 422, "list-too-short"), (wrong(user_id="nobody"), 422, "history-missing"),
        (wrong(history=[]), 422, "history-missing"), (wrong(k=101), 413, "rows-too-many"),
        (wrong(k=2**31 - 1), 413, "rows-too-many"), (wrong(k=90, deny=["i01"] * 10), 413, "rows-too-many"),
        (json.dumps({"requests": [{"user_id": "u0", "k": 1}] * 51}).encode(), 413, "rows-too-many"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_request_is_told(lists_bundle, body, status, code):
    with serving(lists_bundle, replace(PATIENT, rows=100)) as client:
        found = client.post("/v1/recommend", content=body)
        assert error_of(found) == (status, code)
        assert found.json()["error"]["hint"]
        assert client.post("/v1/recommend", json=ASK).status_code == 200


def test_one_wrong_request_of_a_batch_spoils_no_other(client):
    bad = {"requests": [{"user_id": "nobody"}]}
    score = {"requests": [{"user_id": "u0", "candidates": ["i01"]}]}
    ways = [("recommend", bad), ("recommend", ASK), ("score", score), ("score", score | {"explain": True})]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: client.post(f"/v1/{ways[n % 4][0]}", json=ways[n % 4][1]), range(48)))
    assert [response.status_code for response in found] == [200 if n % 4 else 422 for n in range(48)]
    assert len({json.dumps(items_of(response)) for response in found[1::4]}) == 1


def test_a_bundle_that_makes_lists_scores_given_items_too(client, scorer):
    pairs = [{"user_id": "u0", "item_id": item} for item in ("i01", "i02")]
    found = client.post("/v1/score", json={"requests": [{"user_id": "u0", "candidates": ["i01", "i02"]}]}).json()
    scores = [one["score"]["score"] for one in found["results"][0]["scores"]]
    np.testing.assert_allclose(scores, scorer.score(pairs)["score"].to_numpy(), rtol=1e-5, atol=1e-5)


def test_a_bundle_that_makes_no_lists_refuses_and_names_the_way(bundles):
    with serving(bundles["none"]) as client:
        found = client.post("/v1/recommend", json={"requests": [{"user_id": "u1", "k": 1}]})
        assert error_of(found) == (409, "lists-unsupported")
        assert "/v1/score" in found.json()["error"]["hint"]
        assert not client.get("/info").json()["lists"]


def test_the_server_says_and_counts_what_it_does(lists_bundle):
    with serving(lists_bundle) as client:
        info = client.get("/info").json()
        assert (info["task"], info["backbone"], info["lists"]) == ("retrieval", "sasrec", True)
        assert info["golden"] > 0
        client.post("/v1/recommend", json=ASK)
        stranger = {"user_id": "somebody", "history": ["i01", "gone"], "k": 4}
        client.post("/v1/recommend", json={"requests": [stranger]})
        client.post("/v1/recommend", content=b"{")
        measured = client.get("/metrics").text
    for line in ('llmcf_requests_total{endpoint="/v1/recommend",status="200"} 2.0',
                 'llmcf_requests_total{endpoint="/v1/recommend",status="422"} 1.0', "llmcf_batch_lists_sum 2.0",
                 'llmcf_unknown_total{kind="user"} 1.0', 'llmcf_unknown_total{kind="event"} 1.0',
                 "llmcf_score_count 7.0", 'llmcf_step_seconds_count{step="encode"} 2.0'):  # fmt: skip
        assert line in measured


def test_examples_of_the_openapi_page_work_whatever_the_bundle(client, bundles):
    with serving(bundles["none"]) as ranking:
        for asked, paths in ((client, ("/v1/score", "/v1/recommend")), (ranking, ("/v1/score",))):
            document = asked.get("/openapi.json").json()
            for path in paths:
                body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
                assert asked.post(path, json=body["examples"][0]).status_code == 200
            found = json.dumps(document)
            for name in {part.split('"')[0] for part in found.split("#/components/schemas/")[1:]}:
                assert name in document["components"]["schemas"]


def test_the_page_shows_a_list_and_escapes_what_it_shows(client, scorer):
    best = scorer.recommend([{"user_id": "u0"}], 4)["item_id"].to_pylist()
    empty = client.get("/").text
    assert '<option value="u0">' in empty
    assert "<tbody>" not in empty
    page = client.get("/", params={"user": "u0", "k": "3", "items": best[0]}).text
    assert page.count('<td class="number">') == 2 * 3
    assert all(f"<td>{item}</td>" in page for item in best[1:])
    assert f"<td>{best[0]}</td>" not in page
    assert client.get("/", params={"user": "u0"}).text.count('<td class="number">') == 2 * 10
    attack = '"><script>alert(1)</script>'
    for params in ({"user": attack}, {"user": "u0", "k": attack}, {"user": "u0", "items": attack}, {"user": "u0",
                   "k": "-1"}, {"user": "u0", "k": "9" * 5000}, {"user": "nobody", "history": attack}):  # fmt: skip
        response = client.get("/", params=params)
        assert response.status_code == 200
        assert "<script" not in response.text
        assert 'role="alert"' in response.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8,
)  # fmt: skip
ITEMS = st.lists(JSON | st.just("i02"), max_size=4) | JSON
REQUEST = st.fixed_dictionaries(
    {"user_id": JSON | st.just("u0")},
    optional={"k": st.integers(1, 70) | JSON, "history": ITEMS, "time": JSON, "allow": ITEMS, "deny": ITEMS,
              "filter_seen": st.booleans() | JSON, "more": JSON},
)  # fmt: skip


@given(st.fixed_dictionaries({"requests": st.lists(REQUEST, max_size=3) | JSON}) | JSON)
def test_no_request_is_a_fault_of_the_server(client, body):
    response = client.post("/v1/recommend", content=json.dumps(body).encode())
    assert response.status_code in (200, 413, 422)
    if response.status_code == 200:
        for asked, found in zip(body["requests"], response.json()["results"], strict=True):
            assert len(found["items"]) == asked.get("k", 10)
