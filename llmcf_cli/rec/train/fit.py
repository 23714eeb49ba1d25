"""One training loop for every model, on one device or many.

Legend: N samples, B batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, DistributedType, broadcast
from torch.nn.parallel import DistributedDataParallel

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.measure.base import Measure, measured
from llmcf_cli.rec.recommender import Recommender
from llmcf_cli.rec.train.checkpoint import Checkpoint, fingerprint
from llmcf_cli.rec.train.predict import predictions
from llmcf_cli.rec.train.reports import Epoch, FitReport
from llmcf_cli.recipe.sections import FitSection

UNWRAPPED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
"""Where the optimiser steps as it would alone."""


def fit(
    model: Recommender,
    data: TaskData,
    section: FitSection,
    *,
    seed: int,
    work: Path,
    progress: Progress = SILENT,
) -> FitReport:
    """Train a model in place; it ends with the weights of the epoch that did best on validation.

    Batches are slices of a permutation of the train rows, drawn anew each epoch from `seed`. Every epoch leaves a
    checkpoint in `work`, so the same call after an interruption goes on where it was and ends with the same weights.
    Works alone or under `accelerate launch`: each process takes its part of every batch and the measures are computed
    on the gathered predictions.

    Args:
        model: What to train.
        data: Train and validation splits; the test split is never touched.
        section: Optimiser, batch size, stopping.
        seed: Order of samples, and dropout.
        work: Folder for checkpoints.
        progress: Where to report.

    Raises:
        DataError: The task refuses a split, or the monitored measure is not defined on validation.
        ModelError: The loss or a validation score is no longer finite; the checkpoint of the last good epoch stays.
    """
    for split in ("train", "validation"):
        data.task.check(data.truth(split), split)
    monitor = data.task.monitor(section.monitor)
    # Tuning a language model in the same process leaves a process-wide setting of bf16 behind.
    accelerator = Accelerator(kwargs_handlers=[AutocastKwargs(enabled=False)])
    run = _Run(accelerator, model.to(accelerator.device), data, section, monitor, seed)
    checkpoint = Checkpoint(work, fingerprint(model, data, section, seed), main=accelerator.is_main_process)
    report = FitReport(monitor.name, monitor.title, num_parameters=model.num_parameters, num_samples=len(run.train))
    report.notes = list(run.notes)
    report.epochs = [Epoch(**epoch) for epoch in checkpoint.restore(model, run.optimizer)]
    report.best_epoch = _best_epoch(report.epochs, monitor)
    total, done = section.epochs * report.num_samples, len(report.epochs) * report.num_samples
    with progress.task("fit", total, "samples", done) as task:
        for note in run.notes:
            task.note(note)
        while not _finished(report, section):
            report.epochs.append(run.epoch(len(report.epochs) + 1, task))
            report.peak_memory = max(report.peak_memory, run.memory.peak)
            report.best_epoch = _best_epoch(report.epochs, monitor)
            is_best = report.best_epoch == len(report.epochs)
            checkpoint.save(model, run.optimizer, [asdict(e) for e in report.epochs], best=is_best)
            accelerator.wait_for_everyone()
    checkpoint.load_best(model)
    return report


class _Run:
    """Model, optimiser and data of one process during a fit."""

    def __init__(
        self, accelerator: Accelerator, model: Recommender, data: TaskData, section: FitSection, monitor: Measure,
        seed: int,
    ) -> None:  # fmt: skip
        self.accelerator, self.model, self.section, self.seed = accelerator, model, section, seed
        self.monitor, self.measures = monitor, data.task.measures
        self.memory = _Memory()
        self.train = model.train_rows(data, accelerator.device)
        self.validation = data.batch("validation", accelerator.device, inputs=model.reads)
        self.notes = model.prepare(self.train)
        self.truth = data.truth("validation")
        # Catalogue, texts and examples are the same everywhere: nothing to broadcast before each step.
        self.lasting = model.state_dict().keys()
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
            model, [name for name, _ in model.named_buffers() if name not in self.lasting]
        )
        optimizer = torch.optim.Adam(
            model.parameters(), lr=section.learning_rate, weight_decay=section.weight_decay, fused=True
        )
        self.parallel, self.optimizer = accelerator.prepare(model, optimizer)
        if accelerator.scaler is None and accelerator.distributed_type in UNWRAPPED:
            # The wrapper would add nothing but a search of the disk, at every step, for a package it knows.
            self.optimizer = optimizer

    def epoch(self, number: int, task: Task) -> Epoch:
        """Train for one epoch and evaluate."""
        started = time.perf_counter()
        loss = self._train(number, task)
        seconds = time.perf_counter() - started
        validation = self._evaluate(number)
        task.note(f"epoch {number}: loss {loss:.4f}, {self.monitor.title} {validation[self.monitor.name]:.4f}")
        told = {f"validation/{name}": value for name, value in validation.items()}
        task.measured(number, {"train/loss": loss, "train/seconds": seconds, **told})
        return Epoch(number, loss, validation, round(seconds, 4))

    def _train(self, number: int, task: Task) -> float:
        self.parallel.train()
        # Dropout's stream starts anew each epoch, so a resumed fit draws what an uninterrupted one does.
        torch.manual_seed(derive_seed(self.seed, "dropout", number, self.accelerator.process_index))
        total = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        steps = 0
        for steps, index_B in enumerate(self._batches(number), 1):
            batch = self.train.take(index_B)
            loss = self.model.loss(self.parallel(batch), batch.targets)
            self._check_finite(loss, number, steps)
            self.accelerator.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            total += loss.detach()
            self.memory.look()
            task.advance(len(index_B) * self.accelerator.num_processes)
        # Batch statistics are each process's own; all evaluate with those that the checkpoint will hold.
        broadcast([buffer for name, buffer in self.model.named_buffers() if name in self.lasting])
        return float(self.accelerator.reduce(total / steps, "mean"))

    def _batches(self, number: int) -> Iterator[torch.Tensor]:
        """This process's positions in the train split, batch by batch; equally many in every process."""
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", number))
        order_N = torch.randperm(len(self.train), generator=generator).to(self.accelerator.device)
        parts = self.accelerator.num_processes
        for batch_B in order_N.split(self.section.batch_size):
            short = -len(batch_B) % parts
            whole = torch.cat([batch_B, order_N[:short]]) if short else batch_B
            yield whole[self.accelerator.process_index :: parts]

    def _evaluate(self, number: int) -> dict[str, float]:
        size, parts = len(self.validation), self.accelerator.num_processes
        share = math.ceil(size / parts)
        index = torch.arange(share, device=self.accelerator.device) + share * self.accelerator.process_index
        mine = predictions(self.model, self.validation.take(index % size), self.section.evaluation_batch_size)
        prediction_N = self.accelerator.gather(mine)[:size].cpu().numpy()
        if not np.isfinite(prediction_N).all():
            raise _not_finite(f"a validation score is not finite after epoch {number}")
        found = measured(self.measures, prediction_N, self.truth)
        if self.monitor.name not in found:
            raise DataError(
                f"cannot monitor {self.monitor.name}: it is undefined on the validation split",
                code="monitor-undefined", where="rec.fit.monitor", allowed=tuple(found),
            )  # fmt: skip
        return found

    def _check_finite(self, loss: torch.Tensor, number: int, step: int) -> None:
        if not torch.isfinite(loss):
            raise _not_finite(f"the loss is {loss.item()} in epoch {number}, batch {step}")


class _Memory:
    """Resident memory of this process, looked at after every step."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self.peak = 0

    def look(self) -> None:
        """Note how far above the start the process is now."""
        self.peak = max(self.peak, self._process.memory_info().rss - self._before)


def _not_finite(what: str) -> ModelError:
    hint = "lower rec.fit.learning_rate, or check the vectors for values that are not finite"
    return ModelError(what, code="loss-not-finite", where="train-rec", hint=hint)


def _finished(report: FitReport, section: FitSection) -> bool:
    past = len(report.epochs) - report.best_epoch
    return len(report.epochs) >= section.epochs or (bool(report.epochs) and past > 0 and past >= section.patience)


def _best_epoch(epochs: list[Epoch], monitor: Measure) -> int:
    """Number of the best epoch, the earliest of equals; 0 if there is none."""
    if not epochs:
        return 0
    return max(epochs, key=lambda e: (monitor.sign * e.validation[monitor.name], -e.number)).number
