"""The in-context transformer of LLM-CF.

Legend: B batch, K examples of a row, U distinct examples of a batch, P tokens per example, S sequence, T text, D model.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import (
    COT_AUX,
    Augmentation,
    Augmenter,
    AugmentInput,
    AugmentShape,
    CoTPrediction,
    Examples,
    Rows,
)
from llmcf_cli.rec.config import ICTConfig
from llmcf_cli.rec.layers import MLP, CausalDecoder


class ICTAugmenter(Augmenter):
    """A causal decoder over [x_1, cot_1, y_1, …, x_K, cot_K, y_K, x] (LLM-CF, CIKM 2024).

    x = MLP(field embeddings ⊕ item text ⊕ history text), by the same function for examples and query and never with a
    label in it; cot = MLP(vector of the chain of thought); y = embedding of the label. The hidden state of the last
    position is the context. Where an objective wants it, W·h at x_k predicts the vector of cot_k, which x_k cannot see.

    Args:
        config: Sizes, and whether chains of thought are seen at all.
        shape: Sizes of what is read.

    Raises:
        ModelError: There are no text vectors or no examples.
    """

    def __init__(self, config: ICTConfig, shape: AugmentShape) -> None:
        super().__init__()
        if not (shape.text_dim and shape.cot_dim and shape.num_examples):
            raise ModelError(
                "needs item text vectors and retrieved examples", where="augmenter ict", hint="llmcf match"
            )
        self.context_dim = config.dim
        self.tokens_per_example = 3 if config.cot else 2
        width = shape.fields.num_fields * shape.fields.embedding_dim + 2 * shape.text_dim
        self.row_token = MLP(width, (config.hidden,), config.dim)
        self.cot_token = MLP(shape.cot_dim, (config.hidden,), config.dim) if config.cot else None
        self.label_token = nn.Embedding(2, config.dim)
        length = self.tokens_per_example * shape.num_examples + 1
        self.decoder = CausalDecoder(config.layers, config.heads, config.dim, config.dropout, length)
        predicts = config.cot and COT_AUX in shape.wanted
        self.cot_head = nn.Linear(config.dim, shape.cot_dim, bias=False) if predicts else None

    def forward(self, x: AugmentInput) -> Augmentation:
        """Context [B, D]; in training also the predictions of chains of thought, if an objective wants them."""
        examples = x.examples
        tokens_BSD, mask_BS = self._sequence(examples, self._row_tokens(x.query))
        predicts = self.cot_head is not None and self.training
        last = tokens_BSD.shape[1] - 1
        # x_k stands at every tokens_per_example-th position, and so does the query x at the end.
        first = 0 if predicts else last
        read_R = torch.arange(first, last + 1, self.tokens_per_example, device=tokens_BSD.device)
        hidden_BRD = self.decoder(tokens_BSD, mask_BS, read_R)
        if not predicts:
            return Augmentation(hidden_BRD[:, -1])
        prediction = CoTPrediction(
            hidden_BRD[:, :-1], self.cot_head.weight, examples.cot_UT, examples.slot_BK, examples.mask_BK
        )
        return Augmentation(hidden_BRD[:, -1], {COT_AUX: prediction})

    def _sequence(self, examples: Examples, query_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens [B, P·K + 1, D] and which of them exist."""
        kinds = [self._row_tokens(examples.rows), self.label_token(examples.label_U)]
        if self.cot_token is not None:
            kinds.insert(1, self.cot_token(examples.cot_UT))
        example_UPD = torch.stack(kinds, 1)
        # `embedding` rather than indexing: its backward is the fastest of the gathers.
        chosen_BKX = functional.embedding(examples.slot_BK, example_UPD.flatten(1))
        seen_BSD = chosen_BKX.view(len(query_BD), -1, query_BD.shape[1])
        mask_BS = examples.mask_BK.repeat_interleave(self.tokens_per_example, 1)
        return torch.cat([seen_BSD, query_BD[:, None]], 1), functional.pad(mask_BS, (0, 1), value=True)

    def _row_tokens(self, rows: Rows) -> Tensor:
        return self.row_token(torch.cat([rows.fields.flat_BX, rows.item_text_BT, rows.history_text_BT], 1))
