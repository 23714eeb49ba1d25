"""Products of short numbers, and how far they can be from the exact ones.

Legend: B queries, E examples, D dimensions.
"""

from __future__ import annotations

import torch

SHORT = 2.0**-8
"""Unit roundoff of bfloat16."""
MORE = 8
"""Candidates beyond those asked for that a product of bfloat16 numbers gives: it tells fewer scores apart."""


class Product:
    """Examples as numbers of some length, to be multiplied with queries of the same length.

    Args:
        vector_ED: float32 grid vectors of the examples.
        dtype: float32 or bfloat16.

    Attributes:
        vector_ED: The examples, rounded to `dtype`.
        more: Candidates to take beyond those asked for.
    """

    def __init__(self, vector_ED: torch.Tensor, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.vector_ED = vector_ED.to(dtype)
        self.more = 0 if dtype is torch.float32 else MORE
        self._norm, self._lost = _largest(vector_ED), _largest(vector_ED - self.vector_ED.float())

    def error(self, query_BD: torch.Tensor) -> torch.Tensor:
        """float64 [B]: most that a score can differ from the exact one before it is rounded to `dtype`.

        ‖q - q'‖·‖e‖ + ‖q'‖·‖e - e'‖ for rounded q' and e' (Cauchy–Schwarz), and n·u·‖q‖·‖e‖ for float32 sums in any
        order (Higham 2002, section 3.1). Where PyTorch was told to multiply float32 with shorter inputs (TF32,
        bfloat16), that rounding counts too.

        Args:
            query_BD: float32 grid vectors.
        """
        shorter = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}[torch.get_float32_matmul_precision()]
        unit = 1.01 * ((query_BD.shape[1] + 2) * 2.0**-24 + shorter)
        norm_B = torch.linalg.vector_norm(query_BD, dim=1).double()
        lost_B = torch.linalg.vector_norm(query_BD - query_BD.to(self.dtype).float(), dim=1).double()
        bound_B: torch.Tensor = unit * self._norm * norm_B + lost_B * self._norm + (norm_B + lost_B) * self._lost
        return 1.01 * bound_B

    def at_most(self, query_BD: torch.Tensor, score_B: torch.Tensor) -> torch.Tensor:
        """float64 [B]: the highest that an exact score can be where this product gives no more than `score_B`."""
        ceiling_B = score_B.double() + self.error(query_BD)
        if self.dtype is torch.bfloat16:
            ceiling_B += SHORT * score_B.double().abs()  # the sum is rounded
            if query_BD.is_cuda:  # and so may its parts be, where cuBLAS splits it
                ceiling_B += SHORT * self._norm * torch.linalg.vector_norm(query_BD, dim=1).double()
        return torch.where(torch.isinf(score_B), -torch.inf, ceiling_B)


def _largest(vector_ED: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(vector_ED, dim=1).max()) if len(vector_ED) else 0.0
