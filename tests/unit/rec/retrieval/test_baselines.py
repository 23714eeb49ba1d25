"""Baselines of retrieval against plain computations."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import retrieval_world
from refusals import refused
from sklearn.linear_model import Ridge

from llmcf_cli.core.errors import DataError
from llmcf_cli.plugin import registry
from llmcf_cli.rec.retrieval.config import RetrievalConfig
from llmcf_cli.rec.retrieval.ranked import items_of, rank_of
from llmcf_cli.recipe.component import names_for


def fitted(name, data, **settings):
    made = registry().build("baseline", retrieval_world.default("baseline", name, **settings))
    made.fit(data, seed=1)
    return made


def taken(data):
    """Who took what in train, 0/1 [U + 1, I + 1]."""
    train, catalog = data.splits["train"], data.resources.catalog
    found = np.zeros((len(catalog.users.ids) + 1, len(catalog.items.ids) + 1))
    found[train.user_row_N, train.item_row_N] = 1
    return found


def histories(data, samples):
    found = np.zeros((len(samples), len(data.resources.catalog.items.ids) + 1))
    for row, history in enumerate(samples.history_row_NL.tolist()):
        found[row, [item for item in history if item]] = 1
    return found


@pytest.mark.parametrize("name", names_for("baseline", RetrievalConfig()))
def test_lists_leave_out_what_was_seen(shop, name):
    prediction, test = fitted(name, shop).score(shop, "test"), shop.splits["test"]
    assert len(prediction) == len(test)
    assert np.isfinite(prediction).all()
    assert (rank_of(prediction) >= 1).all()
    owner_S, item_S = shop.resources.get("events").seen(test.user_row_N, test.time_N)
    for number in range(len(test)):
        assert not set(items_of(prediction)[number].tolist()) & set(item_S[owner_S == number].tolist())


def test_popularity_counts(shop):
    counts = Counter(shop.splits["train"].item_row_N.tolist())
    score = fitted("top_popular", shop).scores(shop.splits["test"].take(slice(0, 2)))
    assert score[0].tolist() == score[1].tolist() == [counts[item] for item in range(len(score[0]))]


def test_recent_popularity_counts_the_latest(shop):
    train = shop.splits["train"]
    cut = sorted(train.time_N.tolist())[int(len(train) * 0.75)]
    counts = Counter(train.item_row_N[train.time_N >= cut].tolist())
    score = fitted("top_recent", shop, share=0.25).scores(shop.splits["test"].take(slice(0, 1)))
    assert score[0].tolist() == [counts[item] for item in range(len(score[0]))]


def test_neighbours_are_those_of_cosines(shop):
    samples, taken_UI = shop.splits["test"].take(slice(0, 30)), taken(shop)
    norm_I = np.linalg.norm(taken_UI, axis=0)
    cosine_II = taken_UI.T @ taken_UI / np.maximum(np.outer(norm_I, norm_I), 1e-9)
    found = fitted("item_neighbours", shop, neighbours=1000).scores(samples)
    np.testing.assert_allclose(found, histories(shop, samples) @ cosine_II, atol=1e-5)


def test_ease_is_a_ridge_regression_of_each_item_from_the_others(shop):
    samples, taken_UI = shop.splits["test"].take(slice(0, 30)), taken(shop)
    weight_II = np.zeros((taken_UI.shape[1],) * 2)
    for item in range(taken_UI.shape[1]):
        others = [other for other in range(taken_UI.shape[1]) if other != item]
        model = Ridge(alpha=7.0, fit_intercept=False).fit(taken_UI[:, others], taken_UI[:, item])
        weight_II[others, item] = model.coef_
    found = fitted("ease", shop, l2=7.0).scores(samples)
    np.testing.assert_allclose(found, histories(shop, samples) @ weight_II, atol=1e-4)


def test_texts_are_compared_with_the_mean_of_the_history(shop):
    samples, text_IT = shop.splits["test"].take(slice(0, 30)), shop.resources.get("text").astype(np.float64)
    found = fitted("text_neighbours", shop).scores(samples)
    for row, history in enumerate(samples.history_row_NL.tolist()):
        mean_T = sum((text_IT[item] for item in history if item), start=np.zeros(text_IT.shape[1]))
        expected = text_IT @ mean_T / max(np.linalg.norm(mean_T), 1e-6)
        np.testing.assert_allclose(found[row], expected, atol=1e-5)


def test_recent_items_need_a_clock(shop):
    from dataclasses import replace

    events = replace(shop.resources.get("events"), clock="per_user")
    with refused("split-clock", DataError):
        fitted("top_recent", replace(shop, resources=shop.resources.holding(events=events)))


def test_ials_solves_the_normal_equations_of_the_paper(shop):
    """Users of given item vectors by Eq. 4; and these vectors are those that train asks for, by the same of items."""
    settings = {"factors": 6, "iterations": 60, "regularization": 2.0, "alpha": 5.0}
    made, test = fitted("ials", shop, **settings), shop.splits["test"].take(slice(0, 30))

    def solved(other, taken):
        """For rows that took some of the others: confidence α in what they took, 1 in what not."""
        found = []
        for row in taken:
            confidence = np.where(row > 0, settings["alpha"], 1.0)
            left = other.T @ (confidence[:, None] * other) + settings["regularization"] * np.eye(other.shape[1])
            found.append(np.linalg.solve(left, other.T @ (confidence * row)))
        return np.array(found)

    items = made._factors.item_ID.astype(np.float64)
    expected = solved(items, histories(shop, test)) @ items.T
    np.testing.assert_allclose(made.scores(test), expected, rtol=1e-3, atol=1e-3)
    users = solved(items, taken(shop))
    np.testing.assert_allclose(solved(users, taken(shop).T), items, atol=0.02)
