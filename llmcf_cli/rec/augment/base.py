"""What an augmenter gets and gives.

Legend: B batch, K examples of a row, U distinct examples of a batch, T text, D embedding, C context,
S signals.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.plugin import Kind
from llmcf_cli.rec.input.base import Rows
from llmcf_cli.rec.parts.embedding import FieldShape

if TYPE_CHECKING:
    from llmcf_cli.rec.input.examples import Examples

_T = TypeVar("_T")

COT_AUX = "cot"
"""Auxiliary output: predictions of examples' chains of thought, read by `cot_reconstruction`."""


@dataclass(frozen=True)
class AugmentShape:
    """Sizes an augmenter is built for.

    Attributes:
        fields: Sizes of the field embeddings.
        sizes: What the inputs that it reads say of their size, by name: of the built-in ones `text` (T), `signals`
            (S), `examples` (K), `cot` (length of a chain of thought's vector) and `knowledge`.
        wanted: Auxiliary outputs that some objective reads.
    """

    fields: FieldShape
    sizes: Mapping[str, int] = field(default_factory=dict)
    wanted: frozenset[str] = frozenset()

    def size(self, name: str) -> int:
        """A size; 0 where the input is not there."""
        return self.sizes.get(name, 0)


@dataclass(frozen=True)
class Likeness:
    """How like the examples of each row are to it, by text vectors of length 1 (or zeros, without a text).

    Attributes:
        item_BK: cos(target, target of the example).
        history_BK: cos(history, history of the example); 0 where either is empty.
    """

    item_BK: Tensor
    history_BK: Tensor


@dataclass(frozen=True)
class AugmentInput:
    """Everything an augmenter may read.

    Attributes:
        query: The rows to be scored, with the inputs whose values belong to a row itself: `text`, `signals`.
        inputs: Name of an input that belongs to queries alone → what it gives: `examples`, `knowledge`. Only what the
            configuration's `needs` names is there.
    """

    query: Rows
    inputs: Mapping[str, Any] = field(default_factory=dict)

    def likeness(self, texts_UT: tuple[Tensor, Tensor] | None = None) -> Likeness:
        """Of the examples to their rows; needs examples and text vectors.

        Args:
            texts_UT: Text vectors of the examples' items and histories, where they are known already.
        """
        examples = given(self.inputs.get("examples"), "examples")
        own = given(self.query.inputs.get("text"), "text")
        if texts_UT is None:
            other = given(examples.rows.inputs.get("text"), "text")
            texts_UT = other.item_BT, other.history_BT
        pairs = zip((own.item_BT, own.history_BT), texts_UT, strict=True)
        slot_BK = examples.slot_BK
        return Likeness(*(torch.einsum("bt,bkt->bk", q, functional.embedding(slot_BK, e)) for q, e in pairs))


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
class BankBlock:
    """Some examples of the bank.

    Attributes:
        item_row_E: Their items.
        item_text_ET: Text vectors of these.
        history_text_ET: Of their histories, as `Rows.history_text_BT`.
        cot_ET: Of their chains of thought.
    """

    item_row_E: Tensor
    item_text_ET: Tensor
    history_text_ET: Tensor
    cot_ET: Tensor


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
    item_dim: int = 0
    """Numbers that `of_items` tells of an item; 0: nothing."""

    def learn_bank(self, blocks: Callable[[], Iterator[BankBlock]]) -> tuple[str, ...]:
        """Take the statistics it needs of all examples, before the first step; what it has to say about them.

        Args:
            blocks: Goes through the bank, block by block, as often as it is called.
        """
        return ()

    def keep_examples(self, blocks: Iterator[Examples]) -> None:
        """Keep what examples give that no query changes, until training begins or other weights are loaded.

        Args:
            blocks: All examples of the bank in order, block by block.
        """
        return

    @abstractmethod
    def forward(self, x: AugmentInput) -> Augmentation:
        """Context of a batch; each row's depends on no other row. A query of candidate retrieval has item row 0."""

    def of_items(self, inputs: Mapping[str, Any]) -> Tensor:
        """What it tells of items whoever the user is, [B, `item_dim`]; models of candidate retrieval ask.

        Args:
            inputs: As in `AugmentInput`, of rows without a user, before any time.
        """
        raise NotImplementedError


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
