"""Measures on the cold-start slices of the test split.

Legend: N test samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.features import slices as by_train
from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.measure.base import Measure, Truth

LEAST = 50
"""Samples of each kind that a measure needs in a slice to mean something."""


def cold_start_slices(train: Samples, test: Samples) -> dict[str, NDArray[np.bool_]]:
    """Name → bool mask [N], the slices that hold any test sample; see `features.slices`."""
    taken_N = train.label_N > 0
    taken = train.user_row_N[taken_N], train.item_row_N[taken_N]
    length_N = (test.history_row_NL > 0).sum(1)
    return by_train.cold_start_slices(train.user_row_N, taken, (test.user_row_N, test.item_row_N), length_N)


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


def parts_of(
    slices: Mapping[str, NDArray[np.bool_]]
) -> tuple[dict[str, NDArray[np.bool_]], list[str]]:  # fmt: skip
    """The slices that are less than the whole split, and a note on those that are not."""
    kept = {name: mask for name, mask in slices.items() if not mask.all()}
    whole = [name for name in slices if name not in kept]
    return kept, [f"the slice {', '.join(whole)} has every test sample, so the table leaves it out"] if whole else []
