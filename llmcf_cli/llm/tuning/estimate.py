"""What tuning will need, from the model's shape and the planned batches, before anything large is loaded.

N parameters of which Nt are trained, T tokens of the largest batch, A positions that its output layer works on, V
vocabulary. In bytes:

    weights 4 N + gradients 4 Nt + AdamW's two moments 8 Nt + copies in bf16 2 N
    + activations kept for the backward pass, layer by layer (with checkpointing: each layer's input, and one layer)
    + logits, their softmax and gradients

Floating-point operations (Kaplan et al., 2020, section 2.1): 6 per parameter and token (2 forward, 4 backward), the
output layer counted on A alone, plus attention, 6 · layers · width · Σ length² for causal samples.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.config import AdapterTuneConfig, QLoraTuneConfig, TuneConfig
from llmcf_cli.llm.models.load import best_device, settings_of
from llmcf_cli.llm.tuning.tokens import TokenisedMix

_REACHED = 0.6  # share of a matrix product's speed that whole steps reach
_CPU_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CPU_USED = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True)
class Shape:
    """A model as far as memory and time go.

    Attributes:
        parameters: N.
        trained: Nt.
        layers: Transformer layers.
        width: Dimension of the hidden states.
        attention: Dimension of all query heads together.
        keys: Dimension of all key heads together.
        inner: Dimension inside the feed-forward layers.
        vocabulary: V.
    """

    parameters: int
    trained: int
    layers: int
    width: int
    attention: int
    keys: int
    inner: int
    vocabulary: int


@dataclass(frozen=True)
class Load:
    """The planned work.

    Attributes:
        batch_tokens: T, padding included.
        batch_answers: A.
        tokens: Tokens of all batches, padding included.
        answers: Positions of all batches that the output layer works on.
        squares: Σ length² over all samples of all batches.
        steps: Optimiser steps.
    """

    batch_tokens: int
    batch_answers: int
    tokens: int
    answers: int
    squares: int
    steps: int


@dataclass(frozen=True)
class Estimate:
    """What a process needs, and what there is for it.

    Attributes:
        shape: The model.
        load: The work.
        memory: Bytes at the peak.
        available: Bytes free for this process.
        device: `cpu` or `cuda`.
        seconds: Time of all steps.
    """

    shape: Shape
    load: Load
    memory: float
    available: float
    device: str
    seconds: float

    def __str__(self) -> str:
        kind = "GPU memory" if self.device == "cuda" else "memory"
        return (
            f"train-llm: {self.shape.trained / 1e6:,.1f} of {self.shape.parameters / 1e6:,.1f} million parameters, "
            f"{self.load.steps:,} steps over {self.load.tokens:,} tokens, largest batch {self.load.batch_tokens:,} "
            f"tokens: about {self.memory / 1e9:.1f} GB of {kind} ({self.available / 1e9:.1f} GB free) and "
            f"{_duration(self.seconds)}"
        )


@dataclass(frozen=True)
class Sharding:
    """Over how many processes weights, and gradients with the optimiser's state, are divided."""

    weights: int = 1
    state: int = 1


def model_shape(folder: Path, config: TuneConfig) -> Shape:
    """The shape of a folder's model, without loading its weights."""
    from transformers import AutoModelForCausalLM

    settings = settings_of(folder)
    with torch.device("meta"):
        network = AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    text = settings.get_text_config()
    heads = text.num_attention_heads
    head = getattr(text, "head_dim", None) or text.hidden_size // heads
    parameters = sum(p.numel() for p in network.parameters())
    trained = _adapter_parameters(network, config) if isinstance(config, AdapterTuneConfig) else parameters
    return Shape(
        parameters, trained, text.num_hidden_layers, text.hidden_size, heads * head,
        (getattr(text, "num_key_value_heads", None) or heads) * head,
        getattr(text, "intermediate_size", None) or 4 * text.hidden_size, text.vocab_size,
    )  # fmt: skip


def planned_load(samples: TokenisedMix, batches: Sequence[np.ndarray], config: TuneConfig) -> Load:
    """The work of the planned batches, as far as `max_steps` goes."""
    steps = -(-len(batches) // config.gradient_accumulation)
    if config.max_steps is not None and config.max_steps < steps:
        steps = config.max_steps
        batches = batches[: steps * config.gradient_accumulation]
    tokens, answers, squares = [], [], 0
    for batch in batches:
        index = np.where(batch < 0, -1 - batch, batch)
        lengths_B = samples.lengths_N[index]
        answers_B = lengths_B - samples.prompts_N[index]
        padded = config.packing == "none"
        tokens.append(int(lengths_B.max()) * len(batch) if padded else int(lengths_B.sum()))
        answers.append((int(answers_B.max()) + 1) * len(batch) if padded else int(answers_B.sum()))
        squares += int((lengths_B**2).sum())
    return Load(max(tokens), max(answers), sum(tokens), sum(answers), squares, steps)


def memory_needed(shape: Shape, load: Load, config: TuneConfig, precision: str, sharded: Sharding) -> float:
    """Bytes that one process needs at its peak; see the module's formula."""
    size = 2 if precision == "bf16" else 4
    weights: float = 4 * shape.parameters
    if isinstance(config, QLoraTuneConfig):
        rest = 2 * shape.vocabulary * shape.width
        weights = 4 * rest + 0.55 * max(shape.parameters - rest, 0)  # 4 bits and the scales
    copies = 2 * shape.parameters if precision == "bf16" else 0
    norms = 6 * shape.width
    layer = 4 * norms + size * (3 * shape.attention + 2 * shape.keys + 4 * shape.inner)
    if config.gradient_checkpointing:
        activations = load.batch_tokens * (4 * shape.width * shape.layers + layer)
    else:
        activations = load.batch_tokens * layer * shape.layers
    logits = load.batch_answers * shape.vocabulary * (12 + (size if size == 2 else 0))
    state = 12 * shape.trained
    return weights / sharded.weights + state / sharded.state + copies + activations + logits


def estimate(
    folder: Path, config: TuneConfig, samples: TokenisedMix, batches: Sequence[np.ndarray], precision: str, *,
    processes: int = 1, sharded: Sharding = Sharding(),
) -> Estimate:  # fmt: skip
    """What tuning a folder's model with the planned batches needs.

    Raises:
        ModelError: It does not fit; says which changes make it fit, and what each would need.
    """
    shape, load = model_shape(folder, config), planned_load(samples, batches, config)
    device = best_device()
    share = processes if device.type == "cpu" else 1
    available = _available(device) / share
    needed = memory_needed(shape, load, config, precision, sharded)
    if needed > available:
        raise _too_large(shape, load, config, precision, sharded, needed, available, device.type)
    return Estimate(shape, load, needed, available, device.type, _seconds(shape, load, config, precision, processes))


def _too_large(
    shape: Shape, load: Load, config: TuneConfig, precision: str, sharded: Sharding, needed: float, available: float,
    device: str,
) -> ModelError:  # fmt: skip
    def with_(changed: TuneConfig, tokens: float = 1.0, trained: int | None = None) -> float:
        smaller = replace(
            load, batch_tokens=int(load.batch_tokens * tokens), batch_answers=int(load.batch_answers * tokens)
        )
        return memory_needed(replace(shape, trained=trained or shape.trained), smaller, changed, precision, sharded)

    changes: list[tuple[str, float]] = []
    if config.batch_size > 1 or config.batch_tokens:
        fewer = f"tokens {config.batch_tokens // 2}" if config.batch_tokens else f"size {config.batch_size // 2}"
        changes.append(
            (
                f"llm.tune.batch_{fewer} with gradient_accumulation {2 * config.gradient_accumulation}",
                with_(config, 0.5),
            )
        )
    changes.append((f"llm.tune.max_length {config.max_length // 2}", with_(config, 0.5)))
    if not config.gradient_checkpointing:
        changed = config.model_copy(update={"gradient_checkpointing": True})
        changes.append(("llm.tune.gradient_checkpointing true", with_(changed)))
    if not isinstance(config, AdapterTuneConfig):
        changes.append(("llm.tune.type lora", with_(config, trained=max(shape.parameters // 100, 1))))
    options = [f"{what} (about {bytes_ / 1e9:.1f} GB)" for what, bytes_ in changes if bytes_ < needed]
    what = "GPU memory" if device == "cuda" else "memory"
    return ModelError(
        f"tuning needs about {needed / 1e9:.1f} GB of {what}; {available / 1e9:.1f} GB are free",
        code="tuning-memory", where="llm.tune",
        hint="make it smaller: " + "; ".join(options),
    )  # fmt: skip


def _adapter_parameters(network: Any, config: AdapterTuneConfig) -> int:
    head = network.get_output_embeddings()
    linear = [
        (name.rpartition(".")[2], module) for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]  # fmt: skip
    chosen = [module for name, module in linear if not config.modules or name in config.modules]
    return sum(config.rank * (module.in_features + module.out_features) for module in chosen)


def _available(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    import psutil

    free = float(psutil.virtual_memory().available)
    try:
        limit = float(_CPU_LIMIT.read_text()) - float(_CPU_USED.read_text())
    except (OSError, ValueError):  # no such limit
        return free
    return min(free, limit)


def operations(shape: Shape, load: Load, config: TuneConfig) -> float:
    """Floating-point operations of the planned batches; see the module's formula."""
    head = shape.vocabulary * shape.width
    body = shape.layers * shape.width * (2 * shape.attention + 2 * shape.keys + 3 * shape.inner)
    work = 6.0 * (body * load.tokens + head * load.answers) + 6.0 * shape.layers * shape.attention * load.squares
    if isinstance(config, AdapterTuneConfig):
        work *= 2 / 3  # the weights themselves have no gradient
    if config.gradient_checkpointing:
        work *= 4 / 3
    return work


def _seconds(shape: Shape, load: Load, config: TuneConfig, precision: str, processes: int) -> float:
    work = operations(shape, load, config)
    return work / (_REACHED * _speed(shape, precision) * processes)


def _speed(shape: Shape, precision: str) -> float:
    """Floating-point operations per second of a matrix product of the model's own size."""
    device = best_device()
    rows = 8192 if device.type == "cuda" else 512
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    left = torch.randn(rows, shape.width, device=device, dtype=dtype)
    right = torch.randn(shape.width, shape.inner, device=device, dtype=dtype)
    product, count = left @ right, 0
    begun = time.perf_counter()
    while count < 3 or time.perf_counter() - begun < 0.05:
        product = left @ right
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    del product
    return 2 * rows * shape.width * shape.inner * count / (time.perf_counter() - begun)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
