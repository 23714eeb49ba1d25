"""Batches of samples as tensors, and the loss on their answers.

Both kinds let the output layer work on answers alone: with short answers and a large vocabulary that saves a good part
of every step.

Shapes: B samples, L tokens with padding, T tokens of all samples of a batch, A positions that the output layer
works on, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_IGNORED = -100


class LeftPadded:
    """One row per sample with padding on the left, so that all answers end at the same place: A is the longest one's.

    Args:
        pad_token: Token to pad with.
        keeps_logits: Whether the model can be told which positions the output layer is to work on.
    """

    def __init__(self, pad_token: int, keeps_logits: bool) -> None:
        self._pad_token, self._keeps_logits = pad_token, keeps_logits

    def __call__(self, batches: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
        """`input_ids`, `attention_mask`, `position_ids` and `labels`, all [B, L] int64, and `logits_to_keep` (A)."""
        (samples,) = batches
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


class Packed:
    """One row for all samples, without padding. Positions restart with each sample; `packing` keeps attention apart.

    Args:
        keeps_logits: Whether the model can be told which positions the output layer is to work on.
    """

    def __init__(self, keeps_logits: bool) -> None:
        self._keeps_logits = keeps_logits

    def __call__(self, batches: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Any]:
        """`input_ids`, `position_ids` and `labels`, all [1, T] int64.

        `cu_seq_lens_q` and `cu_seq_lens_k` [B + 1] int32 hold where samples start and end, `logits_to_keep` [A] the
        positions just before the answers' tokens.
        """
        (samples,) = batches
        lengths_B = np.array([len(sample["tokens"]) for sample in samples])
        starts_B = np.cumsum(lengths_B) - lengths_B
        prompts_B = np.array([sample["prompt"] for sample in samples])
        tokens_T = np.concatenate([sample["tokens"] for sample in samples])
        positions_T = np.arange(len(tokens_T)) - np.repeat(starts_B, lengths_B)
        labels_T = np.where(positions_T < np.repeat(prompts_B, lengths_B), _IGNORED, tokens_T)
        bounds = torch.from_numpy(np.append(starts_B, len(tokens_T)).astype(np.int32))
        batch = {
            "input_ids": torch.from_numpy(tokens_T)[None],
            "position_ids": torch.from_numpy(positions_T)[None],
            "labels": torch.from_numpy(labels_T)[None],
            "cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds,
            "max_length_q": int(lengths_B.max()), "max_length_k": int(lengths_B.max()),
            "use_cache": False,
        }  # fmt: skip
        answers = torch.from_numpy(np.flatnonzero(labels_T != _IGNORED) - 1)
        return {**batch, "logits_to_keep": answers} if self._keeps_logits else batch


def padded_loss(outputs: Any, labels_BL: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """Mean cross-entropy over answer tokens (of all of a step's batches, where their number is given)."""
    logits_BAV = outputs.logits
    targets_BA = labels_BL[:, labels_BL.shape[1] - logits_BAV.shape[1] + 1 :]
    return _mean(logits_BAV[:, :-1].flatten(0, 1), targets_BA.flatten(), num_items_in_batch)


def packed_loss(outputs: Any, labels_1T: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
    """As `padded_loss`, for a packed row."""
    logits_AV, labels_T = outputs.logits[0], labels_1T[0]
    answers_A = torch.nonzero(labels_T != _IGNORED)[:, 0]
    if len(logits_AV) == len(labels_T):
        logits_AV = logits_AV[answers_A - 1]
    return _mean(logits_AV, labels_T[answers_A], num_items_in_batch)


def keeps_logits(network: Any) -> bool:
    """Whether the model can be told which positions its output layer is to work on."""
    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    return "logits_to_keep" in inspect.signature(base.forward).parameters


def _mean(logits_AV: Tensor, targets_A: Tensor, count: Tensor | int | None) -> Tensor:
    total = torch.nn.functional.cross_entropy(logits_AV.float(), targets_A, ignore_index=_IGNORED, reduction="sum")
    return total / ((targets_A != _IGNORED).sum() if count is None else count)
