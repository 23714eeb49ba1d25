"""Hyperparameter search with Optuna, resumable trial by trial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.rec.measure.base import Measure
from llmcf_cli.recipe.sections import SearchRange
from llmcf_cli.store.artifacts import write_atomic

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TRIALS = "trials.json"


@dataclass(frozen=True)
class Trials:
    """What a search tried.

    Attributes:
        rows: Per trial `settings` (key path → value), `value` (validation measure) and, where it failed, `error`.
        best: Settings of the best trial, the earliest of equals.
        value: Its measure.
    """

    rows: list[dict[str, Any]]
    best: dict[str, Any]
    value: float


def search(
    judge: Callable[[Mapping[str, Any], Path], float],
    space: Mapping[str, SearchRange],
    *,
    trials: int,
    start: Mapping[str, Any],
    monitor: Measure,
    seed: int,
    work: Path,
    progress: Progress = SILENT,
) -> Trials:
    """Try settings and keep the best by a validation measure.

    Trial 0 takes `start`; the others are drawn by the tree-structured Parzen estimator (Bergstra et al., 2011). Every
    finished trial is written down, so the same call after an interruption goes on with the next, and since each trial
    has a seed of its own it draws what an unbroken search would have drawn.

    Args:
        judge: Settings and a folder for checkpoints → the monitored validation measure.
        space: Key path → range.
        trials: How many, the first included.
        start: Settings of trial 0; a path that starts with a whole number takes whole numbers only.
        monitor: What the judge measures.
        seed: Seed of the draws.
        work: Folder for what is finished.
        progress: Told of every trial.

    Raises:
        LlmcfError: Every trial failed.
        StoreError: What an earlier attempt left is damaged.
    """
    kinds = {path: _distribution(values, start[path]) for path, values in space.items()}
    rows = _finished(work / TRIALS)
    with progress.task("search", trials, "trials", done=len(rows)) as task:
        for number in range(len(rows), trials):
            settings = dict(start) if number == 0 else _draw(rows, kinds, monitor, derive_seed(seed, "search", number))
            row: dict[str, Any] = {"settings": settings, "value": None}
            try:
                row["value"] = judge(settings, work / f"trial-{number}")
            except LlmcfError as error:
                row["error"] = str(error)
            shutil.rmtree(work / f"trial-{number}", ignore_errors=True)
            rows.append(row)
            write_atomic(work / TRIALS, json.dumps(rows))
            task.note(f"{monitor.title} {row['value']:.4f}" if row["value"] is not None else "failed")
            task.advance()
    finished = [row for row in rows if row["value"] is not None]
    if not finished:
        raise LlmcfError(
            f"every trial failed, the first with: {rows[0]['error']}", code="trials-failed", where="search"
        )
    best = max(finished, key=lambda row: monitor.sign * row["value"])
    return Trials(rows, best["settings"], best["value"])


def _finished(file: Path) -> list[dict[str, Any]]:
    """The trials that an earlier attempt finished."""
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else []
    except ValueError as error:
        raise StoreError(
            "the list of finished trials is damaged",
            code="trials-damaged",
            where=str(file),
            hint=f"rm {file}, then run again",
        ) from error
    return found


def _draw(
    rows: list[dict[str, Any]], distributions: Mapping[str, BaseDistribution], monitor: Measure, seed: int
) -> dict[str, Any]:
    """The next settings, given what was tried."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if monitor.higher_is_better else "minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(3, len(distributions))),
    )
    for row in rows:
        settings = row["settings"]
        if row["value"] is not None and all(_inside(distributions[path], v) for path, v in settings.items()):
            space = dict(distributions)
            study.add_trial(optuna.trial.create_trial(params=settings, distributions=space, value=row["value"]))
    return study.ask(dict(distributions)).params


def _inside(distribution: BaseDistribution, value: Any) -> bool:
    """Whether the space has the value: the recipe's own, tried first, may lie outside."""
    try:
        inside: bool = distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # not one of the choices
        return False
    return inside


def _distribution(values: SearchRange, start: Any) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if values.choices:
        return CategoricalDistribution(list(values.choices))
    low, high = values.low, values.high
    assert low is not None, "a range has both ends, or choices"
    assert high is not None
    if isinstance(start, int):
        return IntDistribution(int(low), int(high), log=values.log)
    return FloatDistribution(low, high, log=values.log)
