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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from llmcf_cli.core.errors import LlmcfError, ModelError, StoreError
from llmcf_cli.core.hashing import digest_json, digest_path
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed, seed_everything
from llmcf_cli.core.types import key_view
from llmcf_cli.llm.config import AdapterTuneConfig, QLoraTuneConfig, TuneConfig
from llmcf_cli.llm.models.load import context_length, load_causal_lm, load_tokenizer, resolved_precision, save_model
from llmcf_cli.llm.tuning.adapters import merged, with_adapters
from llmcf_cli.llm.tuning.epochs import plan_batches
from llmcf_cli.llm.tuning.estimate import Sharding, estimate
from llmcf_cli.llm.tuning.run import TuneReport, TuneRun
from llmcf_cli.llm.tuning.tokens import TokenisedMix, tokenise

STAMP = "tune.json"
"""File in the work folder that says which run its checkpoints belong to."""

_LOSS_POINTS = 200  # points of the loss curve that a report keeps


def tune(
    config: TuneConfig, *, model: Path, mix: Path, out: Path, work: Path, seed: int, progress: Progress = SILENT,
    launch: Path | None = None,
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
        launch: Settings of `accelerate launch`, whose processes share the work; None: this process does it.

    Raises:
        ModelError: The model does not fit into memory, or the loss is no longer a finite number; the last checkpoint
            stays.
        StoreError: The disk is too full for a checkpoint and the result.
        KeyboardInterrupt: Ctrl-C, after the checkpoint of the current step.
    """
    begun = time.monotonic()
    seed = derive_seed(seed, "train-llm")
    run = TuneRun(config, model, out, work, seed, resolved_precision(config.precision))
    _check_device(config)
    sharded = Sharding()
    if launch is not None:
        from llmcf_cli.llm.tuning.launch import read_launch

        settings = read_launch(launch)
        run, sharded = replace(run, processes=settings.processes), settings.sharding
    _check_division(run, sharded)
    tokenizer = load_tokenizer(model)
    _claim(work, _stamp(run, mix), progress)
    tokenise(mix, work, tokenizer, min(config.max_length, context_length(model, tokenizer)), progress)
    samples = TokenisedMix(work)
    batches = plan_batches(samples.lengths_N, config, seed, run.processes)
    expected = estimate(
        model, config, samples, batches, run.precision, processes=run.processes, sharded=sharded
    )  # fmt: skip
    progress.say(str(expected))
    if launch is None:
        report = fit(run, progress)
    else:
        from llmcf_cli.llm.tuning.launch import fit_launched

        report = fit_launched(run, launch, progress)
    return replace(report, seconds=time.monotonic() - begun, expected=str(expected))


def fit(run: TuneRun, progress: Progress = SILENT) -> TuneReport:
    """Train and save, as this process's part of a run whose tokens are in its work folder; see `tune`."""
    config, begun = run.config, time.monotonic()
    tokenizer, samples = load_tokenizer(run.model), TokenisedMix(run.work)
    seed_everything(run.seed)
    if isinstance(config, AdapterTuneConfig):
        network = with_adapters(run.model, config)
    else:
        network = load_causal_lm(run.model, torch.float32)
    from llmcf_cli.llm.tuning.trainer import build_trainer

    with _interrupt_flag(progress) as interrupted:
        trainer = build_trainer(
            config, network, tokenizer, samples, plan_batches(samples.lengths_N, config, run.seed, run.processes),
            work=run.work, seed=run.seed, precision=run.precision, processes=run.processes, interrupted=interrupted,
            progress=progress,
        )  # fmt: skip
        checkpoint = last_checkpoint(run.work)
        if trainer.is_world_process_zero():
            _check_saving(network, tokenizer, run.work, run.out)
        if checkpoint:
            progress.say(f"resuming train-llm from {checkpoint.name}")
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        finally:
            trainer.watch.close()
        if interrupted.is_set():
            raise KeyboardInterrupt
    return _finish(run, trainer, tokenizer, checkpoint, begun)


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


def _finish(run: TuneRun, trainer: Any, tokenizer: Any, checkpoint: Path | None, begun: float) -> TuneReport:
    network = trainer.accelerator.unwrap_model(trainer.model)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    weights = None
    if isinstance(run.config, AdapterTuneConfig):
        network = merged(network, run.model, run.config)
    elif run.processes > 1:
        weights = trainer.accelerator.get_state_dict(trainer.model)  # of all processes, where they share the weights
    if trainer.is_world_process_zero():
        save_model(network, tokenizer, run.out, weights)
    curve = [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    tail = [loss for _, loss in curve[-max(1, len(curve) // 10) :]]
    tokens = run.processes * trainer.trained_tokens  # all processes have alike
    return TuneReport(
        samples=len(trainer.train_dataset), steps=trainer.state.global_step,
        resumed_from=int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0, tokens=tokens,
        tokens_per_second=tokens / max(trainer.watch.seconds, 1e-9), seconds=time.monotonic() - begun,
        precision=run.precision, trained_parameters=trained, final_loss=sum(tail) / max(1, len(tail)),
        loss=curve[:: max(1, -(-len(curve) // _LOSS_POINTS))], processes=run.processes,
        distributed=trainer.accelerator.distributed_type.value,
    )  # fmt: skip


def _check_device(config: TuneConfig) -> None:
    if not isinstance(config, QLoraTuneConfig):
        return
    import importlib.util

    if not torch.cuda.is_available():
        raise ModelError("qlora needs a CUDA device, and none was found", code="gpu-missing", where="llm.tune.type",
                         hint="set llm.tune.type: lora")  # fmt: skip
    if importlib.util.find_spec("bitsandbytes") is None:
        raise LlmcfError("qlora needs the package bitsandbytes", code="package-needed", where="llm.tune.type",
                         hint="pip install bitsandbytes, or set llm.tune.type: lora")  # fmt: skip


def _check_division(run: TuneRun, sharded: Sharding) -> None:
    if sharded.weights > 1 and isinstance(run.config, AdapterTuneConfig):
        raise LlmcfError("adapters cannot be merged into weights sharded over processes",
                         code="adapters-sharded", where="llm.tune.type",
                         hint="launch with ddp or zero2, or set llm.tune.type: full")  # fmt: skip
    if run.config.gradient_accumulation % run.processes:
        raise LlmcfError(
            f"{run.processes} processes cannot share the {run.config.gradient_accumulation} forward passes of a step",
            code="processes-uneven", where="llm.tune.gradient_accumulation",
            hint=f"set llm.tune.gradient_accumulation to a multiple of {run.processes}",
        )  # fmt: skip


def _stamp(run: TuneRun, mix: Path) -> dict[str, Any]:
    mix_digest = digest_json([pq.read_schema(mix).names, digest_path(mix)])
    return {
        "config": key_view(run.config, str), "mix": mix_digest, "model": digest_path(run.model), "seed": run.seed,
        "precision": run.precision, "processes": run.processes,
    }  # fmt: skip


def _claim(work: Path, stamp: dict[str, Any], progress: Progress) -> None:
    """Empty the work folder unless its stamp says that it is this very run's."""
    file = work / STAMP
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if found == stamp:
        return
    if last_checkpoint(work):
        known = found if isinstance(found, dict) else {}
        changed = [name for name in stamp if known.get(name) != stamp[name]]
        progress.say(f"the checkpoints in {work} are of another {', '.join(changed)}; train-llm starts over")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(stamp, indent=1), encoding="utf-8")


def _check_saving(network: Any, tokenizer: Any, work: Path, out: Path) -> None:
    """Fail before the first long step, not after the last, if the model cannot be saved or the disk is too full."""
    weights = sum(p.numel() * 4 for p in network.parameters())
    trained = sum(p.numel() * 4 for p in network.parameters() if p.requires_grad)
    needed = weights + 2 * (weights + 2 * trained)  # the result, and two checkpoints with Adam's two moments
    out.parent.mkdir(parents=True, exist_ok=True)
    free = min(shutil.disk_usage(folder).free for folder in (work, out.parent))
    if free < needed:
        raise StoreError(
            f"tuning needs {needed / 1e9:.1f} GB for checkpoints and the result; {free / 1e9:.1f} GB are free",
            code="disk-full", where=str(work), hint="free some disk space, or tune with {type: lora}",
        )  # fmt: skip
    trial = work / "trial"
    try:
        save_model(network, tokenizer, trial)
    except Exception as error:  # whatever the library or the disk raises
        raise ModelError(f"the model cannot be saved: {error}", code="model-unsaved", where=str(trial)) from error
    finally:
        shutil.rmtree(trial, ignore_errors=True)


@contextmanager
def _interrupt_flag(progress: Progress) -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag, so that the current step ends with a checkpoint; a second one interrupts."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def note(number: int, frame: Any) -> None:
        if flag.is_set():
            raise KeyboardInterrupt
        flag.set()
        progress.say("stopping after this step with a checkpoint; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)
