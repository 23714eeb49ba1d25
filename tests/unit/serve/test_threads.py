"""A scorer that several threads use, and vectors that are none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from rec_world import SERVED
from refusals import refused

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, ICTConfig, KARConfig, RankingConfig, SignalsConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.serve.scorer import Scorer

ARMS = {"ict with signals": ICTConfig(features=("text", "signals")), "kar": KARConfig(), "signals": SignalsConfig()}


def scorer_of(world, folder, arm="ict with signals", inputs=SERVED):
    model = RecModel(world.data.resources, DeepFMConfig(), ARMS[arm], (BCEConfig(),), seed=4)
    save_bundle(folder, model, task=RankingConfig(), recipe={}, clock="global", inputs=inputs)
    return Scorer.load(folder)


def requests(world, extra=()):
    rows = world.data.splits["test"]
    items = [*(f"i{i}" for i in rows.item_row_N), *extra]
    users = [*(f"u{u}" for u in rows.user_row_N), *["u1"] * len(extra)]
    history = [*([f"i{i}" for i in h if i] for h in rows.history_row_NL), *[["i1", "i2"]] * len(extra)]
    return pa.table({"user_id": users, "item_id": items, "history": history})


def vector(world, seed):
    found = np.random.default_rng(seed).standard_normal((1, world.data.resources.get("text").shape[1]))
    return (found / np.linalg.norm(found)).astype(np.float32)


@pytest.mark.parametrize("arm", ARMS)
def test_items_that_threads_add_all_arrive_while_others_score(world, tmp_path, arm):
    names = [f"new{n}" for n in range(24)]
    serial, shared = (scorer_of(world, tmp_path / name, arm) for name in ("serial", "shared"))
    vectors = {name: vector(world, n) if shared.model.resources.get("text") is not None else None
               for n, name in enumerate(names)}  # fmt: skip
    before = serial.score(requests(world))["logit"].to_numpy()
    for name in names:
        serial.add_items(pa.table({"item_id": [name], "brand": ["b1"]}), vectors[name])

    def add(name):
        shared.add_items(pa.table({"item_id": [name], "brand": ["b1"]}), vectors[name])

    with ThreadPoolExecutor(8) as pool:
        scores = [pool.submit(shared.score, requests(world)) for _ in range(12)]
        adding = [pool.submit(add, name) for name in names]
        scores += [pool.submit(shared.score, requests(world)) for _ in range(12)]
        for done in adding:
            done.result()
        for done in scores:  # of items that were there from the start, whatever was added meanwhile
            np.testing.assert_allclose(done.result()["logit"].to_numpy(), before, atol=1e-6)
    assert set(names) <= set(shared.model.resources.catalog.items.ids.to_pylist())
    asked = requests(world, names)
    expected = serial.score(asked)["logit"].to_numpy()
    np.testing.assert_allclose(shared.score(asked)["logit"].to_numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e30, 3.0])
def test_a_vector_that_is_none_is_refused_by_name_and_nothing_is_added(world, tmp_path, broken):
    scorer = scorer_of(world, tmp_path / "b")
    before = scorer.score(requests(world))["logit"].to_numpy()
    vectors = np.concatenate([vector(world, n) for n in range(3)])
    vectors[1, 0] = broken
    with refused("items-norm", DataError, names="'second'"):
        scorer.add_items(pa.table({"item_id": ["first", "second", "third"]}), vectors)
    assert "first" not in scorer.model.resources.catalog.items.ids.to_pylist()
    assert (scorer.score(requests(world))["logit"].to_numpy() == before).all()
    scorer.add_items(pa.table({"item_id": ["first", "third"]}), vectors[[0, 2]])


@pytest.mark.parametrize("ids", [["i1"], ["fresh", "fresh"], ["fresh", None]], ids=["known", "twice", "null"])
def test_ids_that_are_none_are_refused(world, tmp_path, ids):
    scorer = scorer_of(world, tmp_path / "b")
    with pytest.raises(DataError):
        scorer.add_items(pa.table({"item_id": pa.array(ids, pa.string())}))
    assert "fresh" not in scorer.model.resources.catalog.items.ids.to_pylist()


def test_a_time_that_is_no_number_is_named(world, tmp_path):
    scorer = scorer_of(world, tmp_path / "b")
    asked = requests(world).slice(0, 3).append_column("time", pa.array([1.0, float("inf"), None]))
    with refused("request-value", DataError, names="2"):
        scorer.score(asked)


def test_a_bundle_that_says_nothing_of_matching_is_refused(world, tmp_path):
    with pytest.raises(ModelError, match="match"):
        scorer_of(world, tmp_path / "b", inputs=())


def test_examples_of_another_space_are_refused(world, tmp_path):
    bank = world.data.resources.get("examples")
    other = world.data.resources.holding(examples=replace(bank, vector_ES=bank.vector_ES[:, :-1]))
    model = RecModel(other, DeepFMConfig(), ICTConfig(), (BCEConfig(),))
    save_bundle(tmp_path / "b", model, task=RankingConfig(), recipe={}, clock="global", inputs=SERVED)
    with pytest.raises(ModelError, match="numbers"):
        Scorer.load(tmp_path / "b")
