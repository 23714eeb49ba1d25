"""Checks of `gpu.py`: recommenders on the card.

Legend: N rows, B batch.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from gpu_check import Outcome, Setting
from synthetic import Size, task_data, with_all_inputs
from torch import Tensor

from llmcf_cli.plugin import registry
from llmcf_cli.rec.config import (
    BCEConfig,
    CoTReconstructionConfig,
    DeepFMConfig,
    ICTConfig,
    NoneConfig,
    RankingConfig,
    TextConfig,
)
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.component import names_for
from llmcf_cli.recipe.sections import FitSection

LOGITS, GRADIENTS, BATCHES = 1e-5, 3e-4, 8
"""Bounds of float32 against float64: of a logit, of the largest logit; of a parameter's gradient, of its norm.

Gradients are those of several batches, and their median counts: where rounding decides on which side of zero a ReLU's
input is, the gradient of its row jumps, which is nobody's fault.
"""
ARMS = {
    "none": (NoneConfig(), (BCEConfig(),)), "text": (TextConfig(), (BCEConfig(),)),
    "ict": (ICTConfig(), (BCEConfig(), CoTReconstructionConfig())),
}  # fmt: skip
Computed = tuple[Tensor, list[dict[str, Tensor]]]
"""Logits of all rows [N], and for each batch the gradient of every parameter: float64, on the CPU."""


def core(setting: Setting) -> Outcome:
    """Logits and gradients of every backbone with every augmenter and objective, on the device and in float64.

    The reference is computed on the CPU, and so is a second column in float32, for scale. The figure is the largest
    difference, of its bound.
    """
    data = with_all_inputs(task_data(Size(setting.sized(20_000, 1_000), users=200, items=300, examples=64)))
    pairs = _pairs(*(names_for(kind, RankingConfig()) for kind in ("backbone", "augmenter")), every=not setting.quick)
    rows = setting.sized(1024, 128)
    exact = {pair: _computed(data, *pair, rows, "cpu", torch.float64) for pair in pairs}
    found = {
        device: {pair: _apart(_computed(data, *pair, rows, device, torch.float32), exact[pair]) for pair in pairs}
        for device in dict.fromkeys((setting.device, "cpu"))
    }
    apart = found[setting.device]
    shares = {pair: max(logits / LOGITS, gradients / GRADIENTS) for pair, (logits, gradients) in apart.items()}
    worst = max(shares, key=lambda pair: shares[pair])
    detail = {
        "pairs": len(pairs), "rows": rows, "bounds": {"logits": LOGITS, "gradients": GRADIENTS},
        **{device: {"logits": max(a for a, _ in pairs.values()), "gradients": max(b for _, b in pairs.values())}
           for device, pairs in found.items()},
        "worst": " with ".join(worst),
    }  # fmt: skip
    faults = [f"{backbone} with {augmenter}: logits {apart[backbone, augmenter][0]:.1e} and gradients "
              f"{apart[backbone, augmenter][1]:.1e} apart" for (backbone, augmenter), share in shares.items()
              if not share <= 1]  # fmt: skip
    return Outcome(shares[worst], 1.0, detail, faults)


def epoch(setting: Setting) -> Outcome:
    """Seconds of an epoch of DeepFM alone, with `text` and with `ict`, in batches of 4,096, by `rec.fit.fit`.

    The figure is `ict` to `none`. The first epoch warms up.
    """
    train, batch = setting.sized(400_000, 2_000), setting.sized(4096, 512)
    data = task_data(Size(train, examples=train // 10))
    epochs = 4 if setting.judged else 2
    section = FitSection(batch_size=batch, epochs=epochs, patience=epochs)
    seconds, faults = {}, []
    for arm, (augment, objectives) in ARMS.items():
        model = RecModel(data.resources, DeepFMConfig(), augment, objectives)
        with tempfile.TemporaryDirectory(dir=setting.work) as work:
            report = fit(model, data, section, seed=0, work=Path(work))
        seconds[arm] = statistics.median(one.seconds for one in report.epochs[1:])
        if model.device.type != setting.device:
            faults.append(f"{arm} trained on {model.device}")
        if not report.epochs[-1].loss < report.epochs[0].loss:
            faults.append(f"{arm} learned nothing: loss {report.epochs[0].loss:.4f}, then {report.epochs[-1].loss:.4f}")
    detail = {
        "samples": train, "batch": batch, "seconds": seconds,
        "samples_per_second": {arm: train / value for arm, value in seconds.items()},
    }  # fmt: skip
    return Outcome(seconds["ict"] / seconds["none"], None, detail, faults)


def _pairs(first: Sequence[str], second: Sequence[str], *, every: bool) -> list[tuple[str, str]]:
    """All pairs, or so many that each name is in one."""
    if every:
        return list(itertools.product(first, second))
    count = max(len(first), len(second))
    return [(first[n % len(first)], second[n % len(second)]) for n in range(count)]


def _apart(ours: Computed, exact: Computed) -> tuple[float, float]:
    """How far logits and gradients are from the reference: as shares of the largest logit, and of a gradient's norm."""
    logits = float((ours[0] - exact[0]).abs().max() / exact[0].abs().max())
    batches = zip(ours[1], exact[1], strict=True)
    return logits, statistics.median(_gradients_apart(one, other) for one, other in batches)


def _gradients_apart(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    """The largest difference of a parameter's gradient, of its norm; rounding decides what is near 0."""
    whole = math.sqrt(sum(float(grad.square().sum()) for grad in exact.values()))
    return max(
        float((ours[name] - grad).norm()) / max(float(grad.norm()), 1e-3 * whole) for name, grad in exact.items()
    )


def _computed(data: TaskData, backbone: str, augmenter: str, rows: int, device: str, dtype: torch.dtype) -> Computed:
    """What the same weights make of the first rows of the train split."""
    objectives = [_default("objective", name) for name in names_for("objective", RankingConfig())]
    model = RecModel(data.resources, _default("backbone", backbone), _default("augmenter", augmenter), objectives)
    torch.manual_seed(0)
    for parameter in model.parameters():  # away from the start, where zero weights hide what lies behind them
        parameter.data += 0.05 * torch.randn_like(parameter)
    model.prepare(data.batch("train", inputs=model.reads))
    model = model.to(device).train()
    if dtype is torch.float64:
        model = model.double()  # what is complex stays, unlike with `to`
    whole = data.batch("train", device, inputs=model.reads)
    assert whole.target_B is not None
    inputs = {name: x.to(dtype) if x.is_floating_point() else x for name, x in whole.inputs.items()}
    whole = dataclasses.replace(whole, target_B=whole.target_B.to(dtype), inputs=inputs)
    logits, gradients = [], []
    for index_B in torch.arange(rows, device=device).chunk(BATCHES):
        model.zero_grad()
        batch = whole.take(index_B)
        output = model(batch)
        model.loss(output, batch.targets).backward()
        logits.append(output.score_B.detach().double().cpu())
        gradients.append({name: p.grad.double().cpu() for name, p in model.named_parameters() if p.grad is not None})
    return torch.cat(logits), gradients


def _default(kind: str, name: str) -> Any:
    return registry().get(kind, name).config()()
