"""Whatever bytes a client sends, the answer is no fault of the server, and the next client gets its scores or list.

LLMCF_FUZZ: how many requests (`make fuzz`: 10,000).
"""

from __future__ import annotations

import json
import os
import random

import pytest
import retrieval_world
from rec_world import SERVED
from serving import PATIENT, serving

from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, ICTConfig, RankingConfig
from llmcf_cli.rec.model import RecModel

REQUESTS = int(os.environ.get("LLMCF_FUZZ", "300"))
ASK = {"requests": [{"user_id": "u1", "candidates": ["i1", "i2"], "history": ["i3"], "time": "1970-01-02T00:00:00Z"}]}
ODD = [
    None, True, False, 0, -1, 5.5, 1e308, -0.0, 2**63, 10**30, "", " ", "\0", "u\0", "\ud800", "\u202e", "é" * 50,
    "x" * 3000, "nan", "NULL", "1e5", "007", "2024-01-01", "9999999999999", "0000-00-00", "\x1b[2J", [], [[]], {},
    {"a": 1}, [None], ["i1"] * 200, "[]", '["i1"]', float("nan"), float("inf"), "i1", "u1",
]  # fmt: skip
LIST = {"requests": [{"user_id": "u1", "history": ["i03"], "time": "2030-01-02T00:00:00Z", "k": 2, "deny": ["i01"],
                      "allow": ["i01", "i02", "i04"], "filter_seen": True}]}  # fmt: skip
ASKS = {"/v1/score": ASK, "/v1/recommend": LIST}
PATHS = ["/", "/info", "/ready", "/admin/rollback", "/v1/none", "/docs", "/openapi.json"]
METHODS = ["POST"] * 8 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"]
HEADERS = [
    {}, {"Content-Type": "application/json"}, {"Content-Type": "text/plain; charset=utf-16"},
    {"X-Request-Id": "x" * 100}, {"X-Request-Id": "a\tb"}, {"Content-Encoding": "gzip"}, {"Expect": "100-continue"},
    {"Accept": "text/html"},
    {"Content-Length": "3"}, {"Content-Length": "-3"}, {"Content-Length": "9" * 30},
]  # fmt: skip


@pytest.fixture(scope="module", params=ASKS)
def asked(request, world, tmp_path_factory):
    """A server, and what it is asked most."""
    folder = tmp_path_factory.mktemp("fuzz-serve")
    if request.param == "/v1/score":
        model = RecModel(world.data.resources, DeepFMConfig(), ICTConfig(), (BCEConfig(),), seed=4)
        save_bundle(folder / "b", model, task=RankingConfig(), recipe={}, clock="global", inputs=SERVED)
    else:
        retrieval_world.save(folder / "b", retrieval_world.make_data(folder).resources)
    with serving(folder / "b", PATIENT) as found:
        yield found, request.param


def changed(value, chance):
    """A value with some part of it replaced, doubled, moved or gone."""
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        kind = chance.randrange(6)
        if kind == 0:
            return {name: part for name, part in value.items() if name != key}
        if kind == 1:
            return {**value, chance.choice(["x", "", "explain", "item_id", "time", "REQUESTS"]): chance.choice(ODD)}
        return {**value, key: changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        if chance.random() < 0.2:
            return [*value, *value[: at + 1]]
        return [*value[:at], changed(value[at], chance), *value[at + 1 :]]
    return chance.choice(ODD)


def body(chance, endpoint):
    """A request's bytes: changed as JSON, and sometimes as bytes."""
    value = ASKS[endpoint]
    if endpoint == "/v1/score":
        value = value | {"explain": chance.random() < 0.1}
    for _ in range(chance.choice((0, 1, 1, 2, 4))):
        value = changed(value, chance)
    content = bytearray(json.dumps(value).encode())
    if chance.random() < 0.3:
        for _ in range(chance.choice((1, 3))):
            content[chance.randrange(len(content))] = chance.randrange(256)
        del content[chance.randrange(1, len(content) + 1) :]
    return bytes(content)


@pytest.mark.parametrize("part", range(10))
def test_no_request_is_a_fault_of_the_server(asked, part):
    client, endpoint = asked
    seen = set()
    for seed in range(part, REQUESTS, 10):
        chance = random.Random(seed)
        query = {name: str(chance.choice(ODD)) for name in ("user", "items", "k")}
        request = {
            "method": chance.choice(METHODS), "url": chance.choice([endpoint] * 12 + [*ASKS] + PATHS),
            "headers": chance.choice(HEADERS), "content": body(chance, endpoint),
            "params": query if chance.random() < 0.2 else None,
        }  # fmt: skip
        try:
            response = client.request(**request)
        except UnicodeEncodeError:  # the client's own library refuses it
            continue
        seen.add(response.status_code)
        assert response.status_code < 500, (seed, request, response.text)
        if response.status_code >= 400 and request["method"] != "HEAD":
            assert response.json()["error"]["code"], (seed, request)
    assert 200 in seen or REQUESTS < 1000, "of thirty requests it may be that none is whole"
    (result,) = client.post(endpoint, json=ASKS[endpoint]).json()["results"]
    found = [one["item_id"] for one in result["scores" if endpoint == "/v1/score" else "items"]]
    assert found == ["i1", "i2"] if endpoint == "/v1/score" else sorted(found) == ["i02", "i04"]
