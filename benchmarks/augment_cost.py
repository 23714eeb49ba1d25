"""What examples add to a training step: an epoch with `ict` and with `readout` against one of the plain backbone.

    python benchmarks/augment_cost.py [--quick]

DeepFM on 80,000 samples (--quick: 15,000) in the shape of MovieLens-100K, batches of 512, K = 4, text vectors of 384;
`ict` as in the paper (2 layers, 2 heads, dim 32, chains of thought and their reconstruction). Two banks: 176 examples,
as the quickstart has, and a tenth of the train samples, as in the paper. Arms alternate; medians of CPU time on one
thread (--wall: of wall time). The ratio reported is that of `ict` with the costlier bank; lower is better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from synthetic import Size, task_data

from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.rec.config import (
    BCEConfig,
    CoTReconstructionConfig,
    DeepFMConfig,
    ICTConfig,
    NoneConfig,
    ReadoutConfig,
    TextConfig,
)
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.model import RecModel

TARGET, BATCH = 2.5, 512
ARMS: dict[str, tuple[ComponentConfig, tuple[ComponentConfig, ...]]] = {
    "none": (NoneConfig(), (BCEConfig(),)),
    "text": (TextConfig(), (BCEConfig(),)),
    "ict": (ICTConfig(), (BCEConfig(), CoTReconstructionConfig())),
    "readout": (ReadoutConfig(), (BCEConfig(),)),
}


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--wall", action="store_true", help="wall time, for a machine that is otherwise idle")
    options = parser.parse_args()
    torch.set_num_threads(1)
    train = 15_000 if options.quick else 80_000
    clock = time.perf_counter if options.wall else time.process_time
    seconds = {
        examples: measure(task_data(Size(train=train, examples=examples)), clock) for examples in (176, train // 10)
    }

    print(f"{train:,} samples, DeepFM, batches of {BATCH}, one thread")
    print(f"{'examples':>8}{'arm':>8}{'s/epoch':>10}{'× none':>8}")
    for examples, arms in seconds.items():
        for arm, value in arms.items():
            print(f"{examples:>8,}{arm:>8}{value:>10.2f}{value / arms['none']:>8.2f}")
    ratio = max(arms["ict"] / arms["none"] for arms in seconds.values())
    detail = {str(examples): {arm: round(v, 3) for arm, v in arms.items()} for examples, arms in seconds.items()}
    result = {"name": "augment_cost", "ratio": round(ratio, 2), "target": TARGET, "ok": ratio <= TARGET}
    print(json.dumps({**result, "detail": {"samples": train, "seconds": detail}}))
    sys.exit(0 if ratio <= TARGET else 1)


def measure(data: TaskData, clock: Callable[[], float]) -> dict[str, float]:
    """Median seconds of an epoch of each arm, in three rounds after one to warm up."""
    arms = {name: Arm(data, *settings) for name, settings in ARMS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(4):
        for name, arm in arms.items():
            started = clock()
            arm.epoch()
            seconds[name].append(clock() - started)
    return {name: statistics.median(values[1:]) for name, values in seconds.items()}


class Arm:
    """A model in training."""

    def __init__(self, data: TaskData, augment: ComponentConfig, objectives: tuple[ComponentConfig, ...]) -> None:
        self.model = RecModel(data.resources, DeepFMConfig(), augment, objectives).train()
        self.train = data.batch("train", inputs=self.model.reads)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)

    def epoch(self) -> None:
        """One pass over the samples."""
        for index_B in torch.randperm(len(self.train)).split(BATCH):
            batch = self.train.take(index_B)
            self.model.loss(self.model(batch), batch.targets).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()


if __name__ == "__main__":
    main()
