"""Predictions for many rows: the one path that evaluation, prediction and serving take.

Legend: N rows, B batch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from llmcf_cli.features.batch import Batch
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.recommender import Recommender


def predict(model: Recommender, data: TaskData, split: str, *, batch_size: int = 4096) -> np.ndarray:
    """Predictions for a split's samples, [N, …], in their order.

    Args:
        model: A trained model; put into evaluation mode.
        data: Holds the split.
        split: Its name.
        batch_size: Samples per forward pass.
    """
    batch = data.batch(split, model.device, inputs=model.reads)
    return predictions(model, batch, batch_size).cpu().numpy()


@torch.inference_mode()
def score(model: Recommender, batch: Batch, batch_size: int) -> torch.Tensor:
    """Scores of any rows in bounded memory, float32 [N] on the model's device: how well each row's item suits."""
    return _blocks(model, model.score, (), batch, batch_size)


@torch.inference_mode()
def predictions(model: Recommender, batch: Batch, batch_size: int) -> torch.Tensor:
    """What the task measures of any rows, in bounded memory, [N, …] on the model's device; the one way to evaluate."""
    return _blocks(model, model.predict, model.predicted, batch, batch_size)


def _blocks(
    model: Recommender, compute: Callable[[Batch], torch.Tensor], shape: tuple[int, ...], batch: Batch, batch_size: int
) -> torch.Tensor:  # fmt: skip
    if model.training:
        model.eval()
    if not len(batch):
        return torch.zeros((0, *shape), device=model.device)
    positions_N = torch.arange(len(batch), device=model.device)
    return torch.cat([compute(batch.take(index_B)) for index_B in positions_N.split(batch_size)])
