"""Predictions for many rows: the one path that evaluation, prediction and serving take.

Legend: N rows, B batch.
"""

from __future__ import annotations

import numpy as np
import torch

from llmcf_cli.features.batch import Batch
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.model import RecModel


def predict(model: RecModel, data: TaskData, split: str, *, batch_size: int = 4096) -> np.ndarray:
    """Predictions for a split's samples, float32 [N], in their order.

    Args:
        model: A trained model; put into evaluation mode.
        data: Holds the split.
        split: Its name.
        batch_size: Samples per forward pass.
    """
    batch = data.batch(split, model.device, inputs=model.reads)
    return score(model, batch, batch_size).cpu().numpy()


@torch.inference_mode()
def score(model: RecModel, batch: Batch, batch_size: int) -> torch.Tensor:
    """Predictions for any rows in bounded memory, float32 [N] on the model's device; the one way to evaluate."""
    if model.training:
        model.eval()
    if not len(batch):
        return torch.zeros(0, device=model.device)
    positions_N = torch.arange(len(batch), device=model.device)
    return torch.cat([model(batch.take(index_B)).score_B for index_B in positions_N.split(batch_size)])
