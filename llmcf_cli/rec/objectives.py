"""Training losses, which compose with any backbone and augmenter.

Legend: B batch, K examples, T text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional

from llmcf_cli.rec.augment.base import COT_AUX, CoTPrediction
from llmcf_cli.rec.config import BCEConfig, CoTReconstructionConfig


class Objective(ABC):
    """One loss. Built as `Class(config)`.

    Attributes:
        weight: Factor in the sum of losses.
        reads: Auxiliary outputs of the augmenter that it needs; where they are missing, it does not apply to that arm.
    """

    reads: frozenset[str] = frozenset()

    def __init__(self, config: BCEConfig | CoTReconstructionConfig) -> None:
        self.weight = config.weight

    @abstractmethod
    def __call__(self, logits_B: Tensor, label_B: Tensor, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """The unweighted loss, a scalar: a mean over the batch."""


class BCE(Objective):
    """−mean(y log σ(z) + (1 − y) log(1 − σ(z)))."""

    def __call__(self, logits_B: Tensor, label_B: Tensor, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """Mean over the batch."""
        return functional.binary_cross_entropy_with_logits(logits_B, label_B)


class CoTReconstruction(Objective):
    """mean over examples of 1 − cos(W·h at x_k, cot_k) (LLM-CF, CIKM 2024)."""

    reads = frozenset({COT_AUX})

    def __call__(self, logits_B: Tensor, label_B: Tensor, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """Mean over the batch's existing examples; 0 if there are none."""
        cot = aux[COT_AUX]
        return ((1 - cot.cosine_BK()) * cot.mask_BK).sum() / cot.mask_BK.sum().clamp_min(1)


def total_loss(
    objectives: Sequence[Objective], logits_B: Tensor, label_B: Tensor, aux: Mapping[str, CoTPrediction]
) -> Tensor:
    """Weighted sum of the objectives whose auxiliary outputs exist."""
    parts = [o.weight * o(logits_B, label_B, aux) for o in objectives if o.reads <= aux.keys()]
    return sum(parts, start=logits_B.new_zeros(()))
