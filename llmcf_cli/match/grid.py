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
    bits, peak_B1 = step_bits(vector_BD.shape[1]), peaks(vector_BD)
    exponent_B1 = exponents(peak_B1, squares(vector_BD, peak_B1, bits), bits)
    if shared:
        exponent_B1 = exponent_B1.amax(0, keepdim=True)
    return at_exponent(vector_BD, exponent_B1), power(exponent_B1).double()


def step_bits(dim: int) -> int:
    """Bits of the steps of a peak that norms of `dim` numbers are computed in."""
    return (24 - dim.bit_length()) // 2


def peaks(vector_BD: torch.Tensor) -> torch.Tensor:
    """int32 [B, 1]: exponent of the largest number of each row."""
    return torch.frexp(torch.linalg.vector_norm(vector_BD, ord=torch.inf, dim=1, keepdim=True)).exponent.clamp_min(
        LEAST
    )


def squares(vector_BD: torch.Tensor, peak_B1: torch.Tensor, bits: int) -> torch.Tensor:
    """float32 [B, 1]: squared norm in whole steps of the peak, which may be that of a longer row.

    The steps are few enough that float32 sums them exactly: rounding must never decide between two powers of two, or a
    row's grid would depend on the rows beside it. So those of a row's parts add up to those of the row.
    """
    step_BD = (vector_BD * power(bits - peak_B1)).round_()
    square_B: torch.Tensor = torch.linalg.vecdot(step_BD, step_BD)
    return square_B[:, None]


def exponents(peak_B1: torch.Tensor, square_B1: torch.Tensor, bits: int) -> torch.Tensor:
    """int32 [B, 1]: exponents of the scales, from `peaks` and `squares`."""
    norm_B1 = square_B1.double().sqrt()
    return (peak_B1 + torch.frexp(norm_B1).exponent - bits).clamp_min(LEAST)


def at_exponent(vector_BD: torch.Tensor, exponent_B1: torch.Tensor) -> torch.Tensor:
    """Rows on the grid of the scales 2**exponent; each number by itself, so parts of rows are as in the row."""
    return (vector_BD * power(24 - exponent_B1)).round_().mul_(2.0**-24)


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


def power(exponent: torch.Tensor) -> torch.Tensor:
    """float32 2**exponent, set bit by bit: `pow` and `ldexp` promise no exact powers on every device."""
    return ((exponent + 127) << 23).view(torch.float32)
