"""Rows and their examples as tokens: what the in-context transformer and its ablation both read.

Legend: B batch, K examples of a row, U distinct examples of a batch, E all of the bank, P tokens per example, S = P·K,
T text, D model, X = P·D.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import AugmentInput, AugmentShape, given
from llmcf_cli.rec.input.base import Rows
from llmcf_cli.rec.input.examples import Examples
from llmcf_cli.rec.parts.kept import Kept
from llmcf_cli.rec.parts.layers import MLP


class TokenSettings(Protocol):
    """The settings that tokens depend on; every configuration with these fields has them."""

    @property
    def type(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def hidden(self) -> int: ...

    @property
    def tokens(self) -> tuple[str, ...]: ...

    @property
    def features(self) -> tuple[str, ...]: ...


class ExampleTokens(nn.Module):
    """x = MLP(field embeddings ⊕ item text ⊕ history text), cot = MLP(its vector), y = embedding of the label.

    x is the same function for examples and query, and never has a label in it. `features` says what it reads beyond
    the field embeddings: `text`, and matching `signals`.

    Args:
        config: Sizes, and which tokens an example has: `row` (x), `cot`, `label` (y).
        shape: Sizes of what is read.

    Attributes:
        kinds: The tokens of an example, in order; P of them.

    Raises:
        ModelError: There are no text vectors, no examples, or no signals where they are a feature.
    """

    def __init__(self, config: TokenSettings, shape: AugmentShape) -> None:
        super().__init__()
        if not all(map(shape.size, ("text", "cot", "examples"))):
            raise ModelError(
                "needs item text vectors and retrieved examples",
                code="input-missing",
                where=f"augmenter {config.type}",
                hint="llmcf match RECIPE",
            )
        self.kinds = config.tokens
        self.features = config.features
        width = shape.fields.num_fields * shape.fields.embedding_dim
        width += 2 * shape.size("text") if "text" in self.features else 0
        width += shape.size("signals") if "signals" in self.features else 0
        self.row = MLP(width, (config.hidden,), config.dim)
        self.cot = MLP(shape.size("cot"), (config.hidden,), config.dim) if "cot" in self.kinds else None
        self.label = nn.Embedding(2, config.dim) if "label" in self.kinds else None
        self.kept_EX = Kept()

    def forward(self, x: AugmentInput) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens of the examples, [x_1, cot_1, y_1, …, x_K, cot_K, y_K], and of the query.

        Returns:
            Example tokens [B, S, D]; bool [B, S], which of them exist; query tokens [B, D].
        """
        query_BD, examples = self.query(x), given(x.inputs.get("examples"), "examples")
        return *self.sequences(examples, examples.slot_BK, examples.mask_BK), query_BD

    def query(self, x: AugmentInput) -> Tensor:
        """Tokens of the queries [B, D]."""
        return self._rows(x.query)

    def sequences(self, examples: Examples, slot_BK: Tensor, mask_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of lists of examples.

        Args:
            examples: The distinct examples.
            slot_BK: Which of them stand in each list.
            mask_BK: False where there is none.

        Returns:
            Tokens [B, S, D]; bool [B, S], which of them exist.
        """
        kept_EX = self.kept_EX.value
        example_UX = self._of_examples(examples) if kept_EX is None else kept_EX[examples.index_U]
        # `embedding` rather than indexing: its backward is the fastest of the gathers.
        chosen_BKX = functional.embedding(slot_BK, example_UX)
        tokens_BSD = chosen_BKX.unflatten(2, (len(self.kinds), -1)).flatten(1, 2)
        return tokens_BSD, mask_BK.repeat_interleave(len(self.kinds), 1)

    def keep(self, blocks: Iterator[Examples]) -> None:
        """Keep the tokens of all examples, until training begins or other weights are loaded."""
        self.kept_EX.value = torch.cat([self._of_examples(block) for block in blocks])

    def _of_examples(self, examples: Examples) -> Tensor:
        """Tokens of the distinct examples side by side, [U, P·D]."""
        return torch.stack([self._token(kind, examples) for kind in self.kinds], 1).flatten(1)

    def _token(self, kind: str, examples: Examples) -> Tensor:
        if kind == "row":
            return self._rows(examples.rows)
        encode, read_U = {"cot": (self.cot, examples.cot_UT), "label": (self.label, examples.label_U)}[kind]
        assert encode is not None, "made for all `kinds`"
        token_UD: Tensor = encode(read_U)
        return token_UD

    def _rows(self, rows: Rows) -> Tensor:
        parts = [rows.fields.flat_BX]
        if "text" in self.features:
            text = given(rows.inputs.get("text"), "text")
            parts += [text.item_BT, text.history_BT]
        if "signals" in self.features:
            parts.append(given(rows.inputs.get("signals"), "signals"))
        row_BD: Tensor = self.row(torch.cat(parts, 1))
        return row_BD
