"""Cold-start slices: parts of a split where the method claims its value, by what train holds.

Legend: N samples of the split, P train positives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RARE, SHORT = 5, 3
"""Most train positives of a rare item, and most events of a short history."""

Rows = NDArray[np.integer]


def cold_start_slices(
    train_users: Rows, taken_PP: tuple[Rows, Rows], pair_NN: tuple[Rows, Rows], length_N: Rows
) -> dict[str, NDArray[np.bool_]]:
    """Name → bool mask [N], the slices that hold any sample.

    An item's train count is that of its positive train samples, since negatives may be drawn at random. Pairs are split
    by whether the user took the item in train, where that happens at all.

    Args:
        train_users: User rows of all train samples, in any order.
        taken_PP: User rows and item rows of the positive train samples.
        pair_NN: User rows and item rows of the samples.
        length_N: Events in each sample's history.
    """
    (user_N, item_N), (_, taken_item_P) = pair_NN, taken_PP
    count_I = np.bincount(taken_item_P, minlength=int(item_N.max(initial=0)) + 1)
    count_N = count_I[item_N]
    repeated_N = _among(pair_NN, taken_PP)
    found = {
        "new users (no train sample)": ~np.isin(user_N, train_users),
        "new items (no positive in train)": count_N == 0,
        f"rare items (1 to {RARE} positives)": (count_N > 0) & (count_N <= RARE),
        f"short histories (up to {SHORT})": length_N <= SHORT,
        f"long histories (over {SHORT})": length_N > SHORT,
    }
    if repeated_N.any():
        found |= {"repeated pairs (taken in train)": repeated_N, "first pairs (not taken in train)": ~repeated_N}
    return {name: mask for name, mask in found.items() if mask.any()}


def _among(pair_NN: tuple[Rows, Rows], taken_PP: tuple[Rows, Rows]) -> NDArray[np.bool_]:
    """Whether each sample's user took its item, bool [N]."""
    stride = 1 + max(int(items.max(initial=0)) for _, items in (pair_NN, taken_PP))
    pair_N, taken_P = (users.astype(np.int64) * stride + items for users, items in (pair_NN, taken_PP))
    return np.isin(pair_N, taken_P)
