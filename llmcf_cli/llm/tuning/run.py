"""One tuning: what it is asked to do, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from llmcf_cli.llm.config import TuneConfig
from llmcf_cli.plugin import Kind


@dataclass(frozen=True)
class TuneReport:
    """What tuning did.

    Attributes:
        samples: Samples of the mix.
        steps: Optimiser steps, of this and interrupted runs.
        resumed_from: Step this run continued from; 0 for a fresh one.
        tokens: Tokens that this run trained on, padding not counted.
        tokens_per_second: Over the time of this run's steps.
        seconds: Time of this run, with loading and saving.
        precision: `fp32` or `bf16`.
        trained_parameters: Parameters that were updated.
        final_loss: Mean loss over the last tenth of the steps.
        loss: (step, loss) points, evenly thinned.
        processes: How many shared the work.
        expected: What was expected of memory and time, in words.
        distributed: How accelerate joined them, in its word: `NO`, `MULTI_CPU`, `MULTI_GPU`, `FSDP` or `DEEPSPEED`.
    """

    samples: int
    steps: int
    resumed_from: int
    tokens: int
    tokens_per_second: float
    seconds: float
    precision: str
    trained_parameters: int
    final_loss: float
    loss: list[tuple[int, float]] = field(default_factory=list)
    processes: int = 1
    expected: str = ""
    distributed: str = "NO"


TUNER: Kind[TuneReport] = Kind("tuner")
"""A tuner tunes when it is called; what it did is its result."""


@dataclass(frozen=True)
class TuneRun:
    """One tuning, ready to be done by one or several processes: `work` holds its tokens.

    Attributes:
        config: How to tune.
        model: Folder in Hugging Face format.
        out: Folder of the tuned model.
        work: Folder of tokens and checkpoints.
        seed: Of everything random.
        precision: `fp32` or `bf16`.
        processes: How many share the work.
    """

    config: TuneConfig
    model: Path
    out: Path
    work: Path
    seed: int
    precision: str
    processes: int = 1
