"""What an augmenter gets and gives.

Legend: B batch, K examples of a row, U distinct examples of a batch, T text, D embedding, C context,
S signals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.plugin import Kind
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape

_T = TypeVar("_T")

COT_AUX = "cot"
"""Auxiliary output: predictions of examples' chains of thought, read by `cot_reconstruction`."""


@dataclass(frozen=True)
class AugmentShape:
    """Sizes an augmenter is built for.

    Attributes:
        fields: Sizes of the field embeddings.
        text_dim: T; 0 without text vectors.
        cot_dim: Length of a chain of thought's vector; 0 without examples.
        num_examples: K; 0 without examples.
        wanted: Auxiliary outputs that some objective reads.
        knowledge_dim: Length of a vector of knowledge; 0 without any.
        num_signals: S; 0 without matching signals.
    """

    fields: FieldShape
    text_dim: int
    cot_dim: int
    num_examples: int
    wanted: frozenset[str] = frozenset()
    knowledge_dim: int = 0
    num_signals: int = 0


@dataclass(frozen=True)
class Rows:
    """Embedded samples without their labels: queries, or examples seen as queries.

    Attributes:
        fields: Their field embeddings.
        item_text_BT: Text vector of the target item; None without text vectors.
        history_text_BT: Mean of the history's item vectors, renormalised; zeros for an empty history.
        signals_BS: Matching signals, standardised; None unless the configuration's `needs` names them.
    """

    fields: FieldEmbeddings
    item_text_BT: Tensor | None = None
    history_text_BT: Tensor | None = None
    signals_BS: Tensor | None = None


@dataclass(frozen=True)
class Examples:
    """The examples of a batch, each distinct one once.

    Attributes:
        rows: The U distinct examples as rows, label-free.
        cot_UT: Vectors of their chains of thought.
        label_U: int64 labels.
        slot_BK: Which of the U stands at place k of row b, best first.
        mask_BK: False where a row has fewer examples; the slot there means nothing.
    """

    rows: Rows
    cot_UT: Tensor
    label_U: Tensor
    slot_BK: Tensor
    mask_BK: Tensor


@dataclass(frozen=True)
class Known:
    """What a language model wrote about the user and the item of each row.

    Attributes:
        user_BT: Vectors; zeros where nothing may be known.
        user_known_B: bool, where something is.
        item_BT: As `user_BT`.
        item_known_B: As `user_known_B`.
    """

    user_BT: Tensor
    user_known_B: Tensor
    item_BT: Tensor
    item_known_B: Tensor


@dataclass(frozen=True)
class AugmentInput:
    """Everything an augmenter may read.

    Attributes:
        query: The rows to be scored.
        examples: Their retrieved examples; None unless the configuration's `needs` names them.
        knowledge: Knowledge about them; None unless the configuration's `needs` names it.
    """

    query: Rows
    examples: Examples | None = None
    knowledge: Known | None = None


@dataclass(frozen=True)
class CoTPrediction:
    """Predictions W·h of vectors of chains of thought.

    Attributes:
        hidden_BKD: The decoder's hidden state h at x_k.
        weight_TD: W.
        cot_UT: Vectors of the distinct chains of thought.
        slot_BK: Which of them belongs to x_k.
        mask_BK: False where there is no example.
    """

    hidden_BKD: Tensor
    weight_TD: Tensor
    cot_UT: Tensor
    slot_BK: Tensor
    mask_BK: Tensor

    def cosine_BK(self) -> Tensor:
        """cos(W·h, c) = h·(Wᵀc) / (√(hᵀ(WᵀW)h) · ‖c‖), without ever making a [B, K, T] tensor."""
        target_UD = self.cot_UT @ self.weight_TD
        dot_BK = (self.hidden_BKD * functional.embedding(self.slot_BK, target_UD)).sum(-1)
        square_BK = ((self.hidden_BKD @ (self.weight_TD.mT @ self.weight_TD)) * self.hidden_BKD).sum(-1)
        length_U: Tensor = self.cot_UT.norm(dim=1)
        return dot_BK * (square_BK.clamp_min(1e-12).rsqrt() / length_U[self.slot_BK].clamp_min(1e-6))


@dataclass(frozen=True)
class Augmentation:
    """What an augmenter makes.

    Attributes:
        context_BC: Context feature for the backbone; None if there is none.
        aux: Auxiliary outputs for objectives, by name.
    """

    context_BC: Tensor | None
    aux: Mapping[str, CoTPrediction] = field(default_factory=dict)


class Augmenter(nn.Module, ABC):
    """Turns a row and its examples into a context feature. Built as `Class(config, shape)`."""

    context_dim: int
    """C; 0 if there is no context."""

    @abstractmethod
    def forward(self, x: AugmentInput) -> Augmentation:
        """Context of a batch; each row's depends on no other row."""


AUGMENTER: Kind[Augmenter] = Kind("augmenter")


def given(part: _T | None, name: str) -> _T:
    """A part of the input that an augmenter cannot do without.

    Raises:
        ModelError: It is not there: the configuration's `needs` do not name it.
    """
    if part is None:
        raise ModelError(
            f"reads {name}, which its configuration's `needs` do not name", code="needs-undeclared", where="augmenter"
        )
    return part
