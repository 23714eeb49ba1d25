"""Cold-start slices of the test split: parts of it where the method claims its value.

Legend: N test samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.metrics import auc

RARE, SHORT = 5, 3
LEAST = 50
"""Samples of each label that a slice must have for its AUC to mean something."""


def cold_start_slices(train: Samples, test: Samples) -> dict[str, np.ndarray]:
    """Name → bool mask [N], the slices that hold any test sample.

    An item's train count is that of its positive train samples, since negatives may be drawn at random.
    """
    count_I = np.bincount(train.item_row_N[train.label_N > 0], minlength=int(test.item_row_N.max(initial=0)) + 1)
    item_N = count_I[test.item_row_N]
    length_N = (test.history_row_NL > 0).sum(1)
    found = {
        "new users (no train sample)": ~np.isin(test.user_row_N, train.user_row_N),
        "new items (no positive in train)": item_N == 0,
        f"rare items (1 to {RARE} positives)": (item_N > 0) & (item_N <= RARE),
        f"short histories (up to {SHORT})": length_N <= SHORT,
        f"long histories (over {SHORT})": length_N > SHORT,
    }
    return {name: mask for name, mask in found.items() if mask.any()}


def slice_auc(label_N: np.ndarray, logit_N: np.ndarray, slices: Mapping[str, np.ndarray]) -> dict[str, float]:
    """AUC of each slice that has at least `LEAST` samples of each label."""
    found = {}
    for name, mask in slices.items():
        positives = int(label_N[mask].sum())
        if min(positives, int(mask.sum()) - positives) >= LEAST:
            found[name] = auc(label_N[mask], logit_N[mask])
    return found
