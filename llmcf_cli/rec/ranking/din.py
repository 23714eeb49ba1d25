"""DIN. Zhou et al.: Deep Interest Network for Click-Through Rate Prediction, KDD 2018.

Legend: B batch, F fields, D embedding, L history, C context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llmcf_cli.rec.config import DINConfig
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape
from llmcf_cli.rec.parts.layers import MLP, Dice
from llmcf_cli.rec.ranking.base import RankingBackbone


class DIN(RankingBackbone):
    """MLP(fields ⊕ v_U(A) ⊕ context), where v_U(A) = Σ_j a(e_j, v_A) e_j (section 4.3, Eq. 3).

    a is the activation unit, an MLP of e_j, v_A, their difference and their product. Its outputs are not normalised,
    which keeps the strength of an interest, unless `attention: softmax`. The attended history takes the place of the
    pooled one.
    """

    def __init__(self, config: DINConfig, shape: FieldShape, context_dim: int) -> None:
        super().__init__()
        activation = Dice if config.activation == "dice" else lambda width: nn.PReLU(init=0.25)
        self.normalise = config.attention == "softmax"
        self.unit = MLP(4 * shape.embedding_dim, config.attention_hidden, 1, activation=activation)
        width = shape.num_fields * shape.embedding_dim + context_dim
        self.mlp = MLP(width, config.hidden, 1, config.dropout, activation)

    def forward(self, fields: FieldEmbeddings, context_BC: Tensor | None) -> Tensor:
        """Logits [B]."""
        interest_BD = self.interest(fields.target_BD, fields.history_BLD, fields.history_mask_BL)
        inputs = [fields.fields_BFD[:, :-1].flatten(1), interest_BD]
        if context_BC is not None:
            inputs.append(context_BC)
        logit_B: Tensor = self.mlp(torch.cat(inputs, 1))[:, 0]
        return logit_B

    def interest(self, target_BD: Tensor, history_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """The history as seen from the target, [B, D]; zeros for an empty history.

        Only positions that hold an item reach the activation unit, so padding neither costs time nor enters Dice's
        statistics.
        """
        if torch.compiler.is_exporting():  # whose shapes cannot depend on values: padding is computed, and left out
            target_BLD = target_BD[:, None].expand_as(history_BLD)
            pairs = [history_BLD, target_BLD, history_BLD - target_BLD, history_BLD * target_BLD]
            return self._mixed(self.unit(torch.cat(pairs, 2))[..., 0] * mask_BL, history_BLD, mask_BL)
        row_P, position_P = mask_BL.nonzero(as_tuple=True)
        event_PD, target_PD = history_BLD[row_P, position_P], target_BD[row_P]
        pairs_PX = torch.cat([event_PD, target_PD, event_PD - target_PD, event_PD * target_PD], 1)
        weight_BL = torch.zeros_like(mask_BL, dtype=history_BLD.dtype)
        weight_BL = weight_BL.index_put((row_P, position_P), self.unit(pairs_PX)[:, 0])
        return self._mixed(weight_BL, history_BLD, mask_BL)

    def _mixed(self, weight_BL: Tensor, history_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        if self.normalise:
            weight_BL = weight_BL.masked_fill(~mask_BL, torch.finfo(weight_BL.dtype).min).softmax(1) * mask_BL
        return torch.einsum("bl,bld->bd", weight_BL, history_BLD)
