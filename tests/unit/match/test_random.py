"""Random examples: by chance, under the guards, the same offline and live."""

import numpy as np

from llmcf_cli.match.config import RandomSearchConfig
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.random import RandomSearcher, random_vectors

E, N = 60, 4000


def keys(size: int, first_id: int, seed: int) -> Keys:
    rng = np.random.default_rng(seed)
    return Keys(
        np.arange(first_id, first_id + size), rng.integers(1, 9, size), rng.integers(1, 30, size),
        rng.integers(0, 100, size),
    )  # fmt: skip


def search(seed: int = 0, *, live: bool = False, clock: str = "per_user"):
    examples, queries = keys(E, 0, 1), keys(N, 1000, 2)
    if live:
        queries = Keys(np.full(N, -1), queries.user_row_N, queries.item_row_N, queries.time_N)
    label = np.arange(E) % 2
    index = RandomSearcher(RandomSearchConfig(seed=seed)).prepare(
        np.zeros((E, 3), np.float32), examples, label, balance="labels", guard=Guard(clock)
    )
    return index.search(np.zeros((N, 3), np.float32), queries, k=4), examples, queries


def test_every_example_is_about_equally_likely():
    found, _, _ = search()
    count = np.bincount(found.index_NK[found.index_NK >= 0], minlength=E)
    expected = 4 * N / E
    assert count.min() > 0.4 * expected
    assert count.max() < 2.5 * expected


def test_guards_hold():
    found, examples, queries = search(clock="global")
    row, place = np.nonzero(found.index_NK >= 0)
    chosen = examples.take(found.index_NK[row, place])
    assert Guard("global").allowed_pairs(queries.take(row), chosen).all()


def test_a_live_request_sees_what_the_stored_sample_saw_and_another_seed_something_else():
    assert np.array_equal(search()[0].index_NK, search(live=True)[0].index_NK)
    assert (search()[0].index_NK != search(seed=1)[0].index_NK).mean() > 0.5


def test_vectors_fill_their_range():
    vectors = random_vectors(keys(5000, 0, 3), 7)
    assert vectors.dtype == np.float32
    assert -1 <= vectors.min() < -0.99
    assert 0.99 < vectors.max() < 1
    assert abs(vectors.mean()) < 0.02
