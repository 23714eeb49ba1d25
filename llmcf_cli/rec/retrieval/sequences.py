"""Users' train events as sequences in which every target is asked for at once.

A target is asked for at the last event that is strictly before it, as in evaluation: what happened at the target's own
time stays out.

Legend: E events, M targets, R sequences, L sequence, P targets of a sequence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import Batch, Samples
from llmcf_cli.rec.input.events import Events

SHORTEST = 4
"""Width at which sequences are read at least; narrower ones gain nothing."""


@dataclass(frozen=True)
class Sequences:
    """Sequences on a device. Integers are int32 when it holds all of them, int64 once taken.

    Attributes:
        event_BL: Item rows, left-padded with 0.
        target_BP: Item rows to be predicted; 0 past the last.
        place_BP: How many columns of `event_BL`, padding included, are before each target; 0: it has no event before
            it.
        sample_BP: Which sample of the train split each target is.
        samples: That split, with the values of inputs that a context is made of; None: there is no context.
    """

    event_BL: torch.Tensor
    target_BP: torch.Tensor
    place_BP: torch.Tensor
    sample_BP: torch.Tensor
    samples: Batch | None = None

    def __len__(self) -> int:
        return len(self.event_BL)

    @property
    def targets(self) -> None:
        """Nothing beside what the model gets: it pairs targets with their places."""
        return

    def take(self, index_b: torch.Tensor) -> Sequences:
        """The sequences at the given positions, integers as int64."""
        names = ("event_BL", "target_BP", "place_BP", "sample_BP")
        return replace(self, **{name: getattr(self, name)[index_b].long() for name in names})


def alike(event_BL: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """Groups of rows of like lengths, so that short sequences are not read at the width of the longest.

    Args:
        event_BL: Item rows, left-padded with 0.

    Returns:
        int64 [B], the rows from short to long; and of each group how many rows it has in that order, and the width that
        holds their events: `SHORTEST` times a power of 2, or L.
    """
    length = event_BL.shape[1]
    place_L = torch.arange(length, 0, -1, device=event_BL.device)
    size_B, order_B = ((event_BL > 0) * place_L).amax(1).sort(stable=True)
    widths = [SHORTEST * 2**power for power in range(length.bit_length()) if SHORTEST * 2**power < length] + [length]
    ends = torch.searchsorted(size_B, torch.tensor(widths, device=size_B.device), right=True).tolist()
    counts = [end - start for start, end in pairwise([0, *ends])]
    return order_B, [group for group in zip(counts, widths, strict=True) if group[0]]


def sequences(events: Events, train: Samples, length: int, device: object = "cpu") -> Sequences:
    """The train targets of all users, each in one sequence.

    Of a user with more than L events before the last target there are several, which overlap by half, so that a target
    has at least L/2 events before it, or all there are. A sequence with more than L targets stands there several times.

    Args:
        events: With what training reads.
        train: The samples of the train split, one for each target.
        length: L.
        device: Where to.

    Raises:
        DataError: There is no target, the events are a bundle's, or the samples are not those of the targets.
    """
    if events.target_E is None or events.read_E is None or not events.target_E.any():
        raise DataError("no positive train samples to learn from", code="no-positives", where="events")
    offset_U = events.taken.offset_U
    user_E = np.repeat(np.arange(len(offset_U) - 1), np.diff(offset_U))
    before_E = _read_before(events, user_E)
    parts: tuple[NDArray[Any], ...] = (user_E, events.taken.item_E, before_E, events.taken.time_E)
    user_M, item_M, place_M, time_M = (part[events.target_E] for part in parts)
    sample_M = _samples_of(train, user_M, item_M, time_M)
    end_U = np.zeros(len(offset_U) - 1, np.int64)
    np.maximum.at(end_U, user_M, place_M)
    stride = max(length // 2, 1)
    last_U = np.maximum(-(-(end_U - length) // stride), 0)
    window_M = np.minimum((end_U[user_M] - place_M) // stride, last_U[user_M])
    order_M = np.lexsort((place_M, window_M, user_M))
    user_M, item_M, place_M, window_M, sample_M = (
        part[order_M] for part in (user_M, item_M, place_M, window_M, sample_M)
    )
    end_M = end_U[user_M] - window_M * stride
    within_M = _number_within(user_M, window_M)
    first_M = within_M % length == 0  # of a sequence
    row_M = np.cumsum(first_M) - 1
    target_RP, place_RP, sample_RP = (np.zeros((row_M[-1] + 1, length), np.int32) for _ in range(3))
    target_RP[row_M, within_M % length] = item_M
    place_RP[row_M, within_M % length] = np.where(place_M > 0, length - (end_M - place_M), 0)
    sample_RP[row_M, within_M % length] = sample_M
    event_RL = _windows(events, user_M[first_M], end_M[first_M], length)
    found = (event_RL, target_RP, place_RP, sample_RP)
    return Sequences(*(torch.as_tensor(part, device=device) for part in found))  # type: ignore[arg-type]


def _samples_of(train: Samples, user_M: NDArray[Any], item_M: NDArray[Any], time_M: NDArray[Any]) -> NDArray[np.int64]:
    """Which sample each target is, int64 [M]."""
    targets, samples = (user_M, item_M, time_M), (train.user_row_N, train.item_row_N, train.time_N)
    by_target, by_sample = np.lexsort(targets), np.lexsort(samples)
    pairs: Iterable[tuple[NDArray[Any], NDArray[Any]]] = zip(targets, samples, strict=True)
    if not all(np.array_equal(one[by_target], other[by_sample]) for one, other in pairs):
        raise DataError(
            "the positive train samples do not match the train events", code="rows-out-of-range", where="events",
            hint="run the recipe again with --force ingest",
        )  # fmt: skip
    sample_M = np.empty(len(user_M), np.int64)
    sample_M[by_target] = by_sample
    return sample_M


def _read_before(events: Events, user_E: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many events that histories hold each event's user has strictly before its time, int64 [E]."""
    assert events.read_E is not None
    time_E = events.taken.time_E
    read_E = np.concatenate([[0], np.cumsum(events.read_E)])
    new_E = np.ones(len(user_E), bool)
    new_E[1:] = (user_E[1:] != user_E[:-1]) | (time_E[1:] != time_E[:-1])
    moment_E = np.flatnonzero(new_E)[np.cumsum(new_E) - 1]  # the first event of each event's time
    found_E: NDArray[np.int64] = read_E[moment_E] - read_E[events.taken.offset_U[user_E]]
    return found_E


def _number_within(user_M: NDArray[Any], window_M: NDArray[Any]) -> NDArray[np.int64]:
    """The number of each target in its window, from 0; windows stand one after the other."""
    new_M = np.ones(len(user_M), bool)
    new_M[1:] = (user_M[1:] != user_M[:-1]) | (window_M[1:] != window_M[:-1])
    at_M = np.arange(len(user_M))
    number_M: NDArray[np.int64] = at_M - at_M[new_M][np.cumsum(new_M) - 1]
    return number_M


def _windows(
    events: Events, user_R: NDArray[np.int64], end_R: NDArray[np.int64], length: int
) -> NDArray[np.int32]:  # fmt: skip
    """The last events, of those that histories hold, before the `end`-th of each user, int32 [R, L], left-padded."""
    assert events.read_E is not None
    read = events.taken.item_E[events.read_E]
    first_R = np.concatenate([[0], np.cumsum(events.read_E)])[events.taken.offset_U[user_R]]
    number_RL = end_R[:, None] + np.arange(-length, 0)
    at_RL = np.minimum(np.maximum(first_R[:, None] + number_RL, 0), max(len(read) - 1, 0))
    if not len(read):
        return np.zeros(number_RL.shape, np.int32)
    return np.where(number_RL >= 0, read[at_RL], 0).astype(np.int32)
