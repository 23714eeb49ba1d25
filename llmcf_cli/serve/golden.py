"""Whether a bundle still answers what it answered when it was made."""

from __future__ import annotations

import numpy as np

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.bundle.golden import Golden
from llmcf_cli.serve.requests import to_lists
from llmcf_cli.serve.scorer import Scorer

TOLERANCE = 1e-3
"""Largest difference of a raw output, plus that share of it: other processors and libraries sum in another order."""


def replay(scorer: Scorer, golden: Golden) -> int:
    """Ask golden requests again; how many there are.

    Raises:
        ModelError: Some answer differs.
    """
    if not golden.requests:
        return 0
    asked = [{"user_id": one.user_id, "candidates": list(one.candidates),
              "history": None if one.history is None else list(one.history)} for one in golden.requests]  # fmt: skip
    expected_N = np.concatenate([one.scores for one in golden.requests])
    found_N = scorer.score_lists(to_lists(asked, scorer.form)).score_N.astype(np.float64)
    off_N = ~(np.abs(found_N - expected_N) <= TOLERANCE * (1 + np.abs(expected_N)))  # NaN is off
    if off_N.any():
        most = np.abs(found_N - expected_N)[off_N].max()
        raise ModelError(
            f"{off_N.sum()} of {len(off_N)} golden answers differ from when it was made, by up to {most:.3g}",
            code="golden-differs", where="golden.json",
            hint="serve it with the version of llmcf and of its plugins that made it, or train again: llmcf train-rec",
        )  # fmt: skip
    return len(golden.requests)
