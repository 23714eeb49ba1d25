"""What a bundle predicts of a window, asked as it is in production: for scores of pairs, or for users' lists.

Legend: N samples, K items of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.measure.base import Measure
from llmcf_cli.rec.tasks.base import ListTask, NumberTask, Task
from llmcf_cli.serve.champion.window import Window
from llmcf_cli.serve.lists import Wanted
from llmcf_cli.serve.requests import Lists
from llmcf_cli.serve.scorer import Scorer

BLOCK = 16_384
"""Samples that are asked about at once."""


@dataclass(frozen=True)
class Predicted:
    """A bundle's predictions.

    Attributes:
        prediction: As models of the task make them, [N, …].
        refused: Samples that it answers with no list, as nothing is known that their user did: it misses their items.
    """

    prediction: NDArray[Any]
    refused: int = 0


def answers(scorer: Scorer, task: Task) -> bool:
    """Whether a bundle does what a task asks for: a cascade makes lists, and scores as its model that ranks."""
    if isinstance(task, ListTask):
        return scorer.makes_lists
    return isinstance(task, NumberTask) and scorer.task.config.type == task.config.type


def predicted(scorer: Scorer, window: Window, task: Task, measures: Sequence[Measure]) -> Predicted:
    """What a bundle predicts of each sample of a window.

    Args:
        scorer: The bundle.
        window: The samples.
        task: What it is asked for.
        measures: What will be measured: lists are as long as these need, as those of a cascade depend on that.

    Raises:
        ModelError: A score is no number.
    """
    blocks = [
        replace(window, asked=window.asked.slice(start, BLOCK), truth=window.truth.take(slice(start, start + BLOCK)))
        for start in range(0, window.asked.num_rows, BLOCK)
    ]  # fmt: skip
    found = [
        _lists(scorer, one, task, task.read_by(measures)) if isinstance(task, ListTask) else _scores(scorer, one)
        for one in blocks
    ]  # fmt: skip
    return Predicted(np.concatenate([one.prediction for one in found]), sum(one.refused for one in found))


def _scores(scorer: Scorer, window: Window) -> Predicted:
    """float32 [N], each sample scored as a request."""
    return Predicted(_finite(scorer.score_lists(Lists.of_pairs(window.asked)).score_N))


def _lists(scorer: Scorer, window: Window, task: ListTask, length: int) -> Predicted:
    """Each sample's user asked for a list, from what was known just before."""
    users = window.asked.drop_columns(["item_id"])
    known_N = scorer.has_events(users)
    row_NK = np.zeros((users.num_rows, task.listed), np.int64)
    score_NK = np.zeros(row_NK.shape, np.float32)
    asked = users.filter(known_N)
    wanted = replace(Wanted.of(length, None, (), task.filter_seen), least=0)
    found = scorer.user_lists(asked, [wanted] * asked.num_rows)
    size_n = found.size_N
    place_M = np.arange(len(found.list_M)) - np.repeat(np.cumsum(size_n) - size_n, size_n)
    at = (np.flatnonzero(known_N)[found.list_M], place_M)
    rows = pc.fill_null(pc.index_in(found.item_ids, value_set=window.items), -1)
    row_NK[at] = rows.to_numpy(zero_copy_only=False) + 1  # 0: an item that the samples' catalogue lacks, never a target
    score_NK[at] = _finite(found.score_M)
    return Predicted(task.of_lists(row_NK, score_NK, window.truth), int((~known_N).sum()))


def _finite(score_N: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(score_N).all():
        raise ModelError("a bundle returns a score that is not a number", code="score-invalid", where="promote",
                         hint="llmcf train-rec RECIPE")  # fmt: skip
    return score_N
