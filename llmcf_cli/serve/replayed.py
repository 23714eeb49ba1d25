"""A window of a replay: what each arm's bundle scores, before anything is learned from it.

Legend: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.measure.base import Measure, Truth, measured
from llmcf_cli.rec.tasks.base import NumberTask
from llmcf_cli.serve.champion.predicted import predicted
from llmcf_cli.serve.champion.window import Window, between
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.store.open import connect_read

POPULAR = "popular"
"""The arm without a model: how often an item was taken in as long a time right before the window."""


def score_window(database: Path, first: int, last: int, bundles: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Measure bundles on all samples of a window, scored as requests that bring their user, item, history and time.

    Args:
        database: What ingest made of all rows up to the end of the window.
        first: Its start, in microseconds since 1970.
        last: Its end, which is not of it.
        bundles: Arm → bundle that it serves when the window begins.

    Returns:
        Arm → `samples`, measures by name as far as they are defined, and `new_users_…` and `new_items_…`: samples, and
        the first measure, of users and items that no row before the window has. `POPULAR` is among the arms where the
        first measure is of an order.

    Raises:
        ModelError: A bundle answers with lists.
    """
    found: dict[str, dict[str, Any]] = {}
    same: dict[str, dict[str, Any]] = {}
    window: Window | None = None
    task: NumberTask | None = None
    for arm, path in bundles.items():
        scorer = Scorer.load(path)
        if scorer.digest in same:
            found[arm] = same[scorer.digest]
            continue
        if not isinstance(scorer.task, NumberTask):
            what = f"bundles of the task `{scorer.task.config.type}` answer with lists, which cannot be replayed"
            raise ModelError(what,
                             code="promote-task", where="replay", hint="replay a recipe with another task")  # fmt: skip
        if window is None or task is None:
            task = scorer.task
            window, slices = between(database, task, first, last), _slices(database, first, last, task)
        score_N = predicted(scorer, window, task, task.measures).prediction
        found[arm] = _measured(task.measures, score_N, window.truth, slices)
        same[scorer.digest] = found[arm]
    if task is not None and window is not None and task.measures[0].chance is not None:
        count_N = _taken_lately(database, first, last, task)
        found[POPULAR] = _measured(task.measures[:1], count_N, window.truth, slices)
    return found


def _measured(
    measures: Any, score_N: NDArray[np.float32], truth: Truth, slices: Mapping[str, NDArray[np.bool_]]
) -> dict[str, Any]:
    main: Measure = measures[0]
    found: dict[str, Any] = {"samples": len(truth), **measured(measures, score_N, truth)}
    for name, mask_N in slices.items():
        found[f"{name}_samples"] = int(mask_N.sum())
        found |= {
            f"{name}_{measure}": value
            for measure, value in measured([main], score_N[mask_N], truth.take(np.flatnonzero(mask_N))).items()
        }
    return found


def _slices(database: Path, first: int, last: int, task: NumberTask) -> dict[str, NDArray[np.bool_]]:
    """Samples whose user, or item, no row before the window has; in the order of `between`."""
    with connect_read(database) as con:
        rows = con.sql(
            f"SELECT user_row NOT IN (SELECT user_row FROM sample WHERE time < {first}) AS new_users, item_row NOT IN "
            f"(SELECT item_row FROM sample WHERE time < {first}) AS new_items FROM sample WHERE time >= {first} "
            f"AND time < {last} AND ({task.condition}) ORDER BY sample_id"
        ).fetchnumpy()
    return {name: np.asarray(values, bool) for name, values in rows.items()}


def _taken_lately(database: Path, first: int, last: int, task: NumberTask) -> NDArray[np.float32]:
    """How often each sample's item was taken in as long a time right before the window, float32 [N]."""
    with connect_read(database) as con:
        rows = con.sql(
            "SELECT coalesce(c.taken, 0) AS taken FROM sample s LEFT JOIN (SELECT item_row, count(*) AS taken FROM "
            f"sample WHERE label = 1 AND time < {first} AND time >= {2 * first - last} GROUP BY item_row) c "
            f"USING (item_row) WHERE s.time >= {first} AND s.time < {last} AND ({task.condition}) ORDER BY sample_id"
        ).fetchnumpy()
    return np.asarray(rows["taken"], np.float32)
