"""DeLong's test against its definition, and its behaviour on data whose truth is known."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from llmcf_cli.rec.measure.significance import auc_standard_error, delong, mean_standard_error, paired_t, placements


def scores(rng, label_N, strength):
    return (strength * label_N + rng.normal(size=len(label_N))).astype(np.float32)


def brute_covariance(label_N, arms):
    """Structural components by all pairs (DeLong et al., 1988)."""
    positive, negative = label_N > 0.5, label_N < 0.5
    v10, v01 = [], []
    for score in arms:
        psi = (score[positive][:, None] > score[negative][None]) + 0.5 * (score[positive][:, None] == score[negative])
        v10.append(psi.mean(axis=1))
        v01.append(psi.mean(axis=0))
    return np.cov(v10) / positive.sum() + np.cov(v01) / negative.sum()


def test_difference_and_error_follow_the_definition_with_ties():
    rng = np.random.default_rng(1)
    label_N = (rng.random(200) < 0.4).astype(np.float32)
    first, second = (np.round(scores(rng, label_N, s), 1) for s in (0.5, 1.0))
    found = delong(label_N, first, second)
    assert found.difference == pytest.approx(roc_auc_score(label_N, second) - roc_auc_score(label_N, first))
    covariance = brute_covariance(label_N, [first, second])
    expected = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert found.standard_error == pytest.approx(expected)
    assert auc_standard_error(label_N, placements(label_N, first)) == pytest.approx(np.sqrt(covariance[0, 0]))
    low, high = found.interval
    assert low < found.difference < high


def test_equal_rankings_do_not_differ():
    label_N = np.array([0, 1, 0, 1, 1], np.float32)
    first = np.array([0.1, 0.4, 0.5, 0.6, 0.9], np.float32)
    found = delong(label_N, first, 2 * first + 1)
    assert (found.difference, found.p_value) == (0.0, 1.0)


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(2)
    p_values = []
    for _ in range(400):
        label_N = (rng.random(150) < 0.5).astype(np.float32)
        p_values.append(delong(label_N, scores(rng, label_N, 0.7), scores(rng, label_N, 0.7)).p_value)
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.09
    assert 0.4 < np.mean(p_values) < 0.6


def test_a_real_difference_is_found():
    rng = np.random.default_rng(3)
    label_N = (rng.random(4000) < 0.5).astype(np.float32)
    assert delong(label_N, scores(rng, label_N, 0.3), scores(rng, label_N, 0.8)).p_value < 1e-6


def of_users(rng, users, most=12):
    """Labels of users with 1 to `most` samples each, whose labels and scores of two arms resemble each other."""
    user_N = np.repeat(np.arange(users), rng.integers(1, most + 1, users))
    taste_G, bias_AG = rng.normal(size=users), rng.normal(size=(2, users))
    label_N = (taste_G[user_N] + rng.normal(size=len(user_N)) > 0.2).astype(np.float32)
    arms = [(0.8 * label_N + bias_G[user_N] + rng.normal(size=len(user_N))) for bias_G in bias_AG]
    return user_N, label_N, *arms


def brute_clustered_variance(user_N, label_N, score_N):
    """Obuchowski (1997), Section 3, user by user, from all pairs."""
    positive, negative = np.flatnonzero(label_N > 0.5), np.flatnonzero(label_N < 0.5)
    wins = [[(score_N[i] > score_N[j]) + 0.5 * (score_N[i] == score_N[j]) for j in negative] for i in positive]
    v10, v01 = np.mean(wins, axis=1), np.mean(wins, axis=0)
    auc, m, n = np.mean(wins), len(positive), len(negative)
    s10 = s01 = s11 = 0.0
    for user in np.unique(user_N):
        of_positive, of_negative = v10[user_N[positive] == user], v01[user_N[negative] == user]
        first, second = (of_positive - auc).sum(), (of_negative - auc).sum()
        s10, s01, s11 = s10 + first**2, s01 + second**2, s11 + first * second
    with_positive, with_negative, users = (len(np.unique(user_N[of])) for of in (positive, negative, slice(None)))
    s10 *= with_positive / ((with_positive - 1) * m)
    s01 *= with_negative / ((with_negative - 1) * n)
    s11 *= users / (users - 1)
    return s10 / m + s01 / n + 2 * s11 / (m * n)


def test_the_error_over_users_follows_obuchowski():
    user_N, label_N, first, second = of_users(np.random.default_rng(4), 40)
    first, second = np.round(first, 1), np.round(second, 1)
    error = auc_standard_error(label_N, placements(label_N, first), user_N)
    assert error == pytest.approx(np.sqrt(brute_clustered_variance(user_N, label_N, first)))
    found = delong(label_N, first, second, user_N)
    assert found.difference == pytest.approx(roc_auc_score(label_N, second) - roc_auc_score(label_N, first))


def test_the_error_of_a_difference_over_users_is_that_of_the_jackknife():
    """Leaving one user out at a time, which knows nothing of placements."""
    user_N, label_N, first, second = of_users(np.random.default_rng(5), 300)

    def difference(kept):
        return roc_auc_score(label_N[kept], second[kept]) - roc_auc_score(label_N[kept], first[kept])

    left_G = np.array([difference(user_N != user) for user in np.unique(user_N)])
    jackknife = np.sqrt((len(left_G) - 1) / len(left_G) * ((left_G - left_G.mean()) ** 2).sum())
    assert delong(label_N, first, second, user_N).standard_error == pytest.approx(jackknife, rel=0.05)
    assert delong(label_N, first, second).standard_error < 0.8 * jackknife


def test_one_sample_per_user_is_delongs_test():
    rng = np.random.default_rng(6)
    label_N = (rng.random(300) < 0.4).astype(np.float32)
    first, second = scores(rng, label_N, 0.5), scores(rng, label_N, 0.8)
    found, plain = delong(label_N, first, second, rng.permutation(300)), delong(label_N, first, second)
    assert found.standard_error == pytest.approx(plain.standard_error)
    assert found.p_value == pytest.approx(plain.p_value)


def test_p_over_users_is_uniform_where_users_differ_and_arms_do_not():
    rng = np.random.default_rng(7)
    drawn = [of_users(rng, 80) for _ in range(300)]
    over_users = [delong(label_N, first, second, user_N).p_value for user_N, label_N, first, second in drawn]
    over_samples = [delong(label_N, first, second).p_value for _, label_N, first, second in drawn]
    assert 0.02 < np.mean(np.array(over_users) < 0.05) < 0.09
    assert np.mean(np.array(over_samples) < 0.05) > 0.12


def test_the_error_of_a_mean_over_users_is_that_of_the_jackknife():
    rng = np.random.default_rng(8)
    user_U = np.repeat(np.arange(30), rng.integers(1, 9, 30))
    value_U = rng.normal(size=30)[user_U] + rng.normal(size=len(user_U))
    total_G = np.array([(value_U[user_U == user] - value_U.mean()).sum() for user in range(30)])
    expected = np.sqrt(30 / 29 * (total_G**2).sum()) / len(value_U)
    assert mean_standard_error(value_U, user_U) == pytest.approx(expected)
    left_G = np.array([value_U[user_U != user].mean() for user in range(30)])
    jackknife = np.sqrt(29 / 30 * ((left_G - left_G.mean()) ** 2).sum())
    assert mean_standard_error(value_U, user_U) == pytest.approx(jackknife, rel=0.05)
    alone = paired_t(np.zeros(30), value_U[:30], np.arange(30))
    plain = paired_t(np.zeros(30), value_U[:30])
    assert alone.interval == pytest.approx(plain.interval)
