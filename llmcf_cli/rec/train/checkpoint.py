"""Checkpoints of a fit: one per epoch, replaced as a whole."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.recipe.sections import FitSection

WEIGHTS, OPTIMIZER, STATE, BEST = "weights.safetensors", "optimizer.pt", "state.json", "best.safetensors"
_UNREADABLE = (ValueError, KeyError, TypeError, RuntimeError, OSError, SafetensorError, pickle.UnpicklingError)


class Checkpoint:
    """The state after the last finished epoch, in `work/last`.

    Args:
        work: Folder to keep it in.
        name: What the fit is; a checkpoint of another one is ignored.
        main: Whether this process writes.
    """

    def __init__(self, work: Path, name: str, *, main: bool) -> None:
        self.last, self.next, self.old = work / "last", work / "next", work / "old"
        self.name, self.main = name, main

    def restore(self, model: Recommender, optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
        """Put the last finished epoch's state into model and optimiser; the epochs so far, if any.

        Raises:
            StoreError: It is damaged.
        """
        if self.main and not (self.last / STATE).is_file() and (self.old / STATE).is_file():
            shutil.rmtree(self.last, ignore_errors=True)  # a kill came between the two renames of `save`
            self.old.rename(self.last)
        folder = self.last if (self.last / STATE).is_file() else self.old
        if not (folder / STATE).is_file():
            return []
        try:
            state = json.loads((folder / STATE).read_text())
            if state["fit"] != self.name:
                return []
            weights = load_file(folder / WEIGHTS)
            moments = torch.load(folder / OPTIMIZER, weights_only=True, map_location=model.device)
            model.load_state_dict(weights)
            optimizer.load_state_dict(moments)
        except _UNREADABLE as error:
            hint = f"rm -r {self.last.parent}, then run again: training starts over"
            raise StoreError(
                "a checkpoint cannot be read", code="checkpoint-damaged", where=str(folder), hint=hint
            ) from error
        epochs: list[dict[str, Any]] = state["epochs"]
        return epochs

    def save(
        self,
        model: Recommender,
        optimizer: torch.optim.Optimizer,
        epochs: Sequence[Mapping[str, Any]],
        *,
        best: bool,
    ) -> None:
        """Write the state after an epoch, then put it in place of the one before.

        Args:
            model: Its weights.
            optimizer: Its moments.
            epochs: All epochs so far.
            best: These weights are the best so far.

        Raises:
            OSError: The disk is full; the state of the epoch before stays.
        """
        if not self.main:
            return
        shutil.rmtree(self.next, ignore_errors=True)
        self.next.mkdir(parents=True)
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        save_file(weights, self.next / WEIGHTS)
        _save_moments(optimizer, self.next / OPTIMIZER)
        source = self.next / WEIGHTS if best else self.last / BEST
        os.link(source, self.next / BEST)
        (self.next / STATE).write_text(json.dumps({"fit": self.name, "epochs": list(epochs)}))
        for path in self.next.iterdir():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
        shutil.rmtree(self.old, ignore_errors=True)
        if self.last.exists():
            self.last.rename(self.old)
        self.next.rename(self.last)
        shutil.rmtree(self.old, ignore_errors=True)

    def load_best(self, model: Recommender) -> None:
        """Put the best epoch's weights into the model."""
        model.load_state_dict(load_file(self.last / BEST))


def _save_moments(optimizer: torch.optim.Optimizer, path: Path) -> None:
    with path.open("wb") as handle:
        try:
            torch.save(optimizer.state_dict(), handle)
        except RuntimeError as error:  # torch's words for a handle that could not be written to
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _sum(values: NDArray[Any] | None) -> float | None:
    return None if values is None else float(np.nansum(values, dtype=np.float64))


def fingerprint(model: Recommender, data: TaskData, section: FitSection, seed: int) -> str:
    """Digest of what determines a fit, to tell whose checkpoint it is. Data enter by sizes and sums."""
    configs = model.configs
    return digest_json({
        "seed": seed,
        "fit": section.model_dump(exclude={"evaluation_batch_size"}),
        "backbone": configs.backbone.model_dump(), "augment": configs.augment.model_dump(),
        "objectives": [config.model_dump() for config in configs.objectives],
        "weights": {name: list(tensor.shape) for name, tensor in model.state_dict().items()},
        "inputs": {name: _sum(data.values(name, "train")) for name in sorted(model.reads)},
        "task": data.task.config.model_dump(),
        "splits": {split: [len(target_N), float(target_N.sum())] for split, target_N in data.targets.items()},
    })  # fmt: skip
