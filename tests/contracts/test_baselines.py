"""What every registered baseline must do."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.meanings import meaning
from llmcf_cli.plugin import registry
from llmcf_cli.rec.baselines.base import Baseline
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.measure.metrics import auc, sigmoid
from llmcf_cli.recipe.component import names_for

BASELINES = names_for("baseline", RankingConfig())


def fitted(name, data, seed=5) -> Baseline:
    baseline = registry().build("baseline", registry().get("baseline", name).config()())
    baseline.fit(data, seed=seed)
    return baseline


def with_split(data, split, samples):
    return dataclasses.replace(data, splits={**data.splits, split: samples})


def relabelled(samples):
    return dataclasses.replace(samples, label_N=1 - samples.label_N)


@pytest.fixture(params=BASELINES)
def name(request):
    return request.param


def test_logits_are_finite_and_one_per_sample(world, name):
    baseline = fitted(name, world.data)
    assert isinstance(baseline, Baseline)
    for split, samples in world.data.splits.items():
        logit_N = baseline.score(world.data, split)
        assert logit_N.shape == (len(samples),)
        assert logit_N.dtype == np.float32
        assert np.isfinite(logit_N).all()
        assert logit_N.std() > 0


def test_the_same_seed_gives_the_same_logits(world, name):
    first, again = (fitted(name, world.data).score(world.data, "test") for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_logits_are_calibrated_on_validation(world, name):
    probability_N = sigmoid(fitted(name, world.data).score(world.data, "validation"))
    assert probability_N.mean() == pytest.approx(world.data.splits["validation"].label_N.mean(), abs=0.08)


def test_the_test_split_is_not_read_in_fitting_and_its_labels_never(world, name):
    other = with_split(world.data, "test", relabelled(world.data.splits["test"]))
    expected = fitted(name, world.data).score(world.data, "test")
    np.testing.assert_array_equal(fitted(name, other).score(other, "test"), expected)
    gone = with_split(world.data, "test", world.data.splits["test"].take(slice(0, 0)))
    baseline = fitted(name, gone)
    assert len(baseline.score(gone, "test")) == 0
    np.testing.assert_array_equal(baseline.score(world.data, "test"), expected)


def test_a_sample_depends_on_no_other_sample(world, name):
    baseline, test = fitted(name, world.data), world.data.splits["test"]
    order = np.random.default_rng(0).permutation(len(test))
    some = order[:20]
    moved = baseline.score(with_split(world.data, "test", test.take(some)), "test")
    np.testing.assert_allclose(moved, baseline.score(world.data, "test")[some], rtol=1e-5, atol=1e-6)


def test_samples_of_nothing_known_are_scored(world, name):
    test = world.data.splits["test"].take(slice(0, 3))
    nothing = [np.zeros_like(array) for array in (test.user_row_N, test.item_row_N, test.history_row_NL)]
    unknown = dataclasses.replace(test, user_row_N=nothing[0], item_row_N=nothing[1], history_row_NL=nothing[2])
    logit_N = fitted(name, world.data).score(with_split(world.data, "test", unknown), "test")
    assert np.isfinite(logit_N).all()
    assert len(set(logit_N.tolist())) == 1


def test_a_split_without_both_labels_is_refused(world, name):
    validation = world.data.splits["validation"]
    with refused("split-one-class", DataError):
        fitted(name, with_split(world.data, "validation", validation.take(validation.label_N > 0.5)))


def test_negatives_may_be_drawn(world, name):
    """As with implicit labels: every train interaction is positive, negatives are random items."""
    train = world.data.splits["train"]
    items = np.random.default_rng(1).integers(1, 25, len(train)).astype(np.int32)
    drawn = dataclasses.replace(train, item_row_N=np.where(train.label_N > 0.5, train.item_row_N, items))
    data = with_split(world.data, "train", drawn)
    assert np.isfinite(fitted(name, data).score(data, "test")).all()


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "popularity"])
def test_what_sees_the_history_finds_what_a_user_likes(world, name):
    baseline = fitted(name, world.data)
    validation = world.data.splits["validation"]
    assert auc(validation.label_N, baseline.score(world.data, "validation")) > 0.65


def test_every_setting_is_documented(name):
    config = registry().get("baseline", name).config()
    assert config.__doc__
    for field in config.model_fields:
        assert field == "type" or meaning(config, field), field
    assert config().type == name
