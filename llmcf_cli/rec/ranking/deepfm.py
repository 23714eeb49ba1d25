"""DeepFM. Guo, Tang, Ye, Li, He: DeepFM: A Factorization-Machine based Neural Network for CTR Prediction, IJCAI 2017.

Legend: B batch, F fields, D embedding, C context.
"""

from __future__ import annotations

from torch import Tensor

from llmcf_cli.rec.ranking.parts import FMBackbone


class DeepFM(FMBackbone):
    """logit = y_FM + y_DNN (Eq. 1); the loss owns the sigmoid.

    y_FM = ⟨w, x⟩ + Σ_{i<j} ⟨v_i, v_j⟩ (Eq. 2) and y_DNN = MLP(v_1 ⊕ … ⊕ v_F) (Eqs. 3 and 4) share the embeddings v. A
    context feature joins the MLP's input and, through weights of its own, the linear term.
    """

    def interactions(self, fields_BFD: Tensor, context_BC: Tensor | None) -> Tensor:
        """Σ_{i<j} ⟨v_i, v_j⟩, [B]."""
        return pairwise(fields_BFD)


def pairwise(fields_BFD: Tensor) -> Tensor:
    """Σ_{i<j} ⟨v_i, v_j⟩ = ½ Σ_d [(Σ_i v_id)² − Σ_i v_id²], [B] (Rendle 2010, lemma 3.1)."""
    sum_BD = fields_BFD.sum(1)
    return 0.5 * (sum_BD.square().sum(1) - fields_BFD.square().sum((1, 2)))
