"""A bundle becomes the champion only by what both answer on the newest samples, and the way back is kept."""

from __future__ import annotations

import shutil

import duckdb
import numpy as np
import pytest
from pydantic import ValidationError
from rec_world import SERVED
from refusals import refused
from sklearn.metrics import log_loss, roc_auc_score

from llmcf_cli.core.errors import DataError, ModelError, RecipeError, StoreError
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, ICTConfig, NoneConfig, RankingConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.promotion import PromoteSection
from llmcf_cli.serve.champion.pointer import pointed_at, read_pointer
from llmcf_cli.serve.champion.promote import promote, rollback
from llmcf_cli.serve.champion.window import newest
from llmcf_cli.serve.scorer import Scorer

ANYTHING = {"latency_ratio": 1e9}
"""A busy machine says nothing about latencies."""


def section(measures, **settings):
    return PromoteSection(measures=measures, **{**ANYTHING, **settings})


def saved(world, folder, augment=None, seed=4):
    model = RecModel(world.data.resources, DeepFMConfig(), augment or NoneConfig(), (BCEConfig(),), seed=seed)
    for parameter in model.parameters():
        parameter.data *= 3
    save_bundle(folder, model, task=RankingConfig(), recipe={}, clock="per_user", inputs=SERVED)
    return folder


@pytest.fixture(scope="module")
def bundles(world, tmp_path_factory):
    """Two bundles, the one with the worse AUC first, and one that reads examples."""
    folder = tmp_path_factory.mktemp("bundles")
    made = [saved(world, folder / f"s{seed}", seed=seed) for seed in (4, 5)]
    truth = newest(world.database, Ranking(RankingConfig()), section({"auc": {"at_least": 0}})).truth.target_N
    made.sort(key=lambda bundle: roc_auc_score(truth, _offline(world, bundle)))
    return *made, saved(world, folder / "ict", ICTConfig(), seed=6)


def _offline(world, bundle):
    return predict(Scorer.load(bundle).model, world.data, "test", batch_size=512)


def go(world, bundle, pointer, measures, *, dry_run=False, **settings):
    return promote(bundle, pointer, section(measures, **settings), world.database, recipe="r", dry_run=dry_run)


def test_the_first_bundle_becomes_the_champion_by_absolute_thresholds(world, bundles, tmp_path):
    pointer = tmp_path / "champion"
    denied = go(world, bundles[0], pointer, {"auc": {"at_least": 0.999}})
    assert (denied.moved, denied.decision.accepted, pointer.exists()) == (False, False, False)
    tried = go(world, bundles[0], pointer, {"auc": {"at_least": 0.0}}, dry_run=True)
    assert (tried.moved, tried.decision.accepted, pointer.exists()) == (False, True, False)
    found = go(world, bundles[0], pointer, {"auc": {"not_worse_by": 0, "at_least": 0.0}})
    assert (found.moved, found.before) == (True, None)
    assert pointed_at(pointer).samefile(bundles[0])
    held = read_pointer(pointer)
    assert held.previous is None
    assert held.champion.decision == found.decision
    assert held.champion.digest == Scorer.load(bundles[0]).digest


def test_measures_are_those_of_the_offline_scores(world, bundles, tmp_path):
    pointer = tmp_path / "champion"
    go(world, bundles[0], pointer, {"auc": {"at_least": 0}})
    found = go(world, bundles[2], pointer, {"auc": {"not_worse_by": 1}, "logloss": {"not_worse_by": 99}})
    with duckdb.connect(str(world.database), read_only=True) as con:
        label_N = con.sql("SELECT label FROM sample WHERE split = 'test' ORDER BY sample_id").fetchnumpy()["label"]
    auc, logloss = found.decision.measures
    for bundle, aucs, losses in (
        (bundles[0], auc.champion, logloss.champion),
        (bundles[2], auc.challenger, logloss.challenger),
    ):
        score_N = _offline(world, bundle).astype(float)
        assert aucs == pytest.approx(roc_auc_score(label_N, score_N), abs=1e-6)
        assert losses == pytest.approx(log_loss(label_N, 1 / (1 + np.exp(-score_N))), abs=1e-5)
    assert auc.interval[0] <= auc.difference <= auc.interval[1]
    assert found.decision.samples == found.decision.available == len(label_N)


def test_a_worse_bundle_is_refused_and_a_better_one_promoted_and_rolled_back_once(world, bundles, tmp_path):
    worse, better, _ = bundles
    pointer = tmp_path / "champion"
    go(world, better, pointer, {"auc": {"at_least": 0}})
    before = pointer.read_bytes()
    found = go(world, worse, pointer, {"auc": {"not_worse_by": 0}})
    assert (found.moved, pointer.read_bytes()) == (False, before)
    (failed,) = [check for check in found.decision.checks if not check.holds]
    assert (failed.of, failed.rule) == ("auc", "not_worse_by")
    assert 0 < failed.found == pytest.approx(-found.decision.measures[0].difference)
    enough = failed.found
    assert go(world, worse, pointer, {"auc": {"not_worse_by": enough + 1e-9}}).moved
    assert not go(world, worse, pointer, {"auc": {"not_worse_by": 0}}).decision  # is the champion already
    assert go(world, better, pointer, {"auc": {"not_worse_by": 0}}).moved
    now = rollback(pointer)
    assert pointed_at(pointer).samefile(worse)
    assert now == read_pointer(pointer)
    assert now.previous is None
    assert now.withdrawn.digest == Scorer.load(better).digest
    with refused("rollback-none", StoreError):
        rollback(pointer)


def test_the_interval_demands_more_than_the_difference(world, bundles, tmp_path):
    worse, better, _ = bundles
    pointer = tmp_path / "champion"
    go(world, worse, pointer, {"auc": {"at_least": 0}})
    found = go(world, better, pointer, {"auc": {"not_worse_by": 0}}, evidence="interval", dry_run=True)
    check = found.decision.checks[0]
    assert check.found == pytest.approx(-found.decision.measures[0].interval[0])
    assert check.holds == (found.decision.measures[0].interval[0] >= 0)


def test_bundles_that_should_serve_the_same_are_told_from_others(world, bundles, tmp_path):
    pointer = tmp_path / "champion"
    go(world, bundles[0], pointer, {"auc": {"at_least": 0}})
    other = go(world, bundles[1], pointer, {"auc": {"not_worse_by": 1}}, max_difference=0.001)
    assert [c.rule for c in other.decision.checks if not c.holds] == ["max_difference"]
    again = RecModel(world.data.resources, DeepFMConfig(), NoneConfig(), (BCEConfig(),), seed=4)
    again.load_state_dict(Scorer.load(bundles[0]).model.state_dict())
    save_bundle(tmp_path / "same", again, task=RankingConfig(), recipe={"name": "other"}, clock="per_user",
                inputs=SERVED)  # fmt: skip
    same = go(world, tmp_path / "same", pointer, {"auc": {"not_worse_by": 0}}, max_difference=0.001)
    assert same.moved
    assert same.decision.canary.largest_difference == 0
    assert same.decision.canary.pairs > 100


def test_what_is_rolled_back_to_must_be_what_it_was(world, bundles, tmp_path):
    shutil.copytree(bundles[0], tmp_path / "monday")
    pointer = tmp_path / "champion"
    go(world, tmp_path / "monday", pointer, {"auc": {"at_least": 0}})
    go(world, bundles[2], pointer, {"auc": {"at_least": 0}})
    shutil.rmtree(tmp_path / "monday")
    with refused("pointer-invalid", StoreError):
        rollback(pointer)
    shutil.copytree(bundles[1], tmp_path / "monday")
    with refused("champion-changed", StoreError):
        rollback(pointer)
    assert pointed_at(pointer).samefile(bundles[2])


def test_a_window_is_the_latest_test_samples(world, bundles, tmp_path):
    database = tmp_path / "data.duckdb"
    shutil.copy(world.database, database)
    with refused("promote-window", DataError):
        newest(database, Ranking(RankingConfig()), section({"auc": {"at_least": 0}}, window_days=1))
    with duckdb.connect(str(database)) as con:
        con.execute("UPDATE meta SET value = 'global' WHERE key = 'clock'")
        con.execute("CREATE TABLE times AS SELECT sample_id, time FROM sample")
        con.execute("UPDATE sample SET time = time * 3600000000")  # hours
        test = con.sql("SELECT t.time FROM times t JOIN sample s USING (sample_id) WHERE s.split = 'test'")
        hours = np.sort(test.fetchnumpy()["time"])
    whole = newest(database, Ranking(RankingConfig()), section({"auc": {"at_least": 0}}))
    assert len(whole.truth) == len(hours)
    part = newest(database, Ranking(RankingConfig()), section({"auc": {"at_least": 0}}, window_days=10))
    assert len(part.truth) == (hours > hours[-1] - 240).sum() < len(hours)
    drawn = newest(database, Ranking(RankingConfig()), section({"auc": {"at_least": 0}}, rows=20))
    assert (len(drawn.truth), drawn.available) == (20, len(hours))
    with refused("promote-task", ModelError):  # the bundle knows positions
        promote(bundles[0], tmp_path / "champion", section({"auc": {"at_least": 0}}), database, recipe="r")
    assert not (tmp_path / "champion").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"measures": {}},
        {"measures": {"auc": {}}},
        {"measures": {"auc": {"not_worse_by": -1}}},
        {"measures": {"auc": {"at_least": 2, "at_most": 1}}},
        {"measures": {"auc": {"at_least": "high"}}},
    ],
)
def test_thresholds_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValidationError):
        PromoteSection(**settings)


def test_a_measure_of_no_task_is_refused():
    load_recipe("quickstart", ["promote.measures.auc.not_worse_by=0.002"])
    with refused("rule-broken", RecipeError):
        load_recipe("quickstart", ["promote.measures.acu.not_worse_by=0.002"])
