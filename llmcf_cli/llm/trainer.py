"""transformers' Trainer, set up for answers-only loss, length-grouped batches and our progress display.

Shapes: B batch, L tokens with padding, A tokens of the longest answer plus one, V vocabulary.
"""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.config import FullTuneConfig, LoraTuneConfig

_IGNORED = -100
_MEGABATCH = 32  # batches that are sorted by length together: little padding, and still a new order every epoch


def build_trainer(
    config: FullTuneConfig | LoraTuneConfig, network: Any, tokenizer: Any, samples: Any, *, work: Path, seed: int,
    precision: str, interrupted: threading.Event, progress: Progress,
) -> AnswerTrainer:  # fmt: skip
    """A trainer ready to `train()`; arguments as for `llmcf_cli.llm.tune.tune`."""
    if config.gradient_checkpointing:
        network.enable_input_require_grads()  # adapters alone would leave the checkpointed input without a gradient
        network.gradient_checkpointing_enable({"use_reentrant": False})
    arguments = TrainingArguments(
        output_dir=str(work), seed=seed, data_seed=seed, per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation, num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1, learning_rate=config.learning_rate, lr_scheduler_type=config.schedule,
        weight_decay=config.weight_decay, max_grad_norm=config.max_gradient_norm,
        warmup_steps=config.warmup_ratio, bf16=precision == "bf16", use_cpu=not torch.cuda.is_available(),
        save_strategy="steps", save_steps=config.save_steps,
        save_total_limit=2, logging_strategy="steps", logging_steps=1, logging_nan_inf_filter=False,
        disable_tqdm=True, report_to=[], remove_unused_columns=False, dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error",
    )  # fmt: skip
    watch = _Watch(interrupted, progress)
    trainer = AnswerTrainer(
        model=network, args=arguments, train_dataset=samples, processing_class=tokenizer,
        data_collator=LeftPadded(tokenizer.pad_token_id, _keeps_logits(network)), compute_loss_func=answer_loss,
        callbacks=[watch],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.watch = watch
    return trainer


class LeftPadded:
    """Batches with padding on the left, so that all answers end at the same place.

    The output layer then works on the last A positions alone: with short answers and a large vocabulary that saves a
    good part of every step.
    """

    def __init__(self, pad_token: int, keeps_logits: bool) -> None:
        self._pad_token, self._keeps_logits = pad_token, keeps_logits

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """`input_ids`, `attention_mask`, `position_ids` and `labels`, all [B, L], and `logits_to_keep` (A)."""
        width = max(len(sample["tokens"]) for sample in samples)
        tokens_BL = np.full((len(samples), width), self._pad_token, dtype=np.int64)
        labels_BL = np.full((len(samples), width), _IGNORED, dtype=np.int64)
        mask_BL = np.zeros((len(samples), width), dtype=np.int64)
        longest = 1
        for row, sample in enumerate(samples):
            tokens, prompt = sample["tokens"], sample["prompt"]
            first = width - len(tokens)
            tokens_BL[row, first:] = tokens
            mask_BL[row, first:] = 1
            labels_BL[row, first + prompt :] = tokens[prompt:]
            longest = max(longest, len(tokens) - prompt)
        batch = {
            "input_ids": torch.from_numpy(tokens_BL),
            "attention_mask": torch.from_numpy(mask_BL),
            "position_ids": torch.from_numpy((mask_BL.cumsum(1) - 1).clip(min=0)),
            "labels": torch.from_numpy(labels_BL),
        }
        return {**batch, "logits_to_keep": longest + 1} if self._keeps_logits else batch


def answer_loss(outputs: Any, labels_BL: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy over answer tokens (of all of a step's batches, where their number is given)."""
    logits_BAV = outputs.logits
    targets_BA = labels_BL[:, labels_BL.shape[1] - logits_BAV.shape[1] + 1 :]
    total = torch.nn.functional.cross_entropy(
        logits_BAV[:, :-1].flatten(0, 1).float(), targets_BA.flatten(), ignore_index=_IGNORED, reduction="sum"
    )
    return total / ((targets_BA != _IGNORED).sum() if num_items_in_batch is None else num_items_in_batch)


class AnswerTrainer(Trainer):
    """Trainer that groups by length, counts tokens and stops at the first loss that is not finite."""

    trained_tokens = 0
    watch: _Watch

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGrouped:
        return LengthGrouped(self.train_dataset.lengths_N, self.args.train_batch_size, self.args.seed)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass; before the optimiser sees a gradient that is not finite, it stops."""
        self.trained_tokens += int(inputs["attention_mask"].sum())
        loss = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss is {loss.item()} after step {self.state.global_step}", where="train-llm",
                hint="lower llm.tune.learning_rate or set llm.tune.precision: fp32",
            )  # fmt: skip
        return loss


class LengthGrouped(torch.utils.data.Sampler):
    """Samples such that each batch holds similar lengths, in an order that depends on seed and epoch alone.

    Args:
        lengths_N: Tokens of each sample.
        batch_size: Samples of a batch.
        seed: Of the order.
    """

    def __init__(self, lengths_N: np.ndarray, batch_size: int, seed: int) -> None:
        self._lengths_N, self._batch_size, self._seed, self._epoch = lengths_N, batch_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order `iter` gives."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths_N)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng(derive_seed(self._seed, "order", self._epoch))
        order_N = generator.permutation(len(self._lengths_N))
        batches: list[np.ndarray] = []
        for start in range(0, len(order_N), self._batch_size * _MEGABATCH):
            block = order_N[start : start + self._batch_size * _MEGABATCH]
            block = block[np.argsort(-self._lengths_N[block], kind="stable")]
            batches += [block[i : i + self._batch_size] for i in range(0, len(block), self._batch_size)]
        # A short batch may only come last, or every later one would straddle two groups.
        full = sum(len(batch) == self._batch_size for batch in batches)
        batches.sort(key=lambda batch: -len(batch))
        for index in [*generator.permutation(full), *range(full, len(batches))]:
            yield from batches[index].tolist()


class _Watch(TrainerCallback):
    """Shows steps and loss, times the steps, and turns a noted Ctrl-C into a checkpoint and an end."""

    def __init__(self, interrupted: threading.Event, progress: Progress) -> None:
        self._interrupted, self._progress = interrupted, progress
        self._context: Any = None
        self._task: Any = None
        self._begun = 0.0
        self.seconds = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._context = self._progress.task("train-llm", state.max_steps, "steps", done=state.global_step)
        self._task = self._context.__enter__()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds += time.perf_counter() - self._begun
        self._task.advance()
        if self._interrupted.is_set():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs and math.isfinite(logs["loss"]):
            self._task.note(f"loss {logs['loss']:.3f}")

    def close(self) -> None:
        """End the progress display, however training ended."""
        if self._context is not None:
            self._context.__exit__(None, None, None)


def _keeps_logits(network: Any) -> bool:
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    return "logits_to_keep" in inspect.signature(base.forward).parameters
