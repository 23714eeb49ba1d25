"""The canary: requests that both bundles answer before one takes the other's place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.rec.tasks.base import ListTask, Task
from llmcf_cli.serve.champion.pointer import Answered
from llmcf_cli.serve.champion.window import Window
from llmcf_cli.serve.lists import Wanted
from llmcf_cli.serve.requests import to_lists, to_users
from llmcf_cli.serve.scorer import Scorer

DRAWN, CANDIDATES = 32, 8
"""Requests that are drawn from the window, and candidates of each."""
LIST = 10
"""Items of a list that is asked for."""

_Scored = tuple[NDArray[np.float32], NDArray[np.bool_]]
_T = TypeVar("_T")


@dataclass
class _Answers:
    """What one bundle answered.

    Attributes:
        milliseconds: Time of each answer.
        bad: Requests without one, or with scores that are not finite.
    """

    milliseconds: list[float] = field(default_factory=list)
    bad: int = 0

    def of(self, ask: Callable[[], _T | None]) -> _T | None:
        """The answer to a request; None where there is none."""
        begun = time.perf_counter()
        try:
            found = ask()
        except LlmcfError:
            self.bad += 1
            return None
        self.milliseconds.append(1000 * (time.perf_counter() - begun))
        self.bad += found is None
        return found


def ask_both(champion: Scorer | None, challenger: Scorer, window: Window, task: Task) -> Answered:
    """What both answer, in turns, to golden requests that bring a history and to requests drawn from the window.

    They are asked for scores, or for lists where the task has them. Of lists, the items that are in either are scored
    by both.
    """
    first, second, far, differing = _Answers(), _Answers(), [], 0
    lists = isinstance(task, ListTask)
    drawn = _drawn(window, challenger if lists else None)
    requests = [*_golden(challenger), *(_golden(champion) if champion is not None else ()), *drawn]
    if lists:
        requests = [request for request in requests if request["history"]]
    for request in requests:
        theirs: _Scored | None
        ours: _Scored | None = None
        if isinstance(task, ListTask):
            listed = second.of(lambda: _listed(challenger, request, task))  # noqa: B023 - asked at once
            other = first.of(lambda: _listed(champion, request, task)) if champion is not None else None  # noqa: B023
            if listed is None or other is None or champion is None:
                continue
            differing += {*listed} != {*other}
            both = {**request, "candidates": list(dict.fromkeys([*listed, *other]))}
            theirs, ours = _scored(challenger, both), _scored(champion, both)
        else:
            theirs = second.of(lambda: _scored(challenger, request))  # noqa: B023
            ours = first.of(lambda: _scored(champion, request)) if champion is not None else None  # noqa: B023
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
        differing=differing if lists and champion is not None else None,
    )  # fmt: skip


def _scored(scorer: Scorer, request: Mapping[str, Any]) -> _Scored | None:
    """Scores, and which of the items are known; None where one is not finite."""
    lists = to_lists([request], scorer.form)
    scores = scorer.score_lists(lists)
    if not np.isfinite(scores.score_N).all():
        return None
    # An event of the history that one of them lacks is left out there, so their scores may differ.
    whole = bool(scores.event_n[0] == min(len(lists.users["history"][0]), _length(scorer)))
    return scores.score_N, scores.item_known_N & whole


def _listed(scorer: Scorer, request: Mapping[str, Any], task: ListTask) -> list[str] | None:
    """Items of a user's list; None where it is empty, or a score is not finite."""
    users = to_users([{"user_id": request["user_id"], "history": request["history"]}], scorer.form)
    found = scorer.user_lists(users, [replace(Wanted.of(LIST, None, (), task.filter_seen), least=0)])
    items: list[str] = found.item_ids.to_pylist()
    return items if items and np.isfinite(found.score_M).all() else None


def _golden(scorer: Scorer) -> Sequence[Mapping[str, Any]]:
    """The golden requests of a bundle, but for those that it answers from the histories that it keeps."""
    if scorer.golden is None:
        return []
    return [
        {"user_id": one.user_id, "candidates": list(one.candidates), "history": list(one.history)}
        for one in scorer.golden.requests if one.history is not None
    ]  # fmt: skip


def _drawn(window: Window, listing: Scorer | None) -> Sequence[Mapping[str, Any]]:
    """Users and histories of some samples, each with its own item and others of the window.

    Args:
        window: The samples.
        listing: Draw only of those that this bundle can make a list for; None: of all.
    """
    asked = window.asked
    if listing is not None:  # by the history alone, which is all that a request of the canary brings
        asked = asked.filter(listing.has_events(asked.drop_columns(["item_id"])))
    rng, size = np.random.default_rng(0), asked.num_rows
    rows = asked.take(np.sort(rng.choice(size, min(DRAWN, size), replace=False)))
    found = []
    for row in rows.select(["user_id", "item_id", "history"]).to_pylist():
        others = asked["item_id"].take(rng.integers(0, size, CANDIDATES - 1)).to_pylist()
        found.append({"user_id": row["user_id"], "candidates": [row["item_id"], *others], "history": row["history"]})
    return found


def _length(scorer: Scorer) -> int:
    length: int = scorer.model.resources.spec.history_length
    return length
