"""Baselines against their formulas."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from llmcf_cli.core.errors import DataError
from llmcf_cli.rec.baselines.als import ALS
from llmcf_cli.rec.baselines.base import histories, train_positives
from llmcf_cli.rec.baselines.config import ALSConfig, GBMConfig, ItemKNNConfig, ItemRateConfig, PopularityConfig
from llmcf_cli.rec.baselines.gbm import GBM
from llmcf_cli.rec.baselines.item_knn import ItemKNN
from llmcf_cli.rec.baselines.popularity import ItemRate, Popularity
from llmcf_cli.rec.measure.metrics import auc


def learnt(baseline, data):
    baseline.fit(data, seed=1)
    return baseline


def test_positives_and_histories_count_once(world):
    train = world.data.splits["train"]
    liked = train.label_N == 1
    taken = train_positives(world.data).toarray()
    assert taken.sum() == len(set(zip(train.user_row_N[liked], train.item_row_N[liked], strict=True)))
    assert taken.max() == 1
    again = dataclasses.replace(train, history_row_NL=np.full_like(train.history_row_NL, 7))
    assert histories(again, 24).toarray()[:, 7].tolist() == [1] * len(train)
    assert histories(train, 24).toarray().sum() == (train.history_row_NL > 0).sum()


def test_popularity_ranks_by_train_positives(world):
    test, train = world.data.splits["test"], world.data.splits["train"]
    baseline = learnt(Popularity(PopularityConfig()), world.data)
    counts = [((train.item_row_N == item) & (train.label_N == 1)).sum() for item in test.item_row_N]
    np.testing.assert_allclose(baseline.scores(test), np.log1p(counts)[:, None])
    found = auc(test.label_N, baseline.score(world.data, "test"))
    expected = roc_auc_score(test.label_N, counts)
    assert found == pytest.approx(expected) or found == pytest.approx(1 - expected)


def test_item_rate_counts_positives_and_negatives(world):
    scores = learnt(ItemRate(ItemRateConfig()), world.data).scores(world.data.splits["test"])
    train, item = world.data.splits["train"], world.data.splits["test"].item_row_N[4]
    of_item = train.item_row_N == item
    expected = [np.log1p((of_item & (train.label_N == label)).sum()) for label in (1, 0)]
    np.testing.assert_allclose(scores[4], expected, rtol=1e-6)


def test_item_knn_sums_cosines_over_the_history(world):
    test = world.data.splits["test"]
    scores = learnt(ItemKNN(ItemKNNConfig()), world.data).scores(test)[:, 0]
    taken = train_positives(world.data).toarray().astype(np.float64)
    cosine = taken / np.maximum(np.linalg.norm(taken, axis=0), 1e-9)
    cosine = cosine.T @ cosine
    expected = [
        cosine[row[row > 0], item].sum() for row, item in zip(test.history_row_NL, test.item_row_N, strict=True)
    ]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert (learnt(ItemKNN(ItemKNNConfig(neighbours=1)), world.data).scores(test) == 0).all()  # each item itself only


def test_als_solves_for_the_history(world):
    test = world.data.splits["test"]
    baseline = learnt(ALS(ALSConfig(factors=4, alpha=3, regularization=0.05)), world.data)
    item_ID = baseline._factors.item_ID.astype(np.float64)
    scores = baseline.scores(test)[:, 0]
    for row in range(0, len(test), 9):
        taken = histories(test.take([row]), 24).toarray()[0].astype(np.float64)
        confidence = np.where(taken > 0, 3.0, 1.0)
        left = (item_ID * confidence[:, None]).T @ item_ID + 0.05 * np.eye(4)
        user_D = np.linalg.solve(left, (item_ID * (confidence * taken)[:, None]).sum(0))
        assert scores[row] == pytest.approx(user_D @ item_ID[test.item_row_N[row]], abs=1e-4)


def test_calibration_keeps_the_order_of_a_score(world):
    baseline = learnt(ItemKNN(ItemKNNConfig()), world.data)
    test = world.data.splits["test"]
    raw = auc(test.label_N, baseline.scores(test)[:, 0])
    assert auc(test.label_N, baseline.score(world.data, "test")) == pytest.approx(raw, abs=1e-6)


def test_gbm_stops_by_the_validation_split(world):
    baseline = learnt(GBM(GBMConfig(patience=3)), world.data)
    assert baseline._model.n_iter_ < GBMConfig().trees
    upside_down = dataclasses.replace(
        world.data.splits["validation"], label_N=1 - world.data.splits["validation"].label_N
    )
    data = dataclasses.replace(world.data, splits={**world.data.splits, "validation": upside_down})
    assert learnt(GBM(GBMConfig(patience=3)), data)._model.n_iter_ < baseline._model.n_iter_


def test_gbm_needs_collaborative_vectors(world):
    resources = world.data.resources.holding(collaborative=None)
    with pytest.raises(DataError, match="collaborative"):
        learnt(GBM(GBMConfig()), dataclasses.replace(world.data, resources=resources))
