"""The canary: requests that both bundles answer before one takes the other's place."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.serve.champion.pointer import Answered
from llmcf_cli.serve.champion.window import Window
from llmcf_cli.serve.requests import Lists, to_lists
from llmcf_cli.serve.scorer import Scorer

DRAWN, CANDIDATES = 32, 8
"""Requests that are drawn from the window, and candidates of each."""


@dataclass
class _Answers:
    """What one bundle answered.

    Attributes:
        milliseconds: Time of each answer.
        bad: Requests without one, or with scores that are not finite.
    """

    milliseconds: list[float] = field(default_factory=list)
    bad: int = 0

    def ask(self, scorer: Scorer, lists: Lists) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """Scores, and which of the items are known; None where there is no answer."""
        begun = time.perf_counter()
        try:
            scores = scorer.score_lists(lists)
        except LlmcfError:
            self.bad += 1
            return None
        self.milliseconds.append(1000 * (time.perf_counter() - begun))
        if not np.isfinite(scores.score_N).all():
            self.bad += 1
            return None
        # An event of the history that one of them lacks is left out there, so their scores may differ.
        whole = bool(scores.event_n[0] == min(len(lists.users["history"][0]), _length(scorer)))
        return scores.score_N, scores.item_known_N & whole


def ask_both(champion: Scorer | None, challenger: Scorer, window: Window) -> Answered:
    """What both answer, in turns, to golden requests that bring a history and to requests drawn from the window."""
    first, second, far = _Answers(), _Answers(), []
    requests = [*_golden(challenger), *(_golden(champion) if champion is not None else ()), *_drawn(window)]
    for request in requests:
        lists = to_lists([request], challenger.form)
        theirs = second.ask(challenger, lists)
        ours = first.ask(champion, lists) if champion is not None else None
        if theirs is not None and ours is not None:
            both_N = theirs[1] & ours[1]
            far.append(np.abs(theirs[0].astype(np.float64) - ours[0])[both_N])
    far_P = np.concatenate(far) if far else np.empty(0)
    return Answered(
        requests=len(requests), unanswered=second.bad,
        challenger_ms=float(np.median(second.milliseconds)) if second.milliseconds else 0.0,
        champion_ms=float(np.median(first.milliseconds)) if first.milliseconds else None, pairs=len(far_P),
        largest_difference=float(far_P.max()) if len(far_P) else None,
        mean_difference=float(far_P.mean()) if len(far_P) else None,
    )  # fmt: skip


def _golden(scorer: Scorer) -> Sequence[Mapping[str, Any]]:
    """The golden requests of a bundle, but for those that it answers from the histories that it keeps."""
    if scorer.golden is None:
        return []
    return [
        {"user_id": one.user_id, "candidates": list(one.candidates), "history": list(one.history)}
        for one in scorer.golden.requests if one.history is not None
    ]  # fmt: skip


def _drawn(window: Window) -> Sequence[Mapping[str, Any]]:
    """Users and histories of some samples, each with its own item and others of the window."""
    rng, size = np.random.default_rng(0), window.asked.num_rows
    rows = window.asked.take(np.sort(rng.choice(size, min(DRAWN, size), replace=False)))
    found = []
    for row in rows.select(["user_id", "item_id", "history"]).to_pylist():
        others = window.asked["item_id"].take(rng.integers(0, size, CANDIDATES - 1)).to_pylist()
        found.append({"user_id": row["user_id"], "candidates": [row["item_id"], *others], "history": row["history"]})
    return found


def _length(scorer: Scorer) -> int:
    length: int = scorer.model.resources.spec.history_length
    return length
