"""Measures: what units contribute gives the total, and tests say what SciPy's say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap, ttest_rel

from llmcf_cli.plugin import registry
from llmcf_cli.rec.measure.base import Measure, Truth, Values, measured
from llmcf_cli.rec.measure.ranking import AUC, GroupAUC, LogLoss
from llmcf_cli.rec.measure.significance import delong, paired_bootstrap, paired_t
from llmcf_cli.rec.retrieval.ranked import LISTED

TASKS = [registry().build("task", registry().get("task", name).config()()) for name in registry().names("task")]
MEASURES = [
    pytest.param(task.config.form, measure, id=f"{task.config.type} {measure.name}")
    for task in TASKS
    for measure in task.measures
]


def world_of(form: str, seed: int) -> tuple[Truth, np.ndarray, np.ndarray]:
    """What is so, and predictions of a worse and a better model, of models of a form."""
    return {"pair": world, "user": lists}[form](seed)


def lists(seed: int, size: int = 400, items: int = 200) -> tuple[Truth, np.ndarray, np.ndarray]:
    """Targets of 80 users, and lists: of popular items with late targets, of any with early ones."""
    rng = np.random.default_rng(seed)
    taken_I = np.concatenate([[0], np.sort(rng.zipf(1.5, items).clip(max=1000))[::-1]])
    truth = Truth(rng.integers(1, items, size).astype(np.float32), rng.integers(0, 80, size), taken_I)
    found = []
    for most, reach in ((120, 120), (60, items)):
        rank_N1 = rng.integers(1, most, (size, 1))
        item_NK = np.argsort(rng.random((size, reach)), 1)[:, :LISTED] + 1
        found.append(np.concatenate([rank_N1, item_NK, np.zeros((size, LISTED))], 1).astype(np.float64))
    return truth, *found


def world(seed: int, size: int = 300) -> tuple[Truth, np.ndarray, np.ndarray]:
    """Labels of 30 users, and logits of a worse and a better model."""
    rng = np.random.default_rng(seed)
    label_N = (rng.random(size) < 0.4).astype(np.float32)
    noise_N = rng.normal(size=size)
    first, second = (s * label_N + noise_N + 0.3 * rng.normal(size=size) for s in (0.3, 2.0))
    return Truth(label_N, rng.integers(0, 30, size)), first.astype(np.float32), second.astype(np.float32)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.config.type)
def test_a_task_has_the_measures_that_may_choose(task):
    assert set(task.config.monitors) <= {measure.name for measure in task.measures}
    assert task.monitor() is task.measure(task.config.monitors[0])
    assert {task.truth.name, *(column.name for column in task.output)} <= set(task.stored.schema.names)


@pytest.mark.parametrize(("form", "measure"), MEASURES)
def test_the_total_is_that_of_the_units_contributions(form, measure):
    truth, first, _ = world_of(form, 0)
    values = measure.values(first, truth)
    assert values.total == measure.value(first, truth)
    parts = [values.label_U > 0.5, values.label_U < 0.5] if values.label_U is not None else [slice(None)]
    for part in parts:
        weights = None if values.weight_U is None else values.weight_U[part]
        assert measure.total(np.average(values.unit_U[part], weights=weights)) == pytest.approx(values.total)


@pytest.mark.parametrize(("form", "measure"), MEASURES)
def test_a_prediction_does_not_differ_from_itself_and_a_better_one_does(form, measure):
    truth, first, second = world_of(form, 1)
    one, other = (measure.values(prediction, truth) for prediction in (first, second))
    same = measure.test(one, one)
    assert (same.difference, same.standard_error, same.p_value) == (0.0, 0.0, 1.0)
    found = measure.test(one, other)
    assert found.difference == pytest.approx(other.total - one.total)
    assert found.interval[0] < found.difference < found.interval[1]
    assert (found.p_value < 0.05) == (not found.interval[0] <= 0 <= found.interval[1])
    back = measure.test(other, one)
    assert (back.difference, back.p_value) == (pytest.approx(-found.difference), pytest.approx(found.p_value))
    assert measure.standard_error(one) > 0


def test_auc_is_compared_by_delong():
    truth, first, second = world(2)
    found = AUC().test(AUC().values(first, truth), AUC().values(second, truth))
    assert found == delong(truth.target_N, first, second, truth.user_row_N)


def test_seeds_are_pooled_by_their_mean_prediction():
    truth, first, second = world(3)
    assert AUC().pooled([first, second], truth).total == AUC().value((first + second) / 2, truth)


@given(st.integers(0, 2**16), st.integers(2, 40))
def test_the_t_test_is_scipys(seed, size):
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, size))
    found, expected = paired_t(first, second), ttest_rel(second, first)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_the_bootstrap_is_scipys_up_to_the_draws():
    rng = np.random.default_rng(4)
    first, second = rng.exponential(size=(2, 400)) * np.array([[1.0], [1.2]])

    def difference(a, b, axis):
        return np.sqrt(b.mean(axis)) - np.sqrt(a.mean(axis))

    found = paired_bootstrap(first, second, np.ones(400), np.sqrt)
    other = bootstrap((first, second), difference, paired=True, vectorized=True, n_resamples=5000,
                      method="percentile", rng=rng)  # fmt: skip
    assert found.difference == difference(first, second, 0)
    assert found.standard_error == pytest.approx(other.standard_error, rel=0.1)
    assert found.interval == pytest.approx(tuple(other.confidence_interval), abs=0.2 * other.standard_error)


def test_a_bootstrap_draws_users_where_they_have_several_units():
    class RootMeanSquare(Measure):
        name, title, higher_is_better = "rms", "RMS", False

        def values(self, prediction, truth):
            square_N = prediction**2
            return Values(float(np.sqrt(square_N.mean())), square_N, user_U=truth.user_row_N)

        def total(self, mean):
            return np.sqrt(mean)

    rng = np.random.default_rng(6)
    user_N = np.repeat(np.arange(60), rng.integers(1, 9, 60))
    first, second = (rng.normal(size=60)[user_N] + 0.3 * rng.normal(size=len(user_N)) for _ in range(2))
    truth = Truth(np.zeros(len(user_N), np.float32), user_N)
    measure = RootMeanSquare()
    found = measure.test(measure.values(first, truth), measure.values(second, truth))
    drawn = [np.concatenate([np.flatnonzero(user_N == user) for user in rng.integers(0, 60, 60)]) for _ in range(1500)]
    other = [np.sqrt((second[of] ** 2).mean()) - np.sqrt((first[of] ** 2).mean()) for of in drawn]
    assert found.standard_error == pytest.approx(np.std(other), rel=0.1)
    assert found.difference == pytest.approx(np.sqrt((second**2).mean()) - np.sqrt((first**2).mean()))


def test_p_of_the_bootstrap_is_uniform_when_nothing_differs():
    rng = np.random.default_rng(5)
    p_values = [paired_bootstrap(*rng.normal(size=(2, 60)), np.ones(60), lambda mean: mean).p_value for _ in range(200)]
    assert 0.01 < np.mean(np.array(p_values) < 0.05) < 0.11
    assert 0.4 < np.mean(p_values) < 0.6


def test_heavier_users_count_more():
    truth = Truth(np.array([1, 0, 1, 0, 0, 0], np.float32), np.array([0, 0, 1, 1, 1, 1], np.int32))
    found = GroupAUC().values(np.array([0.0, 1.0, 3.0, 2.0, 1.0, 0.0]), truth)
    assert found.unit_U.tolist() == [0.0, 1.0]
    assert found.total == pytest.approx(4 / 6)


def test_what_is_not_defined_is_left_out():
    everyone_once = Truth(np.array([1, 0, 1], np.float32), np.arange(3))
    assert set(measured((AUC(), GroupAUC(), LogLoss()), np.zeros(3), everyone_once)) == {"auc", "logloss"}
