"""Losses of the next item.

Legend: M pairs of a user vector and its target, D item vector, K known items, n drawn items, I items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from llmcf_cli.plugin import Kind
from llmcf_cli.rec.augment.base import CoTPrediction
from llmcf_cli.rec.retrieval.config import (
    GBCEConfig,
    RetrievalLossConfig,
    SampledBCEConfig,
    SampledSoftmaxConfig,
    SoftmaxConfig,
)


@dataclass(frozen=True)
class Asked:
    """What a batch asks: the user vector at the last event before each target.

    Attributes:
        user_MD: User vectors.
        target_M: int64 item rows.
        items: Item rows of any shape → their vectors.
        known_K: int64 rows of the items that are targets in train; negatives are among them.
        share_I: float64, each item's share of all train targets.
        aux: Auxiliary outputs of the augmenter.
    """

    user_MD: Tensor
    target_M: Tensor
    items: Callable[[Tensor], Tensor]
    known_K: Tensor
    share_I: Tensor
    aux: Mapping[str, CoTPrediction] = field(default_factory=dict)


class RetrievalLoss(ABC):
    """One loss. Built as `Class(config)`; draws by torch's own generator."""

    def __init__(self, config: RetrievalLossConfig) -> None:
        self.weight = config.weight

    @abstractmethod
    def __call__(self, asked: Asked) -> Tensor:
        """The unweighted loss, a scalar: a mean over the pairs."""


RETRIEVAL_LOSS: Kind[RetrievalLoss] = Kind("objective")


class Softmax(RetrievalLoss):
    """−log of the target's share of Σ exp(score) over the known items."""

    def __init__(self, config: SoftmaxConfig) -> None:
        super().__init__(config)

    def __call__(self, asked: Asked) -> Tensor:
        """Mean over the pairs."""
        score_MK = asked.user_MD @ asked.items(asked.known_K).T
        return functional.cross_entropy(score_MK, torch.searchsorted(asked.known_K, asked.target_M))


class SampledSoftmax(RetrievalLoss):
    """−log of the target's share of exp(score) + Σ exp(score − c) over drawn items.

    A drawn item that is the target does not count. c is 0, or with `logq` log(n·q), q the item's chance at each draw:
    the sum is then, in expectation, that over all other items.
    """

    def __init__(self, config: SampledSoftmaxConfig) -> None:
        super().__init__(config)
        self.config = config

    def __call__(self, asked: Asked) -> Tensor:
        """Mean over the pairs; the draws are the batch's."""
        config, target_M = self.config, asked.target_M
        pool = target_M if config.in_batch else asked.known_K
        drawn_n = pool[torch.randint(len(pool), (config.negatives,), device=pool.device)]
        own_M = (asked.user_MD * asked.items(target_M)).sum(1)
        score_Mn = asked.user_MD @ asked.items(drawn_n).T
        if config.logq:
            alike_n = torch.full_like(drawn_n, 1.0 / len(pool), dtype=torch.double)
            chance_n = asked.share_I[drawn_n] if config.in_batch else alike_n
            score_Mn = score_Mn - (config.negatives * chance_n).log().to(score_Mn.dtype)
        score_Mn = score_Mn.masked_fill(drawn_n == target_M[:, None], -torch.inf)
        return (torch.cat([own_M[:, None], score_Mn], 1).logsumexp(1) - own_M).mean()


class SampledBCE(RetrievalLoss):
    """(β·softplus(−s⁺) + Σ softplus(s⁻)) / (n + 1), s⁻ the scores of n drawn items and β = 1.

    A drawn item that is the target does not count.
    """

    def __init__(self, config: SampledBCEConfig | GBCEConfig) -> None:
        super().__init__(config)
        self.negatives = config.negatives

    def power(self, known: int) -> float:
        """β: the power that the target's probability is raised to."""
        return 1.0

    def __call__(self, asked: Asked) -> Tensor:
        """Mean over the pairs; each has its own draws."""
        target_M, known_K = asked.target_M, asked.known_K
        shape = (len(target_M), self.negatives)
        drawn_Mn = known_K[torch.randint(len(known_K), shape, device=known_K.device)]
        own_M = (asked.user_MD * asked.items(target_M)).sum(1)
        score_Mn = torch.einsum("md,mnd->mn", asked.user_MD, asked.items(drawn_Mn))
        other_Mn = functional.softplus(score_Mn) * (drawn_Mn != target_M[:, None])
        loss_M = self.power(len(known_K)) * functional.softplus(-own_M) + other_Mn.sum(1)
        return loss_M.mean() / (self.negatives + 1)


class GBCE(SampledBCE):
    """β = α·(t·(1 − 1/α) + 1/α), α = n / (K − 1) the share of the other items that is drawn (Eq. 13)."""

    def __init__(self, config: GBCEConfig) -> None:
        super().__init__(config)
        self.calibration = config.calibration

    def power(self, known: int) -> float:
        """From 1 (t = 0) to α (t = 1)."""
        rate = min(self.negatives / max(known - 1, 1), 1.0)
        return rate * (self.calibration * (1 - 1 / rate) + 1 / rate)
