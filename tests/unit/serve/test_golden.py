"""A bundle that does not answer as when it was made is found out before it serves."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from rec_world import SERVED
from refusals import refused
from safetensors.numpy import load_file, save_file
from sealing import sealed

from llmcf_cli.core.errors import ModelError, StoreError
from llmcf_cli.rec.bundle.bundle import GOLDEN, load_bundle, save_bundle
from llmcf_cli.rec.bundle.golden import REQUESTS
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, ICTConfig, NoneConfig, RankingConfig
from llmcf_cli.rec.input.config import ExamplesInputConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.serve.golden import replay
from llmcf_cli.serve.scorer import Scorer


def saved(world, folder, augment, inputs=SERVED, *, histories=True):
    resources = world.data.resources
    if not histories:
        resources = resources.__class__(resources.spec, resources.vocab, resources.catalog, resources.held)
    model = RecModel(resources, DeepFMConfig(), augment, (BCEConfig(),), seed=4)
    for parameter in model.parameters():
        parameter.data *= 3
    save_bundle(folder, model, task=RankingConfig(), recipe={}, clock="global", inputs=inputs)
    return folder


@pytest.fixture(params=[ICTConfig(), NoneConfig()], ids=["ict", "none"])
def bundle(request, world, tmp_path):
    return saved(world, tmp_path / "b", request.param)


def test_a_bundle_answers_its_golden_requests_as_when_it_was_made(bundle):
    scorer = Scorer.load(bundle)
    assert replay(scorer, scorer.golden) == REQUESTS
    scores = np.array([score for one in scorer.golden.requests for score in one.scores])
    assert scores.std() > 0.01
    assert {one.user_id for one in scorer.golden.requests} >= {""}


def test_golden_requests_ask_without_a_history_and_with_histories_of_nobody(world, tmp_path):
    kept = load_bundle(saved(world, tmp_path / "kept", NoneConfig())).golden
    if world.data.resources.histories is not None:
        assert any(one.history is None for one in kept.requests)
    assert any(one.history == () for one in kept.requests)
    without = load_bundle(saved(world, tmp_path / "without", NoneConfig(), histories=False)).golden
    assert all(one.history is not None for one in without.requests)


@pytest.mark.parametrize("part", ["embedding.table_VD", "augmenter.decoder.norm.weight"])
def test_other_weights_are_found_out(world, tmp_path, part):
    bundle = saved(world, tmp_path / "b", ICTConfig())
    weights = load_file(bundle / "weights.safetensors")
    weights[part] = weights[part] * np.float32(1.5)
    save_file(weights, bundle / "weights.safetensors")
    scorer = Scorer.load(sealed(bundle))
    with refused("golden-differs", ModelError):
        replay(scorer, scorer.golden)


def test_other_examples_are_found_out(world, tmp_path):
    bundle = saved(world, tmp_path / "b", ICTConfig())
    arrays = load_file(bundle / "examples.safetensors")
    arrays["vector_ES"] = np.roll(arrays["vector_ES"], 1, 0)
    save_file(arrays, bundle / "examples.safetensors")
    scorer = Scorer.load(sealed(bundle))
    with refused("golden-differs", ModelError):
        replay(scorer, scorer.golden)


def test_a_bundle_without_golden_requests_loads(bundle):
    (bundle / GOLDEN).unlink()
    assert Scorer.load(sealed(bundle, lambda manifest: manifest["files"].pop(GOLDEN))).golden is None


def test_approximate_search_has_none(world, tmp_path):
    approximate = [{**one.model_dump(), "search": {"type": "ann"}} for one in SERVED if one.type == "examples"]
    inputs = (*(one for one in SERVED if one.type != "examples"), *map(ExamplesInputConfig.model_validate, approximate))
    assert load_bundle(saved(world, tmp_path / "b", ICTConfig(), inputs)).golden is None


@pytest.mark.parametrize("text", ["", "[]", '{"requests": 3}', '{"requests": [{"user_id": "u1"}]}', "\0"])
def test_malformed_golden_requests_are_refused(bundle, text, tmp_path):
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / GOLDEN).write_text(text)
    with pytest.raises(StoreError):
        load_bundle(sealed(broken))


def test_golden_answers_that_are_too_few_are_refused(bundle):
    found = json.loads((bundle / GOLDEN).read_text())
    found["requests"][0]["scores"] = found["requests"][0]["scores"][:-1]
    (bundle / GOLDEN).write_text(json.dumps(found))
    with pytest.raises(StoreError):
        load_bundle(sealed(bundle))
