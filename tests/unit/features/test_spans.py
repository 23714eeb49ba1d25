"""Runs of places against plain Python."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.features.spans import spans


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=8))
def test_runs_stand_one_after_the_other(runs):
    first_n, count_n = (np.array([run[side] for run in runs], np.int64) for side in (0, 1))
    run_S, place_S = spans(first_n, count_n)
    expected = [(n, first + at) for n, (first, count) in enumerate(runs) for at in range(count)]
    assert list(zip(run_S.tolist(), place_S.tolist(), strict=True)) == expected
