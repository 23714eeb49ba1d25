"""What a chain of thought says that its row does not, brought to one scale.

Legend: E examples, X = 2T numbers of a row's own vectors, T text, Z = X + T, D outputs of a linear layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from llmcf_cli.rec.augment.base import BankBlock

PENALTIES = (1.0, 10.0, 100.0, 1000.0, math.inf)
"""λ of the ridge regression that are tried, for half of the examples; the last is no regression at all."""
SHRINKAGE = 0.1
"""Of the mean variance, added to that of each direction, so that noise is not made as large as what is said."""
_CONSTANT = 1e-10  # mean variance below which texts say nothing


class Novelty(nn.Module):
    """N·P·(c − mean): P = (S + ε·I)^(−1/2) whitens vectors of chains of thought, N dims what their rows tell already.

    Vectors of texts differ in few directions, and mostly in those that repeat the item and the history. After P all
    directions are of one scale, so that a linear layer learns them at one pace. N multiplies each by the share of its
    variance that a ridge regression on x = item ⊕ history cannot predict for other items. Nothing of x itself comes in.
    Statistics are of the bank, whose examples are train rows, and stand in `state_dict`; before `fit` the map is I.

    Args:
        row_dim: X.
        text_dim: T.
    """

    mean_T: Tensor
    map_TT: Tensor

    def __init__(self, row_dim: int, text_dim: int) -> None:
        super().__init__()
        self.row_dim = row_dim
        self.register_buffer("mean_T", torch.zeros(text_dim))
        self.register_buffer("map_TT", torch.eye(text_dim))

    def fit(self, blocks: Callable[[], Iterator[BankBlock]]) -> tuple[tuple[str, ...], float]:
        """Take the statistics in one pass.

        λ is the one that predicts the chains of thought about either half of the items best from those about the other:
        what rows tell of new items, not what so many numbers can learn by heart.

        Returns:
            What could not be told, in words, and the variance of what comes out, all numbers together.
        """
        halves = [_Moments.empty(self.row_dim, len(self.mean_T), self.mean_T.device) for _ in range(2)]
        for block in blocks():
            for half, moments in enumerate(halves):
                moments.add(block, block.item_row_E % 2 == half)
        every = halves[0].plus(halves[1])
        none_XT, mean_T = every.ridge(math.inf)
        spread_TT = every.left(none_XT, mean_T) / every.count
        whiten_TT = inverse_root(spread_TT)
        self.mean_T.copy_(mean_T)
        if not whiten_TT.any():
            self.map_TT.zero_()
            return ("all chains of thought have the same vector: they are left out",), 0.0
        penalty, novel_TT = novel_spread(halves)
        share_TT = novel_share(whiten_TT @ spread_TT @ whiten_TT, whiten_TT @ novel_TT @ whiten_TT)
        map_TT = share_TT @ whiten_TT
        self.map_TT.copy_(map_TT)
        notes = [f"{every.count:,} examples do not show what chains of thought repeat of their rows; all of it counts"]
        return tuple(notes if penalty == math.inf else ()), float((map_TT @ spread_TT @ map_TT.mT).trace())

    def linear(self, cot_ET: Tensor, weight_DT: Tensor) -> Tensor:
        """W·N·P·(c − mean), [E, D]."""
        mapped_DT = weight_DT @ self.map_TT
        return functional.linear(cot_ET, mapped_DT, -(mapped_DT @ self.mean_T))


def inverse_root(spread_TT: Tensor) -> Tensor:
    """(S + ε·I)^(−1/2), ε a share of the mean variance; zeros where there is no variance at all."""
    variance_T, direction_TT = torch.linalg.eigh(spread_TT)
    mean = float(variance_T.mean())
    if mean < _CONSTANT:
        return torch.zeros_like(spread_TT)
    scaled_TT: Tensor = direction_TT * (variance_T.clamp_min(0) + SHRINKAGE * mean).rsqrt()
    return torch.matmul(scaled_TT, direction_TT.mT)


def novel_share(spread_TT: Tensor, novel_TT: Tensor) -> Tensor:
    """The matrix that multiplies each direction by its novel share of the variance, in [0, 1].

    Args:
        spread_TT: Covariance.
        novel_TT: The part of it that is novel.
    """
    variance_T, direction_TT = torch.linalg.eigh(spread_TT)
    there_T = variance_T > 1e-6 * float(variance_T.max())
    root_TT = (direction_TT * torch.where(there_T, variance_T.clamp_min(1e-12).rsqrt(), 0.0)) @ direction_TT.mT
    share_T, direction_TT = torch.linalg.eigh(root_TT @ novel_TT @ root_TT)
    scaled_TT: Tensor = direction_TT * share_T.clamp(0, 1)
    return torch.matmul(scaled_TT, direction_TT.mT)


def novel_spread(halves: Sequence[_Moments]) -> tuple[float, Tensor]:
    """λ, and the covariance of what regressions on either half of the items leave of the other; see `Novelty.fit`.

    λ is infinite where a half is empty, or where rows predict nothing.
    """
    count = sum(half.count for half in halves)
    pairs = ((halves[0], halves[1]), (halves[1], halves[0]))
    tried = PENALTIES if all(half.count for half in halves) else ()
    left = {p: sum((other.left(*half.ridge(p)) for half, other in pairs)) for p in tried}
    if not tried:
        every = halves[0].plus(halves[1])
        left = {math.inf: every.left(*every.ridge(math.inf))}
    best = min(reversed(left), key=lambda penalty: float(torch.as_tensor(left[penalty]).trace()))
    return best, torch.as_tensor(left[best]) / count


@dataclass
class _Moments:
    """Sums over some examples, in float64: all that a regression needs of them; z = x ⊕ c.

    Attributes:
        rows: X.
        count: Examples.
        sum_Z: Σz.
        square_ZZ: Σzzᵀ.
    """

    rows: int
    count: int
    sum_Z: Tensor
    square_ZZ: Tensor

    @classmethod
    def empty(cls, rows: int, texts: int, device: torch.device) -> _Moments:
        """Of no examples."""
        size = rows + texts
        return cls(
            rows, 0, torch.zeros(size, dtype=torch.float64, device=device),
            torch.zeros(size, size, dtype=torch.float64, device=device),
        )  # fmt: skip

    def add(self, block: BankBlock, mask_E: Tensor) -> None:
        """Some examples of a block more."""
        z_EZ = torch.cat([block.item_text_ET, block.history_text_ET, block.cot_ET], 1)[mask_E].double()
        self.count += len(z_EZ)
        self.sum_Z += z_EZ.sum(0)
        self.square_ZZ += z_EZ.mT @ z_EZ

    def plus(self, other: _Moments) -> _Moments:
        """Of both."""
        return _Moments(self.rows, self.count + other.count, self.sum_Z + other.sum_Z, self.square_ZZ + other.square_ZZ)

    def ridge(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Slope [X, T] and offset [T] of c on x; the offset is not penalised."""
        mean_Z = self.sum_Z / self.count
        mean_X, mean_T = mean_Z[: self.rows], mean_Z[self.rows :]
        if penalty == math.inf:
            return mean_T.new_zeros(self.rows, len(mean_T)), mean_T
        centred_XZ = (self.square_ZZ - self.count * torch.outer(mean_Z, mean_Z))[: self.rows]
        square_XX = centred_XZ[:, : self.rows].clone()
        square_XX.diagonal().add_(penalty)
        slope_XT = torch.linalg.solve(square_XX, centred_XZ[:, self.rows :])
        return slope_XT, mean_T - mean_X @ slope_XT

    def left(self, slope_XT: Tensor, offset_T: Tensor) -> Tensor:
        """Σrrᵀ of r = c − x·slope − offset, [T, T]."""
        # r = z·M − offset, M = −slope over I.
        map_ZT = torch.cat([-slope_XT, torch.eye(len(offset_T), dtype=slope_XT.dtype, device=slope_XT.device)])
        cross_TT = torch.outer(self.sum_Z @ map_ZT, offset_T)
        return (
            map_ZT.mT @ self.square_ZZ @ map_ZT - cross_TT - cross_TT.mT + self.count * torch.outer(offset_T, offset_T)
        )
