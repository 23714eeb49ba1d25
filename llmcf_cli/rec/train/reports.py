"""How a fit went."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Epoch:
    """One pass over the train split.

    Attributes:
        number: 1-based.
        loss: Mean train loss, all objectives together.
        validation: The task's measures on the validation split.
        seconds: Training time, evaluation excluded.
    """

    number: int
    loss: float
    validation: dict[str, float]
    seconds: float


@dataclass
class FitReport:
    """How a fit went.

    Attributes:
        epochs: Every epoch that was run.
        best_epoch: Number of the epoch whose weights were kept.
        num_parameters: Learned numbers of the model.
        num_samples: Rows of an epoch: samples of the train split, or sequences of several.
        monitor: Name of the validation measure that chose the best epoch.
        monitor_title: What tables call it.
        peak_memory: Most bytes that the process held during training beyond what it held before the model's first step.
        notes: What the augmenter could not tell of the examples there are.
    """

    monitor: str
    monitor_title: str
    epochs: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    num_parameters: int = 0
    num_samples: int = 0
    peak_memory: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def best(self) -> dict[str, float]:
        """Validation measures of the best epoch."""
        return self.epochs[self.best_epoch - 1].validation

    @property
    def seconds_per_epoch(self) -> float:
        """Median over the epochs."""
        return statistics.median(e.seconds for e in self.epochs)

    @property
    def samples_per_second(self) -> float:
        """Train samples over the time of an epoch."""
        return self.num_samples / max(self.seconds_per_epoch, 1e-9)
