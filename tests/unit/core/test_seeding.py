"""Seeds: pinned, in range, independent by name."""

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.core.seeding import GOLDEN, derive_seed, mixed, seed_everything, shifted

names = st.lists(st.text(max_size=5) | st.integers(0, 9), max_size=3)


def test_pinned():
    assert derive_seed(2024, "train-rec", "ict", 3) == derive_seed(2024, "train-rec", "ict", "3")
    assert [derive_seed(0), derive_seed(2024, "split")] == [1609362278, 691176360]


@given(st.integers(0, 2**31 - 1), names)
def test_in_range_and_stable(seed, parts):
    found = derive_seed(seed, *parts)
    assert 0 <= found < 2**31
    assert found == derive_seed(seed, *parts)


def test_other_names_and_seeds_give_other_streams():
    found = {derive_seed(seed, name, index) for seed in range(20) for name in ("a", "b") for index in range(20)}
    assert len(found) == 800
    assert derive_seed(1, "ab", "c") != derive_seed(1, "a", "bc")


def test_seed_everything_covers_python_numpy_and_torch():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()

    seed_everything(7)
    first = draw()
    assert draw() != first
    seed_everything(7)
    assert draw() == first


def splitmix(state):
    """SplitMix64's output function in Python's own integers."""
    state %= 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def test_splitmix64_draws_its_reference_numbers():
    """Those of Vigna's splitmix64.c, seed 1234567."""
    states = 1234567 + np.arange(1, 6) * GOLDEN
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert mixed(states).view(np.uint64).tolist() == expected
    assert mixed(torch.from_numpy(states)).numpy().view(np.uint64).tolist() == expected


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=5), st.integers(1, 63))
def test_arrays_and_tensors_are_mixed_like_integers(values, bits):
    array = np.array(values, np.int64)
    for found in (mixed(array), mixed(torch.from_numpy(array)).numpy()):
        assert found.view(np.uint64).tolist() == [splitmix(value) for value in values]
    for found in (shifted(array, bits), shifted(torch.from_numpy(array), bits).numpy()):
        assert found.tolist() == [value % 2**64 >> bits for value in values]
