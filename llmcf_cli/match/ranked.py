"""What exact and approximate search share: queries block by block, pools merged by code, owners under limits.

Legend: N queries, B queries of a block, R some of these, E examples, D space dimensions, K examples per query,
C candidates, P pools.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.match.grid import FORBIDDEN, decode, on_grid
from llmcf_cli.match.guard import Keys
from llmcf_cli.match.limits import Limits
from llmcf_cli.match.searcher import Matches, Queries

AHEAD = 3
"""Under limits, candidates of a round for every place to fill."""


class RankedPool(Protocol):
    """The examples one quota is filled from."""

    def nearest(self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int) -> torch.Tensor:
        """int64 [B, quota] codes (see `grid.encode`) of the best allowed examples, best first."""


class RankedIndex(ABC):
    """Examples ready to be searched. Codes rank them by score and then by sample id, so no order of work matters.

    Args:
        keys: Of the examples.
        dim: D.
        query_block: Most queries looked up at once.
        limits: On users and items.
        device: Where scores are computed.
    """

    scale: torch.Tensor
    """The scale that the examples' grid shares, see `grid.on_grid`."""

    def __init__(self, keys: Keys, dim: int, query_block: int, limits: Limits, device: torch.device) -> None:
        self.dim, self.query_block, self.limits, self.device = dim, query_block, limits, device
        self._order_E = np.argsort(keys.sample_id_N, kind="stable")
        self.rank_E = np.empty(len(self._order_E), np.int64)
        self.rank_E[self._order_E] = np.arange(len(self._order_E))
        self._user_of_rank_E, self._item_of_rank_E = keys.user_row_N[self._order_E], keys.item_row_N[self._order_E]

    @property
    @abstractmethod
    def pools(self) -> Sequence[RankedPool]:
        """One for each label, or one for all."""

    @abstractmethod
    def limited(self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int) -> torch.Tensor:
        """int64 [B, K] codes, chosen greedily from the best down, as the limits allow."""

    def search(self, queries: Queries, query_keys: Keys, *, k: int, progress: Progress = SILENT) -> Matches:
        """The `k` best allowed examples of every query.

        With `balance: labels` these are up to k/2 positive and up to k/2 negative ones in one order. Where a
        class has too few, its places stay empty rather than go to the other class.

        Args:
            queries: float [N, D] weighted space vectors, or a function that makes the rows of a slice when
                asked, so that [N, D] need never exist.
            query_keys: Keys of the queries, in the same order.
            k: Examples per query.
            progress: Told of queries done.

        Raises:
            LlmcfError: `k` cannot be halved between labels.
            DataError: Query vectors have another dimension or are not finite.
        """
        total = len(query_keys)
        found = self._nothing(total, k)
        with progress.task("match", total, "queries") as task:
            for start in range(0, total, self.query_block):
                block = slice(start, min(start + self.query_block, total))
                rows_BD = queries[block] if isinstance(queries, np.ndarray) else queries(block)
                self._search_block(rows_BD, query_keys.take(block), found, block)
                task.advance(block.stop - block.start)
        return found

    def _nothing(self, queries: int, k: int) -> Matches:
        """Matches to be filled."""
        if k < 1 or k % len(self.pools):
            raise LlmcfError(
                f"k is {k}, but balance: labels needs a positive even number", code="k-uneven", where="match.k"
            )
        return Matches(np.full((queries, k), -1, np.int32), np.zeros((queries, k), np.float32))

    def owners(self, code_RPC: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Users and items [R, P, C] of the examples that codes stand for; -1 for none."""
        empty_RPC = (code_RPC == FORBIDDEN).cpu().numpy()
        rank_RPC = np.where(empty_RPC, -1, decode(code_RPC)[1].cpu().numpy())
        user_RPC, item_RPC = (
            np.where(empty_RPC, -1, np.append(of_rank_E, -1)[rank_RPC])
            for of_rank_E in (self._user_of_rank_E, self._item_of_rank_E)
        )
        return user_RPC, item_RPC

    def _search_block(self, rows_BD: np.ndarray, keys: Keys, found: Matches, block: slice) -> None:
        if rows_BD.shape != (len(keys), self.dim) or not np.isfinite(rows_BD).all():
            raise DataError(
                f"query vectors {rows_BD.shape} must be finite and of shape {(len(keys), self.dim)}",
                code="vectors-not-finite",
                where="match search",
            )
        rows = torch.from_numpy(np.require(rows_BD, np.float32, ["C", "W"])).to(self.device)
        query_BD, scale_B1 = on_grid(rows, shared=False)
        quota = found.index_NK.shape[1] // len(self.pools)
        best = self.limited if self.limits else self._nearest
        self._fill(found, block, best(query_BD, scale_B1 * self.scale, keys, quota))

    def _fill(self, found: Matches, block: slice, code_BK: torch.Tensor) -> None:
        """Write what codes stand for as the matches of some queries."""
        score_BK, rank_BK = decode(code_BK)
        empty_BK = (code_BK == FORBIDDEN).cpu().numpy()
        index_BK = self._order_E[np.where(empty_BK, 0, rank_BK.cpu().numpy())] if len(self._order_E) else -1
        found.index_NK[block] = np.where(empty_BK, -1, index_BK)
        found.score_NK[block] = np.where(empty_BK, 0.0, score_BK.cpu().numpy())

    def _nearest(self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int) -> torch.Tensor:
        """int64 [B, K] codes of the best `quota` of each pool, best first."""
        parts = [pool.nearest(query_BD, scale_B1, keys, quota) for pool in self.pools]
        return torch.cat(parts, 1).sort(1, descending=True).values
