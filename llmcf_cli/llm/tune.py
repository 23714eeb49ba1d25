"""Instruction tuning on a mix, with the loss on the answers only.

Runs transformers' `Trainer`, which brings the optimiser loop, mixed precision, distribution, checkpoints and resuming.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from llmcf_cli.core.errors import LlmcfError, ModelError, StoreError
from llmcf_cli.core.hashing import digest_json, digest_path
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed, seed_everything
from llmcf_cli.core.types import key_view
from llmcf_cli.llm.chat import encode_pair
from llmcf_cli.llm.config import FullTuneConfig, LoraTuneConfig
from llmcf_cli.llm.models import load_causal_lm, load_tokenizer, resolved_precision, save_model

STAMP = "tune.json"
"""File in the work folder that says which run its checkpoints belong to."""

_LOSS_POINTS = 200  # points of the loss curve that a report keeps


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


def tune(
    config: FullTuneConfig | LoraTuneConfig, *, model: Path, mix: Path, out: Path, work: Path, seed: int,
    progress: Progress = SILENT,
) -> TuneReport:  # fmt: skip
    """Tune a model on a mix and save it to `out` (safetensors, tokenizer, chat template).

    An interrupted run, by Ctrl-C (which saves first), a kill or a full disk, continues from its last complete
    checkpoint with the same optimiser, schedule, random and data state, and ends with the same weights.

    Args:
        config: Full or low-rank tuning.
        model: Folder in Hugging Face format.
        mix: Parquet file of `build_mix`.
        out: Folder of the tuned model.
        work: Folder for checkpoints; what another configuration, mix or model left there is removed.
        seed: The recipe's seed.
        progress: Where to report.

    Raises:
        ModelError: The loss is no longer a finite number; the last checkpoint stays.
        StoreError: The disk is too full for a checkpoint and the result.
        KeyboardInterrupt: Ctrl-C, after the checkpoint of the current step.
    """
    start = time.monotonic()
    seed = derive_seed(seed, "train-llm")
    precision = resolved_precision(config.precision)
    tokenizer = load_tokenizer(model)
    _claim(work, _stamp(config, model, mix, seed, precision))
    samples = _TokenisedMix(mix, work, tokenizer, config.max_length, progress)
    seed_everything(seed)
    network = load_causal_lm(model, torch.float32)
    if isinstance(config, LoraTuneConfig):
        network = _with_adapters(network, config)
    from llmcf_cli.llm.trainer import build_trainer

    with _interrupt_flag() as interrupted:
        trainer = build_trainer(
            config, network, tokenizer, samples, work=work, seed=seed, precision=precision, interrupted=interrupted,
            progress=progress,
        )  # fmt: skip
        checkpoint = last_checkpoint(work)
        _check_saving(network, tokenizer, work, out)
        if checkpoint:
            progress.say(f"resuming train-llm from {checkpoint.name}")
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            trainer.watch.close()
        if interrupted.is_set():
            raise KeyboardInterrupt
    return _finish(trainer, tokenizer, samples, checkpoint, out, precision, start)


def last_checkpoint(work: Path) -> Path | None:
    """The newest complete checkpoint in a work folder: the trainer writes its state file last."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)
    for path in found:
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            shutil.rmtree(path, ignore_errors=True)
            continue
        return path
    return None


def _finish(
    trainer: Any, tokenizer: Any, samples: _TokenisedMix, checkpoint: Path | None, out: Path, precision: str,
    start: float,
) -> TuneReport:  # fmt: skip
    network = trainer.accelerator.unwrap_model(trainer.model)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    if hasattr(network, "merge_and_unload"):
        network = network.merge_and_unload()
    if trainer.is_world_process_zero():
        save_model(network, tokenizer, out)
    curve = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    seconds = time.monotonic() - start
    tail = [loss for _, loss in curve[-max(1, len(curve) // 10) :]]
    return TuneReport(
        samples=len(samples), steps=trainer.state.global_step,
        resumed_from=int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0, tokens=trainer.trained_tokens,
        tokens_per_second=trainer.trained_tokens / max(trainer.watch.seconds, 1e-9), seconds=seconds,
        precision=precision, trained_parameters=trained, final_loss=sum(tail) / max(1, len(tail)),
        loss=curve[:: max(1, -(-len(curve) // _LOSS_POINTS))],
    )  # fmt: skip


def _stamp(
    config: FullTuneConfig | LoraTuneConfig, model: Path, mix: Path, seed: int, precision: str
) -> dict[str, Any]:
    mix_digest = digest_json([pq.read_schema(mix).names, digest_path(mix)])
    return {
        "config": key_view(config, str), "mix": mix_digest, "model": digest_path(model), "seed": seed,
        "precision": precision,
    }  # fmt: skip


def _claim(work: Path, stamp: dict[str, Any]) -> None:
    """Empty the work folder unless its stamp says that it is this very run's."""
    file = work / STAMP
    try:
        same = json.loads(file.read_text(encoding="utf-8")) == stamp
    except (OSError, ValueError):
        same = False
    if not same and work.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    if not same:
        file.write_text(json.dumps(stamp, indent=1), encoding="utf-8")


def _with_adapters(network: Any, config: LoraTuneConfig) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ModuleNotFoundError as error:
        raise LlmcfError("low-rank tuning needs the package peft", where="llm.tune",
                         hint="pip install 'llmcf[llm]'") from error  # fmt: skip
    adapters = LoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout,
        target_modules=list(config.modules) or "all-linear",
    )  # fmt: skip
    try:
        return get_peft_model(network, adapters)
    except ValueError as error:
        linear = sorted({name.rpartition(".")[2] for name, module in network.named_modules()
                         if isinstance(module, torch.nn.Linear)})  # fmt: skip
        raise ModelError("the model has no such layers to adapt", where="llm.tune.modules", allowed=linear) from error


def _check_saving(network: Any, tokenizer: Any, work: Path, out: Path) -> None:
    """Fail before the first long step, not after the last, if the model cannot be saved or the disk is too full."""
    weights = sum(p.numel() * 4 for p in network.parameters())
    trained = sum(p.numel() * 4 for p in network.parameters() if p.requires_grad)
    needed = weights + 2 * (weights + 2 * trained)  # the result, and two checkpoints with Adam's two moments
    out.parent.mkdir(parents=True, exist_ok=True)
    free = min(shutil.disk_usage(folder).free for folder in (work, out.parent))
    if free < needed:
        raise StoreError(
            f"tuning needs {needed / 1e9:.1f} GB for checkpoints and the result, {free / 1e9:.1f} GB are free",
            where=str(work), hint="free space, or tune with {type: lora}",
        )  # fmt: skip
    trial = work / "trial"
    try:
        save_model(network, tokenizer, trial)
    except Exception as error:  # whatever the library or the disk raises
        raise ModelError(f"the model cannot be saved: {error}", where=str(trial)) from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


@contextmanager
def _interrupt_flag() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that the current step ends with a checkpoint; a second one interrupts."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def note(number: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


class _TokenisedMix(torch.utils.data.Dataset):
    """The mix as tokens in one flat file, mapped into memory: 4 bytes a token, whatever the mix's size."""

    def __init__(self, mix: Path, work: Path, tokenizer: Any, max_length: int, progress: Progress) -> None:
        file = pq.ParquetFile(mix)
        lengths: list[int] = []
        prompts: list[int] = []
        with (
            (work / "tokens.bin").open("wb") as flat,
            progress.task("tokenise", file.metadata.num_rows, "samples") as task,
        ):
            for batch in file.iter_batches(batch_size=1024, columns=["prompt", "completion"]):
                for row in batch.to_pylist():
                    ids, prompt = encode_pair(tokenizer, row["prompt"], row["completion"])
                    if len(ids) > max_length:
                        raise ModelError(f"a sample of the mix has {len(ids)} tokens, more than {max_length}",
                                         where=str(mix))  # fmt: skip
                    flat.write(np.asarray(ids, dtype=np.int32).tobytes())
                    lengths.append(len(ids))
                    prompts.append(prompt)
                task.advance(batch.num_rows)
        if not lengths:
            raise ModelError("the mix holds no samples", where=str(mix))
        self.lengths_N = np.asarray(lengths, dtype=np.int64)
        self._prompts_N = np.asarray(prompts, dtype=np.int64)
        self._starts_N = np.concatenate([[0], np.cumsum(self.lengths_N)])
        self._tokens = np.memmap(work / "tokens.bin", dtype=np.int32, mode="r")

    def __len__(self) -> int:
        return len(self.lengths_N)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Tokens of one sample (int64) and how many of them are the prompt's."""
        span = slice(self._starts_N[index], self._starts_N[index + 1])
        return {"tokens": self._tokens[span].astype(np.int64), "prompt": int(self._prompts_N[index])}
