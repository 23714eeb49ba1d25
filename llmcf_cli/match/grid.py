"""Dot products that come out the same, to the bit, in any order of summation on any device.

A vector is divided by a power of two near its norm and rounded to multiples of 2⁻²⁴. Its components are then integers of
at most 24 bits in units of 2⁻²⁴ (so exact in float32), and by Cauchy–Schwarz every partial sum of products of two of them
stays below 2⁵³ units of 2⁻⁴⁸ (so exact in float64). Against the dot product of the vectors as given the error is about
2⁻²⁴ of the product of norms, the resolution of float32.

Legend: B rows, C candidates, D dimensions.
"""

from __future__ import annotations

import torch

FORBIDDEN = torch.iinfo(torch.int64).min
LEAST = -90  # least exponent of a scale: smaller numbers are zero, and none of the shifts leaves float32


def on_grid(vector_BD: torch.Tensor, *, shared: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows divided by their scale and rounded to the grid.

    Args:
        vector_BD: float32.
        shared: One scale for all rows (the largest) instead of one each.

    Returns:
        float32 [B, D] on the grid, and float64 powers of two, [B, 1] or [1, 1] if shared, so that row ≈ grid · scale.
    """
    if not len(vector_BD):
        return vector_BD, torch.ones((1, 1), dtype=torch.float64, device=vector_BD.device)
    peak_B1 = vector_BD.abs().amax(1, keepdim=True)
    exponent_B1 = torch.frexp(peak_B1).exponent.clamp_min(LEAST)
    # The norm in whole steps of 2⁻¹² of the peak: integer sums, so that no rounding can flip the power of two.
    step_BD = (vector_BD * _power(12 - exponent_B1)).round_()
    norm_B1 = step_BD.square_().sum(1, keepdim=True, dtype=torch.float64).sqrt()
    exponent_B1 = (exponent_B1 + torch.frexp(norm_B1).exponent - 12).clamp_min(LEAST)
    if shared:
        exponent_B1 = exponent_B1.amax(0, keepdim=True)
    grid_BD = (vector_BD * _power(24 - exponent_B1)).round_().mul_(2.0**-24)
    return grid_BD, _power(exponent_B1).double()


def _power(exponent: torch.Tensor) -> torch.Tensor:
    """float32 2**exponent, set bit by bit: `pow` and `ldexp` promise no exact powers on every device."""
    return ((exponent + 127) << 23).view(torch.float32)


def exact_scores(query_BD: torch.Tensor, candidate_BCD: torch.Tensor, scale_B1: torch.Tensor) -> torch.Tensor:
    """float32 [B, C]: exact dot products of grid vectors, times the scale, rounded once."""
    score_BC = torch.bmm(candidate_BCD.double(), query_BD.double()[:, :, None])[:, :, 0]
    return (score_BC * scale_B1).float()


def relative_error(dim: int) -> float:
    """Bound of |float32 product − exact| / (‖q‖·‖e‖) for `dim` terms in any order (Higham 2002, section 3.1).

    Where PyTorch was told to multiply with shorter inputs (TF32, bfloat16), their rounding counts too.
    """
    shorter = {"highest": 0.0, "high": 2.0**-10, "medium": 2.0**-7}[torch.get_float32_matmul_precision()]
    return 1.01 * ((dim + 2) * 2.0**-24 + shorter)


def encode(score: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """int64 codes that sort as (score, lower rank first): the score's bits in order above, the rank's complement below.

    Args:
        score: float32.
        rank: int64 below 2³¹, broadcastable.
    """
    bits = (score + 0.0).view(torch.int32)  # + 0.0: no negative zero
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << 32) | (0x7FFFFFFF - rank)


def decode(code: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The score (float32) and rank (int64) of codes; meaningless where a code is `FORBIDDEN`."""
    ordered = (code >> 32).to(torch.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), 0x7FFFFFFF - (code & 0x7FFFFFFF)
