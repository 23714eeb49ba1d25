"""By how much predictions move when a row's examples are taken away, or what an example says, or its label.

Legend: N rows, K examples of a row, E examples in the bank, U some of them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.features.batch import Samples
from llmcf_cli.rec.input.examples import EXAMPLES, ExampleBank
from llmcf_cli.rec.model import RecModel

Score = Callable[[NDArray[np.int32]], NDArray[np.floating]]
"""Positions of examples [N, K] → what is answered for each row [N]."""


@dataclass(frozen=True)
class Moved:
    """By how much an answer falls when something is taken away; of what raised it, more than 0.

    Attributes:
        whole_N: The answer with everything.
        all_N: Of all examples at once.
        example_NK: Of one example; 0 where there is none.
        reasoning_NK: Of what its chain of thought says: it has the mean of the bank's vectors instead.
        label_NK: Of its label: the answer is the mean of those with either label.
    """

    whole_N: NDArray[np.float64]
    all_N: NDArray[np.float64]
    example_NK: NDArray[np.float64]
    reasoning_NK: NDArray[np.float64]
    label_NK: NDArray[np.float64]


def moved_without_each(
    score: Score, whole_N: NDArray[np.floating], index_NK: NDArray[np.int32], other_NK: NDArray[np.int32] | None = None
) -> NDArray[np.float64]:
    """By how much answers fall, [N, K], when at one place at a time another example stands.

    Args:
        score: Answers rows with examples.
        whole_N: The answers with the examples as they are.
        index_NK: Positions of the examples, -1 where there is none: those places stay empty, and move nothing.
        other_NK: Those that stand there instead; None: no example.
    """
    moved_NK = np.zeros(index_NK.shape)
    for k in range(index_NK.shape[1]):
        there_N = index_NK[:, k] >= 0
        changed_NK = index_NK.copy()
        changed_NK[there_N, k] = -1 if other_NK is None else other_NK[there_N, k]
        moved_NK[there_N, k] = (whole_N - score(changed_NK))[there_N]
    return moved_NK


def moved(
    model: RecModel, index_NK: NDArray[np.int32],
    answers: Callable[[RecModel, Mapping[str, NDArray[np.int32]]], NDArray[np.floating]],
) -> Moved:  # fmt: skip
    """What rows' answers owe to each of their examples.

    Args:
        model: With a bank of examples; stays as it is.
        index_NK: Positions in its bank, -1 where there is no example.
        answers: The answers [N] of a model to the rows, for values of the input `examples`.
    """
    bank: ExampleBank = model.resources.get(EXAMPLES)
    used_U = np.unique(index_NK[index_NK >= 0])
    count = len(used_U)
    twin = _with_bank(model, _with_variants(bank, used_U))
    own_NK = np.where(index_NK < 0, -1, np.searchsorted(used_U, index_NK)).astype(np.int32)

    def score(chosen_NK: NDArray[np.int32]) -> NDArray[np.floating]:
        return answers(twin, {EXAMPLES: chosen_NK})

    whole_N = answers(model, {EXAMPLES: index_NK})
    turned_NK = moved_without_each(score, whole_N, own_NK, own_NK + np.int32(2 * count))
    return Moved(
        np.asarray(whole_N, np.float64), np.asarray(whole_N - score(np.full_like(own_NK, -1)), np.float64),
        moved_without_each(score, whole_N, own_NK),
        moved_without_each(score, whole_N, own_NK, own_NK + np.int32(count)),
        turned_NK / 2,
    )  # fmt: skip


def _with_variants(bank: ExampleBank, used_U: NDArray[np.integer[Any]]) -> ExampleBank:
    """Some examples, then the same with the mean of all chains of thought, then the same with the other label."""
    if not len(used_U):
        used_U = np.zeros(1, np.int64)  # a bank cannot be empty; nobody asks for this one
    rows, cot_UT = bank.samples.take(used_U), bank.cot_ET[used_U]
    mean_UT = np.broadcast_to(bank.cot_ET.mean(0, dtype=np.float64).astype(np.float32), cot_UT.shape)
    samples = _joined(rows, rows, replace(rows, label_N=1 - rows.label_N))
    values = {name: np.concatenate([array[used_U]] * 3) for name, array in bank.rows.items()}
    return ExampleBank(samples, np.concatenate([cot_UT, mean_UT, cot_UT]), bank.k, None, values)


def _joined(*parts: Samples) -> Samples:
    return Samples(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])})


def _with_bank(model: RecModel, bank: ExampleBank) -> RecModel:
    """A model of the same weights with another bank; what it kept of the bank before is forgotten."""
    twin = model.with_items(model.resources.holding(**{EXAMPLES: bank}))
    twin.augmenter = copy.deepcopy(model.augmenter).train().eval()
    return twin.eval()
