"""Checks of `gpu.py`: tuning on the card."""

from __future__ import annotations

import math
import random
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from gpu_check import LANGUAGE, SEED, WORDS, Outcome, Setting

from llmcf_cli.core.progress import SilentProgress, Task
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.config import FullTuneConfig
from llmcf_cli.llm.mix.build import SCHEMA
from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.llm.tuning.epochs import plan_batches
from llmcf_cli.llm.tuning.estimate import model_shape, operations, planned_load
from llmcf_cli.llm.tuning.run import TuneReport
from llmcf_cli.llm.tuning.tokens import TokenisedMix
from llmcf_cli.llm.tuning.tune import tune
from llmcf_cli.recipe.library import launch_file

UTILISATION = 0.40
"""Least share of the card's peak that tuning must use."""
MEMORY = 2e9
"""Bytes of the card for a sample of 1,024 tokens in a step."""
PEAKS = {"H200": 989e12, "H100": 989e12, "GH200": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12,
         "A10G": 125e12, "4090": 165e12}  # fmt: skip
"""Dense bfloat16 operations per second, from the data sheets (SXM where there are several)."""


def tuning(setting: Setting) -> Outcome:
    """Tokens per second and model FLOPs utilisation of tuning in bfloat16 on packed samples of about 1,024 tokens.

    Steps are timed by `llm.tune.tune`'s own progress, the first fifth warms up. Operations are those of the estimate
    that `train-llm` prints: the output layer on answers alone, attention within samples. The figure is utilisation, of
    the data sheet's peak where the card is known, else of what a large matrix product reaches.
    """
    folder, weights = setting.model(LANGUAGE)
    length, rows = setting.sized(1024, 64), setting.sized(32, 2)
    if setting.device == "cuda":
        rows = max(1, min(rows, int(torch.cuda.get_device_properties().total_memory / MEMORY)))
    config = FullTuneConfig(
        batch_tokens=length * rows, max_length=length, max_steps=setting.sized(50, 6), schedule="constant",
        learning_rate=1e-2 if setting.quick else 1e-4, save_steps=10**6, precision="bf16",
    )  # fmt: skip
    work = setting.work / "tuning"
    steps = Steps(setting)
    report = _tuned(config, folder, work, steps)
    samples = TokenisedMix(work / "run")
    shape = model_shape(folder, config)
    batches = plan_batches(samples.lengths_N, config, derive_seed(SEED, "train-llm"))
    load = planned_load(samples, batches, config)
    seconds = steps.median()
    rate = operations(shape, load, config) / load.steps / seconds
    sheet, product = _peak(setting), _product_rate(setting)
    detail = {
        "weights": weights, "tokens_per_second": load.tokens / load.steps / seconds, "tokens_a_step": load.batch_tokens,
        "step_seconds": seconds, "steps": report.steps, "tflops": rate / 1e12, "of_product": rate / product,
        "product_tflops": product / 1e12, "peak_tflops": sheet / 1e12 if sheet else None,
        "loss": [report.loss[0][1], report.final_loss], "gpu_gb": _gpu_gb(setting), "card": _card(setting),
    }  # fmt: skip
    share = rate / (sheet or product)
    faults = [] if report.final_loss < report.loss[0][1] else ["the loss did not fall"]
    if setting.judged and share < UTILISATION:
        faults.append(f"uses {share:.0%} of the peak, less than {UTILISATION:.0%}")
    shutil.rmtree(work)
    return Outcome(share, UTILISATION, detail, faults)


def sharding(setting: Setting) -> Outcome:
    """Tuning by `accelerate launch` has the loss curve of tuning without: one process under FSDP and under ZeRO-2.

    accelerate shards on cards only; without one, two processes share the work by the configuration `cpu`. The figure is
    the largest difference of a loss, of its bound.
    """
    folder, weights = setting.model(LANGUAGE)
    length, bound = setting.sized(1024, 64), 1e-2
    launches = {"fsdp": "FSDP", "zero2": "DEEPSPEED"} if setting.device == "cuda" else {"cpu": "MULTI_CPU"}
    config = FullTuneConfig(
        batch_tokens=length * setting.sized(8, 2), max_length=length, max_steps=setting.sized(12, 3),
        gradient_accumulation=2, learning_rate=1e-4, save_steps=10**6,
        precision="bf16" if setting.device == "cuda" else "fp32",
    )  # fmt: skip
    plain = _tuned(config, folder, setting.work / "sharding" / "plain", SilentProgress())
    apart, rates, faults = {}, {"plain": plain.tokens_per_second}, []
    for name, kind in launches.items():
        work = setting.work / "sharding" / name
        try:
            report = _tuned(config, folder, work, SilentProgress(), launch=_launch(name, setting))
        except Exception as error:  # whatever accelerate, DeepSpeed or the card says; the other is tried all the same
            faults.append(f"{name}: {error}")
            continue
        finally:
            shutil.rmtree(work, ignore_errors=True)
        rates[name] = report.tokens_per_second
        pairs = zip(plain.loss, report.loss, strict=True)
        apart[name] = max(abs(one / other - 1) for (_, other), (_, one) in pairs)
        if apart[name] > bound:
            faults.append(f"{name}: a loss is {apart[name]:.1%} from that of tuning without it")
        if report.distributed != kind:
            faults.append(f"{name}: accelerate ran it as {report.distributed}, not as {kind}")
    detail = {"weights": weights, "tokens_per_second": rates, "largest_difference": apart, "bound": bound}
    return Outcome(max(apart.values(), default=float("inf")) / bound, 1.0, detail, faults)


class Steps(SilentProgress):
    """Notes when each step of tuning ends."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._ends = setting, []

    @contextmanager
    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> Iterator[Task]:
        """A task, which is timed if its units are steps."""
        with super().task(name, total, unit, done) as silent:
            yield _Timed(self._setting, self._ends) if unit == "steps" else silent

    def median(self) -> float:
        """Seconds of a step, after a fifth to warm up."""
        return statistics.median(np.diff(self._ends)[len(self._ends) // 5 :])


@dataclass
class _Timed:
    """A task that notes when it advances."""

    setting: Setting
    ends: list[float]

    def advance(self, amount: float = 1) -> None:
        self.setting.synchronise()
        self.ends.append(time.perf_counter())

    def skip(self, amount: float) -> None:
        """Nothing is resumed."""

    def measured(self, step: int, values: object) -> None:
        """Nobody reads it."""

    def note(self, text: str) -> None:
        """Nobody reads it."""


def _tuned(config: FullTuneConfig, folder: Path, work: Path, progress: Any, launch: Path | None = None) -> TuneReport:
    """Tune on a mix that is long enough for the steps."""
    work.mkdir(parents=True)
    mix = work / "mix.parquet"
    _write_mix(mix, config, load_tokenizer(folder))
    return tune(
        config, model=folder, mix=mix, out=work / "out", work=work / "run", seed=SEED, progress=progress, launch=launch
    )


def _write_mix(file: Path, config: FullTuneConfig, tokenizer: Any) -> None:
    """Samples of nearly `max_length` tokens, a quarter of them answer."""
    chance = random.Random(SEED)
    per_word = len(tokenizer(" ".join(WORDS))["input_ids"]) / len(WORDS)
    # Less what the chat template adds, and three standard deviations of the words' tokens.
    words = int((config.max_length - 24 - 3 * config.max_length**0.5) / per_word)
    tokens = config.batch_tokens * config.gradient_accumulation
    count = math.ceil(1.5 * (config.max_steps + 1) * tokens / (words * per_word))
    rows = [
        {"prompt": [{"role": "user", "content": " ".join(chance.choices(WORDS, k=max(words * 3 // 4, 1)))}],
         "completion": [{"role": "assistant", "content": " ".join(chance.choices(WORDS, k=max(words // 4, 1)))}],
         "source": "benchmark", "prompt_tokens": 0, "completion_tokens": 0}
        for _ in range(count)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), file)


def _launch(name: str, setting: Setting) -> Path:
    """The library's configuration of `accelerate launch`; on a card, with one process."""
    file = launch_file(name)
    if setting.device == "cpu":
        return file
    found = yaml.safe_load(file.read_text(encoding="utf-8")) | {"num_processes": 1}
    mine = setting.work / f"{name}.yaml"
    mine.write_text(yaml.safe_dump(found), encoding="utf-8")
    return mine


def _card(setting: Setting) -> str | None:
    return torch.cuda.get_device_name() if setting.device == "cuda" else None


def _gpu_gb(setting: Setting) -> float | None:
    return torch.cuda.max_memory_allocated() / 1e9 if setting.device == "cuda" else None


def _peak(setting: Setting) -> float | None:
    """The card's dense bfloat16 peak; None: it is not in the table."""
    card = _card(setting) or ""
    return next((peak for name, peak in PEAKS.items() if name in card), None)


def _product_rate(setting: Setting) -> float:
    """Operations per second that a large matrix product in bfloat16 reaches."""
    size = setting.sized(8192, 256)
    left, right = (torch.randn(size, size, device=setting.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    setting.synchronise()
    begun = time.perf_counter()
    for _ in range(10):
        left @ right
    setting.synchronise()
    return 10 * 2.0 * size**3 / (time.perf_counter() - begun)
