"""Collaborative item vectors and popularity, as they are kept and looked up.

Legend: N rows, U users, I items, D dimensions, F folds; the last of the folds is the one of all users.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import StoreError

COLLABORATIVE = "collaborative.safetensors"
"""Name of the file that holds it, in the stage's folder and in a bundle."""


@dataclass(frozen=True)
class Collaborative:
    """What the train positives of other users say about items.

    Fold f knows nothing of the users of fold f, and their train rows are matched with it: no row's own label shaped
    what it sees. The last fold knows all users; validation, test and requests are matched with it. Vectors of different
    folds lie in different bases, so only likenesses within a fold mean anything.

    Attributes:
        item_FID: float32 [F, I + 1, D], unit rows; zeros for row 0 and for items that the fold has not seen.
        count_FI: int32 [F, I + 1], users of the fold's train positives who took the item.
        fold_of_user_U: int8 [U + 1], fold for the user's train rows; the last for row 0, an unknown user.
        variance_kept_F: float32, share of the squared entries of the fold's matrix that D dimensions keep.
    """

    item_FID: NDArray[np.float32]
    count_FI: NDArray[np.int32]
    fold_of_user_U: NDArray[np.int8]
    variance_kept_F: NDArray[np.float32]

    @property
    def last(self) -> int:
        """The fold of all users."""
        return len(self.item_FID) - 1

    @cached_property
    def popularity_FI(self) -> NDArray[np.float32]:
        """float32, `count_FI` as if every fold had all users, so that numbers of all folds compare."""
        popularity_FI = self.count_FI.astype(np.float32)
        # By the number of folds, not by their positives: a user's own must not count, not even in a factor. Folds are
        # of equal size but for chance.
        popularity_FI[:-1] *= self.last / max(self.last - 1, 1)
        return popularity_FI

    def train_folds(self, user_row_N: NDArray[Any]) -> NDArray[np.int8]:
        """The fold that each train row of these users is matched with, int8 [N]."""
        fold_N: NDArray[np.int8] = self.fold_of_user_U[user_row_N]
        return fold_N

    def later_folds(self, count: int) -> NDArray[np.int8]:
        """The fold of validation rows, test rows and requests, int8 [count]."""
        return np.full(count, self.last, np.int8)

    def serving(self) -> Collaborative:
        """The last fold alone: all that rows outside the train split need."""
        nobody_U = np.zeros(1, np.int8)
        return Collaborative(self.item_FID[-1:], self.count_FI[-1:], nobody_U, self.variance_kept_F[-1:])

    def extended(self, num_items: int) -> Collaborative:
        """The same for `num_items` items; what nobody took yet has zeros."""
        new = num_items + 1 - self.item_FID.shape[1]
        return replace(
            self, item_FID=np.pad(self.item_FID, ((0, 0), (0, new), (0, 0))),
            count_FI=np.pad(self.count_FI, ((0, 0), (0, new))),
        )  # fmt: skip


def save_collaborative(collaborative: Collaborative, path: Path) -> None:
    """Write the arrays as safetensors."""
    from safetensors.numpy import save_file

    save_file({f.name: np.ascontiguousarray(getattr(collaborative, f.name)) for f in fields(collaborative)}, path)


def load_collaborative(path: Path) -> Collaborative:
    """Read what `save_collaborative` wrote.

    Raises:
        StoreError: The file is missing or something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return Collaborative(**load_file(path))
    except (FileNotFoundError, SafetensorError, TypeError) as error:
        raise StoreError(
            f"contains no readable collaborative vectors: {error}",
            code="vectors-missing",
            where=str(path),
            hint="llmcf collab RECIPE",
        ) from error
