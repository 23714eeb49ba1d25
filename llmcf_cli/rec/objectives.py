"""Training losses, which compose with any backbone and augmenter.

Legend: B batch, K examples, T text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.features.batch import Targets
from llmcf_cli.plugin import Kind
from llmcf_cli.rec.augment.base import COT_AUX, CoTPrediction
from llmcf_cli.rec.config import DistillConfig


class ObjectiveSettings(Protocol):
    """What the configuration of every objective has."""

    @property
    def weight(self) -> float: ...


class Objective(ABC):
    """One loss. Built as `Class(config)`.

    Attributes:
        weight: Factor in the sum of losses.
        reads: Auxiliary outputs of the augmenter that it needs; where they are missing, it does not apply to that arm.
    """

    reads: frozenset[str] = frozenset()

    def __init__(self, config: ObjectiveSettings) -> None:
        self.weight = config.weight

    @abstractmethod
    def __call__(self, score_B: Tensor, targets: Targets, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """The unweighted loss, a scalar: a mean over the batch.

        Args:
            score_B: What the model predicts; of labels, their logits.
            targets: What is so.
            aux: The augmenter's auxiliary outputs.
        """


OBJECTIVE: Kind[Objective] = Kind("objective")


class BCE(Objective):
    """−mean(y log σ(z) + (1 − y) log(1 − σ(z)))."""

    def __call__(self, score_B: Tensor, targets: Targets, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """Mean over the batch."""
        return functional.binary_cross_entropy_with_logits(score_B, targets.target_B)


class Distill(Objective):
    """τ² · mean over scored rows of KL(σ(t/τ) ‖ σ(z/τ)), t the teacher's logit and z the model's.

    Its gradient is τ · (σ(z/τ) − σ(t/τ)) per row, that of the cross-entropy: τ² keeps its size comparable to the other
    losses' whatever the temperature (Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015).
    Rows without a teacher's score do not count.

    Raises:
        ModelError: The batch has no teacher's scores at all.
    """

    def __init__(self, config: DistillConfig) -> None:
        super().__init__(config)
        self.temperature = config.temperature

    def __call__(self, score_B: Tensor, targets: Targets, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """Mean over the batch's scored rows; 0 if there are none."""
        if (asked_B := targets.inputs.get("teacher")) is None:
            raise ModelError(
                "needs the language model's scores",
                code="input-missing",
                where="objective distill",
                hint="llmcf teacher RECIPE",
            )
        scored_B = ~asked_B.isnan()
        model_B, teacher_B = score_B / self.temperature, asked_B.nan_to_num() / self.temperature
        # KL of Bernoullis by their logits: p·(t − z) + softplus(z) − softplus(t), finite for any t and z.
        gap_B = functional.softplus(model_B) - functional.softplus(teacher_B)
        divergence_B = gap_B + teacher_B.sigmoid() * (teacher_B - model_B)
        return self.temperature**2 * (divergence_B * scored_B).sum() / scored_B.sum().clamp_min(1)


class AuxiliaryObjective(Objective):
    """A loss of auxiliary outputs alone, whatever is predicted: for models of any form."""

    def __call__(self, score_B: Tensor, targets: Targets, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """Of the auxiliary outputs."""
        return self.of(aux)

    @abstractmethod
    def of(self, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """The unweighted loss, a scalar."""


class CoTReconstruction(AuxiliaryObjective):
    """mean over examples of 1 − cos(W·h at x_k, cot_k) (LLM-CF, CIKM 2024)."""

    reads = frozenset({COT_AUX})

    def of(self, aux: Mapping[str, CoTPrediction]) -> Tensor:
        """Mean over the batch's existing examples; 0 if there are none."""
        cot = aux[COT_AUX]
        return ((1 - cot.cosine_BK()) * cot.mask_BK).sum() / cot.mask_BK.sum().clamp_min(1)


def total_loss(
    objectives: Sequence[Objective], score_B: Tensor, targets: Targets, aux: Mapping[str, CoTPrediction]
) -> Tensor:
    """Weighted sum of the objectives whose auxiliary outputs exist."""
    parts = [o.weight * o(score_B, targets, aux) for o in objectives if o.reads <= aux.keys()]
    return sum(parts, start=score_B.new_zeros(()))
