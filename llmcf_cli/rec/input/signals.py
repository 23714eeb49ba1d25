"""How a target matches a history: likenesses in text and collaborative space, and popularity.

Vectors are frozen, so these signals are constants of the data: computed once per split, before any training.

Legend: N samples, B block of them, L history, E events of a block's histories, R rows of a table of vectors,
D dimensions, S signals.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.batch import Batch, Samples
from llmcf_cli.rec.input.base import Input, RowLookup
from llmcf_cli.rec.input.resources import Resources

_LIKENESSES = ("max", "mean", "last", "profile")
_OF_TEXT = tuple(f"text_{name}" for name in _LIKENESSES)
SIGNAL_NAMES = (
    "log_popularity", "log_history", "has_history",
    *(f"collaborative_{name}" for name in _LIKENESSES), *_OF_TEXT,
)  # fmt: skip
"""All signals, in order. Without text vectors, those of text are missing."""

BLOCK_NUMBERS = 1 << 22
"""Numbers of gathered history vectors at once: 16 MiB stay near the processor."""


SIGNALS = "signals"


class Signals(Input):
    """Values of rows: float32 [N, S] of `signals_of`; train rows out of their user's fold."""

    holds: ClassVar[bool] = False
    of_examples: ClassVar[bool] = True

    def values(self, resources: Resources, samples: Samples, split: str) -> NDArray[np.float32]:
        """Of any samples.

        Raises:
            DataError: There are no collaborative vectors.
        """
        return signals_of(resources, samples, folds(resources, samples, split))

    def lookup(self, resources: Resources) -> Standardise:
        """`sizes`: `signals` is S."""
        return Standardise(len(signal_names(resources)))


def folds(resources: Resources, samples: Samples, split: str) -> NDArray[np.int8]:
    """Fold of the collaborative space that each sample of a split is matched with, int8 [N].

    Raises:
        DataError: There are no collaborative vectors.
    """
    collaborative = resources.get("collaborative")
    if collaborative is None:
        raise DataError(
            "no collaborative vectors", code="input-missing", where=f"split {split}", hint="llmcf collab RECIPE"
        )
    found: NDArray[np.int8]
    if split == "train":
        found = collaborative.train_folds(samples.user_row_N)
    else:
        found = collaborative.later_folds(len(samples))
    return found


def signal_names(resources: Resources) -> tuple[str, ...]:
    """The signals that these resources allow, in order."""
    return tuple(n for n in SIGNAL_NAMES if resources.get("text") is not None or not n.startswith("text"))


def signals_of(resources: Resources, samples: Samples, fold_N: NDArray[np.int8]) -> NDArray[np.float32]:
    """Signals of samples; each sample's depend on itself, frozen vectors and its fold only, never on its label.

    Args:
        resources: Collaborative vectors, and text vectors if there are any.
        samples: Targets and their histories.
        fold_N: Fold of the collaborative space that each sample is matched with.

    Returns:
        float32 [N, S], S as in `signal_names`: log(1 + popularity) of the target, log(1 + length of the history), 1
        where there is a history, and per space the target's likeness to the history: greatest, mean, to the last item,
        and to the mean vector. Likenesses are cosines; 0 without a history or a vector.

    Raises:
        DataError: There are no collaborative vectors.
    """
    collaborative, text_IT = resources.get("collaborative"), resources.get("text")
    if collaborative is None:
        raise DataError(
            "signals need collaborative vectors", code="input-missing", where="signals", hint="llmcf collab RECIPE"
        )
    popularity_FI = torch.from_numpy(collaborative.popularity_FI)
    tables = [torch.from_numpy(collaborative.item_FID).flatten(0, 1)]
    tables += [] if text_IT is None else [torch.from_numpy(text_IT)]
    items = popularity_FI.shape[1]
    signal_NS = np.empty((len(samples), len(signal_names(resources))), np.float32)
    width = samples.history_row_NL.shape[1] * max(table.shape[1] for table in tables)
    size = max(BLOCK_NUMBERS // max(width, 1), 1)
    for start in range(0, len(samples), size):
        block = slice(start, start + size)
        item_B, history_BL, fold_B = (
            torch.from_numpy(rows[block].astype(np.int64))
            for rows in (samples.item_row_N, samples.history_row_NL, fold_N)
        )
        mask_BL = history_BL > 0
        # A fold's vectors follow those of the fold before in one table.
        first_B = fold_B * items
        parts = [_plain(popularity_FI[fold_B, item_B], mask_BL)]
        parts.append(_likeness(tables[0], first_B + item_B, first_B[:, None] + history_BL, mask_BL))
        parts += [_likeness(table_RD, item_B, history_BL, mask_BL) for table_RD in tables[1:]]
        signal_NS[block] = torch.cat(parts, 1).numpy()
    return signal_NS


def _plain(popularity_B: Tensor, mask_BL: Tensor) -> Tensor:
    """What needs no vector, [B, 3]."""
    length_B = mask_BL.sum(1)
    return torch.stack([popularity_B.log1p(), length_B.float().log1p(), (length_B > 0).float()], 1)


def _likeness(table_RD: Tensor, target_B: Tensor, event_BL: Tensor, mask_BL: Tensor) -> Tensor:
    """Cosines of targets and histories, [B, 4]; vectors are of unit length, those of padding zeros."""
    # Only events that exist: histories are mostly shorter than the longest.
    row_E, position_E = mask_BL.nonzero(as_tuple=True)
    event_E, count_B = event_BL[row_E, position_E], mask_BL.sum(1)
    target_BD = table_RD[target_B]
    cosine_BL = torch.zeros(mask_BL.shape)
    cosine_BL[row_E, position_E] = (table_RD[event_E] * target_BD[row_E]).sum(1)
    sum_BD = embedding_bag(event_E, table_RD, count_B.cumsum(0) - count_B, mode="sum")
    total_B, length_B = cosine_BL.sum(1), sum_BD.norm(dim=1)
    best_B = cosine_BL.masked_fill(~mask_BL, -torch.inf).amax(1).where(count_B > 0, 0)
    profile_B = (total_B / length_B.clamp_min(1e-6)).where(length_B > 1e-6, 0)
    return torch.stack([best_B, total_B / count_B.clamp_min(1), cosine_BL[:, -1], profile_B], 1)


class Standardise(RowLookup):
    """(x − mean) / standard deviation per signal, by statistics of the train rows, which `state_dict` holds.

    Leaves signals as they are until `fit`.

    Args:
        size: S.
    """

    mean_S: Tensor
    scale_S: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.sizes = {SIGNALS: size}
        self.register_buffer("mean_S", torch.zeros(size))
        self.register_buffer("scale_S", torch.ones(size))

    def fit(self, train: Batch) -> None:
        """Take the statistics of the train rows; a signal that is the same everywhere is only centred."""
        deviation_S, mean_S = torch.std_mean(train.inputs[SIGNALS].double(), 0, correction=0)
        self.mean_S.copy_(mean_S)
        self.scale_S.copy_(deviation_S.where(deviation_S > 1e-6, 1))

    def forward(self, batch: Batch) -> Tensor:
        """[B, S]."""
        if SIGNALS not in batch.inputs:
            raise ModelError(
                "the batch has no signals", code="batch-incomplete", where="rec model", hint="llmcf collab RECIPE"
            )
        return (batch.inputs[SIGNALS] - self.mean_S) / self.scale_S
