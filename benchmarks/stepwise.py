"""A callback that lets transformers' Trainer take one step whenever it is asked, and tells how long it took.

Imported on both sides of `tune_llm.py`, so that both are measured alike: from the request to the end of the optimiser
step, the making of the batch included.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Any, TextIO

from transformers import TrainerCallback


class Stepwise(TrainerCallback):
    """Answers each line on standard input with a step's seconds per token, padding not counted.

    Args:
        answers: Where to write.
        clock: `wall` or `cpu`.
    """

    def __init__(self, answers: TextIO, clock: str) -> None:
        self._answers, self._clock = answers, time.perf_counter if clock == "wall" else time.process_time
        self._tokens: deque[int] = deque()
        self._begun = 0.0

    def watch(self, trainer: Any) -> None:
        """Train it, a step for each line."""
        trainer.add_callback(self)
        collate = trainer.data_collator
        trainer.data_collator = lambda rows: self.counted(collate(rows))
        trainer.train()

    def counted(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch, its tokens noted for the step that will take it."""
        mask = batch.get("attention_mask")
        self._tokens.append(batch["input_ids"].numel() if mask is None else int(mask.sum()))
        return batch

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait(control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        seconds = self._clock() - self._begun
        print(seconds / self._tokens.popleft(), file=self._answers, flush=True)
        self._wait(control)

    def _wait(self, control: Any) -> None:
        control.should_training_stop = not sys.stdin.readline()
        self._begun = self._clock()
