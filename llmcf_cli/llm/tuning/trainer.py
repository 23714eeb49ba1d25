"""transformers' Trainer, set up for answers-only loss, batches planned beforehand and our progress display."""

from __future__ import annotations

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
from llmcf_cli.llm.config import TuneConfig
from llmcf_cli.llm.models.load import best_device
from llmcf_cli.llm.tuning.collate import LeftPadded, Packed, keeps_logits, packed_loss, padded_loss
from llmcf_cli.llm.tuning.packing import use_packed_attention
from llmcf_cli.llm.tuning.tokens import TokenisedMix


def build_trainer(
    config: TuneConfig, network: Any, tokenizer: Any, samples: TokenisedMix, batches: Sequence[np.ndarray], *,
    work: Path, seed: int, precision: str, processes: int, interrupted: threading.Event, progress: Progress,
) -> AnswerTrainer:  # fmt: skip
    """A trainer ready to `train()`.

    Args:
        config: How to tune.
        network: The model.
        tokenizer: Its tokenizer.
        samples: What to learn.
        batches: Numbers of the samples of each forward pass, over all epochs.
        work: Folder for checkpoints.
        seed: Of everything random.
        precision: `fp32` or `bf16`.
        processes: How many share the batches.
        interrupted: Set: end with a checkpoint after the current step.
        progress: Where to report.
    """
    packed = config.packing == "packed"
    if packed:
        use_packed_attention(network)
    if config.gradient_checkpointing:
        network.enable_input_require_grads()  # adapters alone would leave the checkpointed input without a gradient
        network.gradient_checkpointing_enable({"use_reentrant": False})
    accumulation = config.gradient_accumulation // processes
    steps = math.ceil(len(batches) / (accumulation * processes))
    arguments = TrainingArguments(
        output_dir=str(work), seed=seed, data_seed=seed, per_device_train_batch_size=1, num_train_epochs=1,
        gradient_accumulation_steps=accumulation, max_steps=min(config.max_steps or steps, steps),
        learning_rate=config.learning_rate, lr_scheduler_type=config.schedule,
        weight_decay=config.weight_decay, max_grad_norm=config.max_gradient_norm,
        warmup_steps=config.warmup_ratio, bf16=precision == "bf16", use_cpu=not torch.cuda.is_available(),
        neftune_noise_alpha=config.neftune or None, save_strategy="steps", save_steps=config.save_steps,
        save_total_limit=2, logging_strategy="steps", logging_steps=1, logging_nan_inf_filter=False,
        disable_tqdm=True, report_to=[], remove_unused_columns=False, dataloader_pin_memory=torch.cuda.is_available(),
        log_level="error", ddp_find_unused_parameters=False,
    )  # fmt: skip
    arguments._n_gpu = min(arguments.n_gpu, 1)  # several GPUs are used by launched processes, never by DataParallel
    watch = _Watch(interrupted, progress)
    keeps = keeps_logits(network)
    trainer = AnswerTrainer(
        model=network, args=arguments, train_dataset=samples, processing_class=tokenizer,
        data_collator=Packed(keeps) if packed else LeftPadded(tokenizer.pad_token_id, keeps),
        compute_loss_func=packed_loss if packed else padded_loss, callbacks=[watch],
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.watch, trainer.batches = watch, batches
    return trainer


class AnswerTrainer(Trainer):
    """Trainer that takes planned batches, counts tokens and stops at the first loss that is not finite."""

    trained_tokens = 0
    batches: Sequence[np.ndarray]
    watch: _Watch

    def _get_train_sampler(self, train_dataset: Any = None) -> _Planned:
        return _Planned(self.batches)

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Tensor:
        """One forward and backward pass; before the optimiser sees a gradient that is not finite, it stops."""
        mask_BL = inputs.get("attention_mask")
        self.trained_tokens += inputs["input_ids"].numel() if mask_BL is None else int(mask_BL.sum())
        loss: Tensor = super().training_step(model, inputs, *args, **kwargs)
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss is {loss.item()} after step {self.state.global_step}",
                code="loss-not-finite", where="train-llm",
                hint="lower llm.tune.learning_rate or set llm.tune.precision: fp32",
            )  # fmt: skip
        return loss


class _Planned(torch.utils.data.Sampler[np.ndarray]):
    """Planned batches in their order; the data set takes a batch's numbers for one index."""

    def __init__(self, batches: Sequence[np.ndarray]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self._batches)


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
        if self._stops():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if logs and "loss" in logs and math.isfinite(logs["loss"]):
            self._task.note(f"loss {logs['loss']:.3f}")
            told = {"train/loss": logs["loss"], "train/learning rate": logs.get("learning_rate", math.nan)}
            self._task.measured(state.global_step, told)

    def _stops(self) -> bool:
        """Whether any process was interrupted: all end after the same step."""
        stop = self._interrupted.is_set()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            flag = torch.tensor(int(stop), device=best_device())
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
            return bool(flag.item())
        return stop

    def close(self) -> None:
        """End the progress display, however training ended."""
        if self._context is not None:
            self._context.__exit__(None, None, None)
