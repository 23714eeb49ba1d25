"""Golden requests: some requests with the answers of the day the bundle was made, to be asked again before it serves.

Legend: N pairs of request and candidate, L history.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.types import Broken, Clock, Config, rule
from llmcf_cli.features.batch import Samples, to_batch
from llmcf_cli.rec.input.base import Input
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.rec.train.predict import score

REQUESTS, CANDIDATES = 8, 8
"""How many are made, and candidates of each."""
LATEST = np.iinfo(np.int64).max
"""Time of the requests: after everything."""


class GoldenRequest(Config):
    """A user's list of candidates, and what the model gave for it."""

    user_id: str
    """The user; empty: nobody that training saw."""
    candidates: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)]
    """Items."""
    history: Annotated[tuple[str, ...], Field(max_length=1 << 16)] | None
    """Items, oldest first, of no real user; None: the events that the bundle keeps of the user."""
    scores: Annotated[tuple[float, ...], Field(min_length=1, max_length=100)]
    """The model's raw output for each candidate."""

    @rule("candidates", "scores")
    def _one_each(self) -> Iterator[Broken]:
        if len(self.candidates) != len(self.scores):
            yield Broken(f"{len(self.scores)} scores for {len(self.candidates)} candidates", ("scores",))


class Golden(Config):
    """The golden requests of a bundle."""

    requests: Annotated[tuple[GoldenRequest, ...], Field(max_length=100)]


def make_golden(model: Recommender, inputs: Mapping[str, Input], clock: Clock) -> Golden | None:
    """Requests spread over users and items, and the model's answers to them.

    Histories are items drawn at random, or the user's own where the bundle keeps them; so a bundle without histories
    tells of nobody's.

    Args:
        model: A trained model.
        inputs: Name → input with the settings it is served by.
        clock: How times compare.

    Returns:
        None where there is nothing to ask, or answers may differ from load to load (approximate search).
    """
    resources = model.resources
    users, items = len(resources.catalog.users.ids), len(resources.catalog.items.ids)
    if not items or not all(one.repeatable for one in inputs.values()):
        return None
    rng = np.random.default_rng(0)
    user_n = np.linspace(0, users, REQUESTS).astype(np.int32)  # the first is unknown
    candidate_nC = rng.integers(1, items + 1, (REQUESTS, CANDIDATES)).astype(np.int32)
    histories = _histories(rng, user_n, model)
    samples = _samples(model, user_n, candidate_nC, histories)
    try:
        values = {name: one.answers(resources, clock)(resources, samples) for name, one in inputs.items()}
    except ModelError:  # nobody can ask this bundle anything, as loading it for requests says
        return None
    was_training = model.training
    score_N = score(model, to_batch(samples, model.device, inputs=values), len(samples)).cpu().numpy()
    model.train(was_training)
    ids, names = resources.catalog.items.ids, resources.catalog.users.ids
    return Golden(requests=tuple(
        GoldenRequest(
            user_id=names[int(user) - 1].as_py() if user else "",
            candidates=tuple(ids[int(row) - 1].as_py() for row in candidates),
            history=None if history is None else tuple(ids[int(row) - 1].as_py() for row in history),
            scores=tuple(float(value) for value in scores),
        )
        for user, candidates, history, scores in zip(
            user_n, candidate_nC, histories, score_N.reshape(REQUESTS, CANDIDATES), strict=True
        )
    ))  # fmt: skip


def write_golden(golden: Golden, path: Path) -> None:
    """Write them as JSON."""
    path.write_text(json.dumps(golden.model_dump(mode="json"), indent=1))


def _histories(
    rng: np.random.Generator, user_n: NDArray[np.int32], model: Recommender
) -> list[NDArray[np.int32] | None]:
    """Of each request the item rows that it brings: none at all, one, some; None: kept ones are read."""
    kept, items = model.resources.histories is not None, len(model.resources.catalog.items.ids)
    length = model.resources.spec.history_length
    sizes: Iterable[int] = np.linspace(0, length, len(user_n)).astype(int)
    drawn = [rng.integers(1, items + 1, size).astype(np.int32) for size in sizes]
    return [None if kept and user and n % 2 else drawn[n] for n, user in enumerate(user_n)]


def _samples(
    model: Recommender, user_n: NDArray[np.int32], candidate_nC: NDArray[np.int32],
    histories: list[NDArray[np.int32] | None],
) -> Samples:  # fmt: skip
    """The requests as the model reads them."""
    size, length = len(user_n), model.resources.spec.history_length
    time_n = np.full(size, LATEST, np.int64)
    history_nL = np.zeros((size, length), np.int32)
    for n, history in enumerate(histories):
        if history is None:
            assert model.resources.histories is not None
            history_nL[n] = model.resources.histories.before(user_n[n : n + 1], time_n[n : n + 1], length)[0]
        elif len(history):
            history_nL[n, -len(history) :] = history
    of_N = np.repeat(np.arange(size), candidate_nC.shape[1])
    none_N = np.zeros(len(of_N), np.float32)
    return Samples(np.full(len(of_N), -1, np.int64), user_n[of_N], candidate_nC.reshape(-1), history_nL[of_N], none_N,
                   time_n[of_N])  # fmt: skip
