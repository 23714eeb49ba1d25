"""Dot products that come out the same, to the bit, in any order of summation on any device.

A vector is divided by a power of two near its norm and rounded to multiples of 2⁻²⁴. Its components are then
integers of at most 24 bits in units of 2⁻²⁴ (so exact in float32), and by Cauchy–Schwarz every partial sum of
products of two of them stays far below 2⁵³ units of 2⁻⁴⁸ (so exact in float64). Against the dot product of
the vectors as given the error is about 2⁻²⁴ of the product of norms, the resolution of float32.

Legend: B rows, C candidates, D dimensions.
"""

from __future__ import annotations

import torch

FORBIDDEN = torch.iinfo(torch.int64).min
LEAST = -90  # least exponent of a scale: smaller numbers are zero, and no shift leaves float32


def on_grid(vector_BD: torch.Tensor, *, shared: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows divided by their scale and rounded to the grid.

    Args:
        vector_BD: float32.
        shared: One scale for all rows (the largest) instead of one each.

    Returns:
        float32 [B, D] on the grid, of norm about 1 or less; and float64 powers of two, [B, 1] or [1, 1] if
        shared, so that row ≈ grid · scale.
    """
    if not len(vector_BD):
        return vector_BD, torch.ones((1, 1), dtype=torch.float64, device=vector_BD.device)
    peak_B1 = torch.linalg.vector_norm(vector_BD, ord=torch.inf, dim=1, keepdim=True)
    exponent_B1 = torch.frexp(peak_B1).exponent.clamp_min(LEAST)
    # The norm in whole steps of the peak, few enough that float32 sums them exactly: rounding must never
    # decide between two powers of two, or a row's grid would depend on the rows beside it.
    bits = (24 - vector_BD.shape[1].bit_length()) // 2
    step_BD = (vector_BD * _power(bits - exponent_B1)).round_()
    norm_B1 = torch.linalg.vecdot(step_BD, step_BD)[:, None].double().sqrt()
    exponent_B1 = (exponent_B1 + torch.frexp(norm_B1).exponent - bits).clamp_min(LEAST)
    if shared:
        exponent_B1 = exponent_B1.amax(0, keepdim=True)
    grid_BD = (vector_BD * _power(24 - exponent_B1)).round_().mul_(2.0**-24)
    return grid_BD, _power(exponent_B1).double()


def to_grid(vector_BD: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Rows on the grid of a scale that `on_grid` gave for them and others; float32, of the shape of `vector_BD`."""
    return (vector_BD * (2.0**24 / scale).float()).round_().mul_(2.0**-24)


def exact_scores(query_BD: torch.Tensor, candidate_BCD: torch.Tensor, scale_B1: torch.Tensor) -> torch.Tensor:
    """float32 [B, C]: exact dot products of grid vectors, times the scale, rounded once."""
    score_BC = torch.bmm(candidate_BCD.double(), query_BD.double()[:, :, None])[:, :, 0]
    return (score_BC * scale_B1).float()


def encode(score: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    """int64 codes that sort as (score, lower rank first): the score's bits above the rank's complement.

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


def _power(exponent: torch.Tensor) -> torch.Tensor:
    """float32 2**exponent, set bit by bit: `pow` and `ldexp` promise no exact powers on every device."""
    return ((exponent + 127) << 23).view(torch.float32)
