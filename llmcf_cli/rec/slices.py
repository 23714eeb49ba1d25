"""Cold-start slices of the test split: parts of it where the method claims its value.

Legend: N test samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.measure.base import Measure, Truth

RARE, SHORT = 5, 3
LEAST = 50
"""Samples of each kind that a measure needs in a slice to mean something."""


def cold_start_slices(train: Samples, test: Samples) -> dict[str, NDArray[np.bool_]]:
    """Name → bool mask [N], the slices that hold any test sample.

    An item's train count is that of its positive train samples, since negatives may be drawn at random. Pairs are split
    by whether the user took the item in train, where that happens at all.
    """
    count_I = np.bincount(train.item_row_N[train.label_N > 0], minlength=int(test.item_row_N.max(initial=0)) + 1)
    item_N = count_I[test.item_row_N]
    length_N = (test.history_row_NL > 0).sum(1)
    repeated_N = _taken_in(train, test)
    found = {
        "new users (no train sample)": ~np.isin(test.user_row_N, train.user_row_N),
        "new items (no positive in train)": item_N == 0,
        f"rare items (1 to {RARE} positives)": (item_N > 0) & (item_N <= RARE),
        f"short histories (up to {SHORT})": length_N <= SHORT,
        f"long histories (over {SHORT})": length_N > SHORT,
    }
    if repeated_N.any():
        found |= {"repeated pairs (taken in train)": repeated_N, "first pairs (not taken in train)": ~repeated_N}
    return {name: mask for name, mask in found.items() if mask.any()}


def _taken_in(train: Samples, test: Samples) -> NDArray[np.bool_]:
    """Whether each test sample's user took its item in train, bool [N]."""
    stride = 1 + max(int(part.item_row_N.max(initial=0)) for part in (train, test))
    taken = train.label_N > 0
    pairs = train.user_row_N[taken].astype(np.int64) * stride + train.item_row_N[taken]
    return np.isin(test.user_row_N.astype(np.int64) * stride + test.item_row_N, pairs)


def too_small(
    measure: Measure, truth: Truth, slices: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, int]]:  # fmt: skip
    """Name → what `Measure.counts` finds in each slice that has too little for `slice_values`."""
    counts = {name: dict(measure.counts(truth.take(mask))) for name, mask in slices.items()}
    return {name: found for name, found in counts.items() if min(found.values()) < LEAST}


def slice_values(
    measure: Measure, prediction: NDArray[Any], truth: Truth, slices: Mapping[str, NDArray[np.bool_]]
) -> dict[str, float]:
    """The measure on each slice that has at least `LEAST` samples of every kind that it needs."""
    small = too_small(measure, truth, slices)
    return {
        name: measure.value(prediction[mask], truth.take(mask)) for name, mask in slices.items() if name not in small
    }
