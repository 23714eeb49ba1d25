"""Runs of places in an array."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def spans(first_n: NDArray[Any], count_n: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All places of some runs, one run after the other.

    Args:
        first_n: Where each run begins.
        count_n: How many places it has.

    Returns:
        Which run each place is of, int64 [S], and the place, int64 [S].
    """
    run_S = np.repeat(np.arange(len(count_n)), count_n)
    within_S = np.arange(len(run_S)) - np.repeat(np.cumsum(count_n) - count_n, count_n)
    return run_S, first_n[run_S] + within_S
