"""Whether a bundle still answers what it answered when it was made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.bundle.golden import Golden, GoldenRequest
from llmcf_cli.serve.lists import Wanted
from llmcf_cli.serve.requests import to_lists, to_users
from llmcf_cli.serve.scorer import Scorer

TOLERANCE = 1e-3
"""Largest difference of a raw output, plus that share of it: other processors and libraries sum in another order."""


def replay(scorer: Scorer, golden: Golden) -> int:
    """Ask golden requests again, of a bundle that makes lists in the search, too; how many there are.

    Raises:
        ModelError: Some answer differs.
    """
    if not golden.requests:
        return 0
    asked = [{"user_id": one.user_id, "candidates": list(one.candidates),
              "history": None if one.history is None else list(one.history)} for one in golden.requests]  # fmt: skip
    expected_N = np.concatenate([one.scores for one in golden.requests])
    _compare(scorer.score_lists(to_lists(asked, scorer.form)).score_N, expected_N)
    if scorer.makes_lists:
        _replay_lists(scorer, [one for one in golden.requests if one.history])
    if scorer.finder is not None and scorer.finder.other.golden is not None:
        replay(scorer.finder.other, scorer.finder.other.golden)
    return len(golden.requests)


def _replay_lists(scorer: Scorer, requests: Sequence[GoldenRequest]) -> None:
    """Search the catalogue for the candidates of golden requests: it must give the scores that these have."""
    scores = [dict(zip(one.candidates, one.scores, strict=True)) for one in requests]  # a candidate may stand twice
    users = to_users([{"user_id": one.user_id, "history": list(one.history or ())} for one in requests],
                     scorer.form)  # fmt: skip
    found = scorer.user_lists(users, [Wanted.of(len(of), list(of), (), filter_seen=False) for of in scores])
    pairs = zip(found.list_M.tolist(), found.item_ids.to_pylist(), strict=True)
    _compare(found.score_M, np.array([scores[number][item] for number, item in pairs]))


def _compare(found_N: NDArray[np.float32], expected_N: NDArray[np.float64]) -> None:
    off_N = ~(np.abs(found_N.astype(np.float64) - expected_N) <= TOLERANCE * (1 + np.abs(expected_N)))  # NaN is off
    if off_N.any():
        most = np.abs(found_N - expected_N)[off_N].max()
        raise ModelError(
            f"{off_N.sum()} of {len(off_N)} golden answers have changed since the bundle was made, by up to {most:.3g}",
            code="golden-differs", where="golden.json",
            hint="use the versions of llmcf and plugins that made the bundle, or train again: llmcf train-rec RECIPE",
        )  # fmt: skip


def try_out(scorer: Scorer) -> None:
    """Ask the golden requests, and something else, so that the first request waits for nothing that is made once.

    Raises:
        ModelError: The bundle does not answer, or not what it answered when it was made.
    """
    if scorer.golden is not None:
        replay(scorer, scorer.golden)
    items = scorer.model.resources.catalog.items.ids[:2].to_pylist()
    if scorer.makes_lists and items:
        some = to_users([{"user_id": "", "history": items[:1]}], scorer.form)
        scorer.user_lists(some, [Wanted.of(1, None, (), filter_seen=False)])
    score_N = scorer.score_lists(
        to_lists([{"user_id": "", "candidates": items or [""], "history": []}], scorer.form)
    ).score_N
    if not np.isfinite(score_N).all():
        raise ModelError(
            "the bundle returns a score that is not a number",
            code="score-invalid",
            where="bundle",
            hint="llmcf train-rec RECIPE",
        )
