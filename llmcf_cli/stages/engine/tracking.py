"""Measures of trainings as they go, for TensorBoard, MLflow and Weights & Biases: into files on this machine alone.

Accelerate's trackers do the writing. None is given an address or a key, whatever the environment says.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcf_cli.core.errors import PackageError
from llmcf_cli.core.progress import Progress, Task
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.store.artifacts import KEY_LENGTH, leaves

if TYPE_CHECKING:
    from llmcf_cli.stages.engine.base import Node

FOLDER = "tracking"
"""Where trackers write, in an artifact folder."""
_PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
_SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""What these libraries send to their makers unless they are told not to."""
_PREFIXES = ("MLFLOW_", "WANDB_")
_LOUD = ("mlflow", "alembic")


def check_trackers(recipe: Recipe) -> None:
    """Look for the packages of a recipe's trackers before any work is done.

    Raises:
        PackageError: One is not installed.
    """
    for name in recipe.tracking:
        if importlib.util.find_spec(_PACKAGES[name]) is None:
            raise PackageError(_PACKAGES[name], where="tracking")


@contextmanager
def tracked(progress: Progress, node: Node) -> Iterator[Progress]:
    """The same progress, whose tasks' measures also go to the recipe's trackers, if the stage is one that is tracked.

    Of several processes that share the work, the first writes.
    """
    recipe = node.context.recipe
    if not (node.stage.tracked and recipe.tracking) or os.environ.get("RANK", "0") != "0":
        yield progress
        return
    trackers = _Trackers(node)
    try:
        yield _Tracked(progress, trackers)
    except BaseException:
        trackers.finish("FAILED")
        raise
    trackers.finish("FINISHED")


class _Trackers:
    """The trackers of one attempt at a stage, opened at its first measure: many a stage ends before it has one."""

    def __init__(self, node: Node) -> None:
        self._node, self._open = node, list[Any]()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note values at a step; those that are no number are left out, as no tracker can draw them."""
        if not self._open:
            self._open = self._opened(step)
        finite = {name.replace("@", "_at_"): value for name, value in values.items() if math.isfinite(value)}
        for tracker in self._open:
            tracker.log(finite, step=step)

    def finish(self, status: str) -> None:
        """Close them, with what MLflow calls the end of a run."""
        for tracker in self._open:
            if tracker.name == "mlflow":
                import mlflow

                mlflow.end_run(status)
            else:
                tracker.finish()

    def _opened(self, step: int) -> list[Any]:
        from accelerate import PartialState

        PartialState()  # the trackers' own log needs it
        for name in _LOUD:
            logging.getLogger(name).setLevel(logging.WARNING)
        node, recipe = self._node, self._node.context.recipe
        root = node.context.store.root / FOLDER
        root.mkdir(parents=True, exist_ok=True)
        settings = {path: value for path, value in leaves(node.material) if not path.startswith("inputs")}
        makers = {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}
        with _own_environment():
            return [makers[name](root, recipe.name, node, settings, step) for name in recipe.tracking]


@contextmanager
def _own_environment() -> Iterator[None]:
    """Without the variables that would give the libraries an address, a key, or another run to write to."""
    before = {name: value for name, value in os.environ.items() if name.startswith(_PREFIXES)}
    for name in before:
        del os.environ[name]
    os.environ.update(_SILENT)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(_PREFIXES)]:
            del os.environ[name]
        os.environ.update(before | _SILENT)


def _tensorboard(root: Path, name: str, node: Node, settings: Mapping[str, str], step: int) -> Any:
    """A folder for each result; what an earlier attempt wrote of this step and later ones is not shown."""
    from accelerate.tracking import TensorBoardTracker

    run = re.sub(r"[^\w.=+-]+", "_", node.label).strip("_")
    tracker = TensorBoardTracker(
        f"{run}-{node.key[:KEY_LENGTH]}", root / "tensorboard" / name, purge_step=step
    )  # fmt: skip
    tracker.start()
    tracker.log({"settings": "  \n".join(f"{path}: {value}" for path, value in settings.items())}, step=step)
    return tracker


def _mlflow(root: Path, name: str, node: Node, settings: Mapping[str, str], step: int) -> Any:
    """An experiment for each recipe, a run for each attempt, in one SQLite file."""
    import mlflow
    from accelerate.tracking import MLflowTracker

    mlflow.set_tracking_uri(f"sqlite:///{(root / 'mlflow.db').absolute()}")
    tracker = MLflowTracker(
        name, (root / "mlflow").absolute().as_uri(), tags={"llmcf.key": node.key}, run_name=node.label
    )
    tracker.start()
    tracker.store_init_configuration({re.sub(r"[^\w.\- /]", ".", path): value for path, value in settings.items()})
    return tracker


def _wandb(root: Path, name: str, node: Node, settings: Mapping[str, str], step: int) -> Any:
    """A folder that `wandb sync` can send, if the user wants that."""
    import wandb
    from accelerate.tracking import WandBTracker

    tracker = WandBTracker(
        name, name=node.label, mode="offline", dir=str(root), config={**settings, "llmcf.key": node.key},
        settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True, save_code=False),
    )  # fmt: skip
    tracker.start()
    return tracker


class _Tracked:
    """Progress that passes measures on."""

    def __init__(self, progress: Progress, trackers: _Trackers) -> None:
        self._progress, self._trackers = progress, trackers

    @contextmanager
    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> Iterator[Task]:
        """See `Progress.task`."""
        with self._progress.task(name, total, unit, done) as task:
            yield _TrackedTask(task, self._trackers)

    def say(self, text: str) -> None:
        """See `Progress.say`."""
        self._progress.say(text)


class _TrackedTask:
    """A task that passes measures on."""

    def __init__(self, task: Task, trackers: _Trackers) -> None:
        self._task, self._trackers = task, trackers

    def advance(self, amount: float = 1) -> None:
        """See `Task.advance`."""
        self._task.advance(amount)

    def skip(self, amount: float) -> None:
        """See `Task.skip`."""
        self._task.skip(amount)

    def note(self, text: str) -> None:
        """See `Task.note`."""
        self._task.note(text)

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        """See `Task.measured`."""
        self._task.measured(step, values)
        self._trackers.log(step, values)
