"""Bundles that make lists take the champion's place by the lists that they serve, and cascades by theirs."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest
import retrieval_world
from refusals import refused
from scipy.stats import ttest_rel

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.bundle.cascade import CascadeManifest, write_cascade
from llmcf_cli.rec.config import DeepFMConfig, NoneConfig, RankingConfig
from llmcf_cli.rec.input.dataset import load_task_data
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.retrieval.config import RetrievalConfig
from llmcf_cli.rec.retrieval.ranked import rank_of
from llmcf_cli.rec.retrieval.task import Retrieval
from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.promotion import PromoteSection
from llmcf_cli.serve.champion.pointer import pointed_at
from llmcf_cli.serve.champion.predicted import predicted
from llmcf_cli.serve.champion.promote import promote, rollback
from llmcf_cli.serve.champion.window import newest
from llmcf_cli.serve.scorer import Scorer

TASK, RANKING = Retrieval(RetrievalConfig()), Ranking(RankingConfig())
NDCG = {"ndcg@10": {"not_worse_by": 0}}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Folder, data, and bundles of two backbones."""
    folder = tmp_path_factory.mktemp("lists")
    data = retrieval_world.make_data(folder)
    made = [retrieval_world.save(folder / name, data.resources, name) for name in ("sasrec", "gru4rec")]
    ranked = load_task_data(folder / "data.duckdb", RANKING, history_length=retrieval_world.LENGTH)
    for seed in (4, 5):
        model = RecModel(ranked.resources, DeepFMConfig(), NoneConfig(), seed=seed)
        for parameter in model.parameters():
            parameter.data *= 3
        save_bundle(folder / f"ranks{seed}", model, task=RankingConfig(), recipe={}, clock="global")
        parts = made[0], folder / f"ranks{seed}"
        finds, ranks = (Scorer.load(part).digest for part in parts)
        write_cascade(folder / f"cascade{seed}", *parts, CascadeManifest(candidates=20, retrieve=finds, rank=ranks))
    return folder, data, made


def go(folder, bundle, pointer, measures=None, task=TASK, **settings):
    section = PromoteSection(measures=measures or NDCG, **{"latency_ratio": 1e9, **settings})
    return promote(bundle, pointer, section, folder / "data.duckdb", recipe="r", task=task)


def of_users(rank_N, user_N):
    """NDCG@10 of each user, in plain Python."""
    gains = {}
    for rank, user in zip(rank_N.tolist(), user_N.tolist(), strict=True):
        gains.setdefault(user, []).append(1 / np.log2(1 + rank) if 1 <= rank <= 10 else 0.0)
    return np.array([np.mean(gains[user]) for user in sorted(gains)])


def test_the_measures_are_those_of_the_offline_lists_where_something_is_known(shop, tmp_path):
    folder, data, made = shop
    window = newest(folder / "data.duckdb", TASK, PromoteSection(measures=NDCG))
    with duckdb.connect(str(folder / "data.duckdb"), read_only=True) as con:
        history = con.sql("SELECT len(history) AS n FROM sample WHERE split = 'test' AND label = 1 ORDER BY sample_id")
        without_N = history.fetchnumpy()["n"] == 0
    assert 0 < without_N.sum() < len(window.truth)
    values = []
    for bundle in made:
        scorer = Scorer.load(bundle)
        found = predicted(scorer, window, TASK, TASK.measures)
        offline = predict(scorer.model, data, "test", batch_size=64)
        assert found.refused == without_N.sum()
        assert (rank_of(found.prediction)[without_N] == 0).all()
        np.testing.assert_array_equal(rank_of(found.prediction)[~without_N], np.where(
            (of := rank_of(offline)[~without_N]) > 50, 0, of))  # fmt: skip
        np.testing.assert_array_equal(TASK.columns(found.prediction)["listed"].flatten().to_numpy()
                                      .reshape(-1, 50)[~without_N], offline[~without_N, 1:51])  # fmt: skip
        values.append(of_users(rank_of(found.prediction), window.truth.user_row_N))
    worse, better = sorted(range(2), key=lambda n: values[n].mean())
    pointer = tmp_path / "champion"
    go(folder, made[worse], pointer, {"ndcg@10": {"at_least": 0}})
    done = go(folder, made[better], pointer, {**NDCG, "hr@10": {"not_worse_by": 1}, "coverage@10": {"at_least": 0}})
    (ndcg, *_) = done.decision.measures
    assert (ndcg.challenger, ndcg.champion) == pytest.approx((values[better].mean(), values[worse].mean()))
    assert ndcg.p_value == pytest.approx(ttest_rel(values[better], values[worse]).pvalue)
    assert done.moved
    assert done.decision.refused == without_N.sum()
    before = pointer.read_bytes()
    denied = go(folder, made[worse], pointer)
    assert [(check.of, check.rule) for check in denied.decision.checks if not check.holds] == [
        ("ndcg@10", "not_worse_by")
    ]
    assert pointer.read_bytes() == before
    rollback(pointer)
    assert pointed_at(pointer).samefile(made[worse])


def test_the_canary_asks_for_lists(shop, tmp_path):
    folder, _, made = shop
    go(folder, made[0], tmp_path / "champion", {"ndcg@10": {"at_least": 0}})
    other = go(folder, made[1], tmp_path / "champion", {"ndcg@10": {"not_worse_by": 1}}, max_difference=0.001)
    assert not other.moved
    canary = other.decision.canary
    assert (canary.unanswered, canary.requests >= 32) == (0, True)
    assert 0 < canary.differing <= canary.requests
    assert {c.rule for c in other.decision.checks if not c.holds} == {"max_difference", "same_items"}


def test_a_cascade_is_judged_by_its_lists_or_by_its_scores(shop, tmp_path):
    folder, _, made = shop
    first, second = (folder / f"cascade{seed}" for seed in (4, 5))
    lists, scores = tmp_path / "lists", tmp_path / "scores"
    assert go(folder, made[0], lists, {"ndcg@10": {"at_least": 0}}).moved
    by_lists = go(folder, first, lists, {"ndcg@10": {"not_worse_by": 1}})
    assert by_lists.moved
    window = newest(folder / "data.duckdb", TASK, PromoteSection(measures=NDCG))
    known_N = Scorer.load(first).has_events(window.asked.drop_columns(["item_id"]))
    asked = window.asked.filter(known_N)
    served = Scorer.load(first).recommend(asked.drop_columns(["item_id"]), 10)
    rank_N, position = np.zeros(len(window.truth)), 0
    lists_of = np.array(served["item_id"].to_pylist()).reshape(-1, 10)
    for row in np.flatnonzero(known_N):
        hits = np.flatnonzero(lists_of[position] == window.asked["item_id"][int(row)].as_py())
        rank_N[row], position = (1 + hits[0] if len(hits) else 0), position + 1
    expected = of_users(rank_N, window.truth.user_row_N).mean()
    assert by_lists.decision.measures[0].challenger == pytest.approx(expected)
    assert go(folder, folder / "ranks4", scores, {"auc": {"at_least": 0}}, task=RANKING).moved
    alone = go(folder, folder / "ranks5", scores, {"auc": {"not_worse_by": 1}}, task=RANKING)
    rollback(scores)
    cascade = go(folder, second, scores, {"auc": {"not_worse_by": 1}}, task=RANKING)
    assert cascade.moved
    assert cascade.decision.measures == alone.decision.measures


def test_what_a_bundle_cannot_do_is_refused(shop, tmp_path):
    folder, _, made = shop
    for bundle, task in ((folder / "ranks4", TASK), (made[0], RANKING)):
        measure = "auc" if task is RANKING else "ndcg@10"
        with refused("promote-task", ModelError):
            go(folder, bundle, tmp_path / "champion", {measure: {"at_least": 0}}, task=task)
    go(folder, made[0], tmp_path / "champion", {"ndcg@10": {"at_least": 0}})
    with refused("promote-task", ModelError):  # the champion scores no pairs of the task
        go(folder, folder / "ranks4", tmp_path / "champion", {"auc": {"at_least": 0}}, task=RANKING)
    with refused("promote-window", DataError):
        go(folder, made[1], tmp_path / "champion", rows=2, window_days=1e-6)
