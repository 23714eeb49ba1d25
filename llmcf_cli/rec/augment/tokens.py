"""Rows and their examples as tokens: what the in-context transformer and its ablation both read.

Legend: B batch, K examples of a row, U distinct examples of a batch, J parts of a chain of thought,
P tokens per example, S = P·K, T text, D model.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import AugmentInput, AugmentShape, Examples, Rows
from llmcf_cli.rec.layers import MLP


class TokenSettings(Protocol):
    """The settings that tokens depend on; every configuration with these fields has them."""

    type: str
    dim: int
    hidden: int
    tokens: tuple[str, ...]
    features: tuple[str, ...]


class ExampleTokens(nn.Module):
    """x = MLP(field embeddings ⊕ item text ⊕ history text), cot = MLP(its vector), y = embedding of the label.

    With `parts` a chain of thought is a token per step of its prompt, part_j = MLP_j(its vector); a step that wrote
    nothing has none.
    x is the same function for examples and query, and never has a label in it. `features` says what it reads beyond
    the field embeddings: `text`, and matching `signals`.

    Args:
        config: Sizes, and which tokens an example has: `row` (x), `cot`, `parts`, `label` (y).
        shape: Sizes of what is read.

    Attributes:
        kinds: What is seen of an example, in order.
        per_example: P.

    Raises:
        ModelError: There are no text vectors, no examples, or none of what a token or feature is made of.
    """

    def __init__(self, config: TokenSettings, shape: AugmentShape) -> None:
        super().__init__()
        if not (shape.text_dim and shape.cot_dim and shape.num_examples):
            raise ModelError(
                "needs item text vectors and retrieved examples", where=f"augmenter {config.type}", hint="llmcf match"
            )
        self.kinds = config.tokens
        self.features = config.features
        width = shape.fields.num_fields * shape.fields.embedding_dim
        width += 2 * shape.text_dim if "text" in self.features else 0
        width += shape.num_signals if "signals" in self.features else 0
        self.row = MLP(width, (config.hidden,), config.dim)
        self.cot = MLP(shape.cot_dim, (config.hidden,), config.dim) if "cot" in self.kinds else None
        self.label = nn.Embedding(2, config.dim) if "label" in self.kinds else None
        parts = shape.num_parts if "parts" in self.kinds else 0
        self.parts = nn.ModuleList(MLP(shape.cot_dim, (config.hidden,), config.dim) for _ in range(parts))
        self.per_example = len(set(self.kinds) - {"parts"}) + parts

    def forward(self, x: AugmentInput) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of the examples, [x_1, cot_1, y_1, …, x_K, cot_K, y_K], and of the query; in place of cot_k its parts.

        Returns:
            Example tokens [B, S, D]; bool [B, S], which of them exist; query tokens [B, D].
        """
        query_BD = self._rows(x.query)
        example_UPD, exists_UP = self._examples(x.examples)
        # `embedding` rather than indexing: its backward is the fastest of the gathers.
        chosen_BKX = functional.embedding(x.examples.slot_BK, example_UPD.flatten(1))
        tokens_BSD = chosen_BKX.unflatten(2, (self.per_example, -1)).flatten(1, 2)
        mask_BKP = x.examples.mask_BK[..., None] & exists_UP[x.examples.slot_BK]
        return tokens_BSD, mask_BKP.flatten(1), query_BD

    def _examples(self, examples: Examples) -> tuple[Tensor, Tensor]:
        """[U, P, D], and bool [U, P], which of them exist."""
        made = {
            "row": lambda: self._rows(examples.rows)[:, None], "cot": lambda: self.cot(examples.cot_UT)[:, None],
            "parts": lambda: self._parts(examples.part_UJT), "label": lambda: self.label(examples.label_U)[:, None],
        }  # fmt: skip
        tokens_UPD = torch.cat([made[kind]() for kind in self.kinds], 1)
        exists_UP = torch.ones(tokens_UPD.shape[:2], dtype=torch.bool, device=tokens_UPD.device)
        if "parts" in self.kinds:
            start = self.kinds.index("parts")
            exists_UP[:, start : start + len(self.parts)] = (examples.part_UJT != 0).any(2)
        return tokens_UPD, exists_UP

    def _parts(self, part_UJT: Tensor) -> Tensor:
        return torch.stack([mlp(part_UT) for mlp, part_UT in zip(self.parts, part_UJT.unbind(1), strict=True)], 1)

    def _rows(self, rows: Rows) -> Tensor:
        parts = [rows.fields.flat_BX]
        parts += [rows.item_text_BT, rows.history_text_BT] if "text" in self.features else []
        parts += [rows.signals_BS] if "signals" in self.features else []
        return self.row(torch.cat(parts, 1))
