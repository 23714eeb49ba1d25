"""Exact top-K: the K best allowed examples of every query, in memory bounded by the blocks.

How the result can be the same to the bit for any block size, library and device, at about the price of a
plain product:

1. Vectors are rounded to multiples of 2⁻²⁴ of a power of two near their norm (`grid.py`). These are float32
   numbers whose float64 products are *exact*, whatever the order of summation. Scores are these, rounded to
   float32; ties go to the lower sample id.
2. Candidates come from products whose error is bounded (`product.py`): of float32 numbers or, first, of bfloat16
   numbers, rescored in float32. A query whose last exact score does not clear the best example left out by that
   bound is looked up again with more candidates, then with the next longer numbers and, if its pool is full of
   ties, in a float64 product over all examples.

Guards cost little because of two facts. With examples sorted by time, "strictly before" is a prefix, and blocks
past it are never computed. All other rules concern the query's own sample and examples of its own user, which
joins on the two find. Limits on users and items (`limits.py`) are kept in rounds: a query whose best candidates do
not fill its places is looked up again without what it can take no more of, found by joins too.

Legend: N queries, B queries of a block, R some of these, E examples, D space dimensions, K examples per query,
C candidates, P pools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.features.spans import spans
from llmcf_cli.match.config import ExactSearchConfig
from llmcf_cli.match.grid import FORBIDDEN, decode, encode, exact_scores, on_grid
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.limits import Barred, Choice
from llmcf_cli.match.product import Product
from llmcf_cli.match.ranked import AHEAD, RankedIndex
from llmcf_cli.match.searcher import Balance, Matches

SLACK = 4  # candidates beyond the quota when float32 cannot tell the quota's last from the next
GROUP = 64  # columns whose maximum stands for them when a wide block is searched
REFINED = 1 << 23  # numbers of candidates' vectors held in float64 at once: 64 MiB


class ExactIndex(RankedIndex):
    """Examples ready to be searched; see `exact.ExactSearcher.prepare`. Safe to share between threads."""

    def __init__(
        self,
        config: ExactSearchConfig,
        example_ED: np.ndarray,
        example_keys: Keys,
        example_label_E: np.ndarray,
        *,
        balance: Balance,
        guard: Guard,
    ) -> None:
        label_E = np.asarray(example_label_E)
        check_examples(example_ED, example_keys, label_E)
        super().__init__(example_keys, example_ED.shape[1], config.query_block, guard.limits, device_of(config.device))
        grid_ED, self.scale = on_grid(torch.from_numpy(np.require(example_ED, np.float32, ["C", "W"])), shared=True)
        if balance == "labels":
            members = [np.flatnonzero(label_E == 1), np.flatnonzero(label_E == 0)]
        elif balance == "none":
            members = [np.arange(len(label_E))]
        else:
            raise ValueError(f"balance is {balance!r}, must be 'labels' or 'none'")
        self._pools = [
            Pool(grid_ED, example_keys, self.rank_E, member, guard, config, self.device) for member in members
        ]

    @property
    def pools(self) -> Sequence[Pool]:
        """See `RankedIndex.pools`."""
        return self._pools

    def limited(self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int) -> torch.Tensor:
        """See `RankedIndex.limited`."""

        def nearest(pool: int, rows_R: np.ndarray, count: int, barred: Barred | None) -> torch.Tensor:
            at = torch.from_numpy(rows_R).to(self.device)
            return self._pools[pool].nearest(query_BD[at], scale_B1[at], keys.take(rows_R), count, barred)

        return self._within_limits(nearest, len(keys), quota)

    def of_scores(self, scores: Sequence[torch.Tensor], keys: Keys, k: int) -> Matches:
        """What `search` finds, of queries whose exact scores are known.

        Args:
            scores: Of each pool, float32 [N, columns of the pool], rounded once from exact ones; overwritten.
            keys: Keys of the queries.
            k: Examples per query.
        """
        found = self._nothing(len(keys), k)
        quota = k // len(self._pools)

        def nearest(pool: int, rows_R: np.ndarray, count: int, barred: Barred | None) -> torch.Tensor:
            return self._pools[pool].best(scores[pool][torch.from_numpy(rows_R)], keys.take(rows_R), count, barred)

        if self.limits:
            code_NK = self._within_limits(nearest, len(keys), quota)
        else:
            parts = [pool.best(score, keys, quota) for pool, score in zip(self._pools, scores, strict=True)]
            code_NK = torch.cat(parts, 1).sort(1, descending=True).values
        self._fill(found, slice(0, len(keys)), code_NK)
        return found

    def _within_limits(
        self, nearest: Callable[[int, np.ndarray, int, Barred | None], torch.Tensor], queries: int, quota: int
    ) -> torch.Tensor:
        """Codes [B, K] as limits allow: as far as each round's candidates reach, then without what is barred.

        Args:
            nearest: Pool, rows of queries, candidates for each, and what is barred → codes.
            queries: B.
            quota: Examples from each pool.
        """
        choice = Choice(queries, len(self._pools), quota, self.limits)
        rows_R, barred = np.arange(queries), None
        while len(rows_R):
            parts = [nearest(pool, rows_R, AHEAD * quota, barred) for pool in range(len(self._pools))]
            code_RPC = torch.stack(parts, 1)
            settled_R = choice.walk(rows_R, code_RPC.cpu().numpy(), *self.owners(code_RPC))
            rows_R = rows_R[~settled_R]
            barred = choice.barred(rows_R)
        return torch.from_numpy(choice.code_NK).to(self.device)


class Pool:
    """The examples one quota is filled from, sorted by time when the clock is global."""

    def __init__(
        self,
        grid_ED: torch.Tensor,
        keys: Keys,
        rank_E: np.ndarray,
        member: np.ndarray,
        guard: Guard,
        config: ExactSearchConfig,
        device: torch.device,
    ) -> None:
        self.by_time = guard.by_time
        if self.by_time:
            member = member[np.argsort(keys.time_N[member], kind="stable")]
        self.guard, self.keys, self.block, self.device = guard, keys.take(member), config.example_block, device
        self.vector_ED = grid_ED[torch.from_numpy(member)].to(device)
        shorter = {"float32": (), "bfloat16": (torch.bfloat16,)}[config.product]
        self.products = [Product(self.vector_ED, dtype) for dtype in (*shorter, torch.float32)]
        self.rank_E = torch.from_numpy(rank_E[member]).to(device)
        self.time_E = torch.from_numpy(self.keys.time_N).to(device)
        # Within each block, columns by user and by item: where the joins of `_forbid` look.
        starts = range(0, len(member), self.block)
        self.by_user = {start: Lookup(self.keys.user_row_N[start : start + self.block]) for start in starts}
        self.by_item: dict[int, Lookup] = {}
        if guard.limits.distinct_items or guard.by_item:
            self.by_item = {start: Lookup(self.keys.item_row_N[start : start + self.block]) for start in starts}
        self.by_rank = Lookup(rank_E[member])
        self.by_id = Lookup(self.keys.sample_id_N)

    def nearest(
        self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int, barred: Barred | None = None
    ) -> torch.Tensor:
        """int64 [B, quota] codes (see `grid.encode`) of the best allowed examples that are not barred, best first."""
        best_BK = torch.full((len(query_BD), quota), FORBIDDEN, device=self.device)
        rows = torch.arange(len(query_BD), device=self.device)
        for product in self.products:
            at = rows.cpu().numpy()
            asked = query_BD[rows], scale_B1[rows], keys.take(at), quota, barred and barred.take(at)
            best_BK[rows], settled = self._settle(product, *asked)
            rows = rows[~settled]
            if not len(rows):
                return best_BK
        at = rows.cpu().numpy()
        best_BK[rows] = self._all(query_BD[rows], scale_B1[rows], keys.take(at), quota, barred and barred.take(at))
        return best_BK

    def best(self, score_BE: torch.Tensor, keys: Keys, quota: int, barred: Barred | None = None) -> torch.Tensor:
        """What `nearest` gives, from exact scores of all examples, float32 [B, E]; overwritten."""
        blocks = self._blocks(keys)
        if not blocks:
            return torch.full((len(keys), quota), FORBIDDEN)
        for block in blocks:
            self._forbid(score_BE[:, block], keys, block, barred)
        score_BE = score_BE[:, : blocks[-1].stop]
        value_BC, column_BC = _top(score_BE, quota + 1)
        code_BC = encode(value_BC, self.rank_E[column_BC]).masked_fill_(torch.isinf(value_BC), FORBIDDEN)
        best_BK = code_BC[:, :quota].sort(1, descending=True).values
        # Where the first example left out scores as the last one taken, their sample ids decide.
        tied_B = (value_BC[:, quota - 1] == value_BC[:, quota]) & ~torch.isinf(value_BC[:, quota])
        if tied_B.any():
            code_RE = encode(score_BE[tied_B], self.rank_E[: score_BE.shape[1]])
            code_RE.masked_fill_(torch.isinf(score_BE[tied_B]), FORBIDDEN)
            best_BK[tied_B] = code_RE.topk(quota).values
        return best_BK

    def _settle(
        self, product: Product, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int,
        barred: Barred | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Codes [B, quota] of the best among the candidates of a product, and bool [B], whether none can be better."""
        rough_BC, column_BC, ceiling_B = self._candidates(product, query_BD, keys, quota + SLACK + 1, barred)
        error_B = self.products[-1].error(query_BD)
        best_BK = torch.full((len(query_BD), quota), FORBIDDEN, device=self.device)
        settled_B = torch.zeros(len(query_BD), dtype=torch.bool, device=self.device)
        for width in (quota, quota + SLACK):
            rows = torch.nonzero(~settled_B)[:, 0]
            code = self._refine(query_BD[rows], scale_B1[rows], rough_BC[rows, :width], column_BC[rows, :width])
            best_BK[rows] = code[:, :quota]
            # Settled: none is left out, or none of those left out can round to the last score kept.
            left_out = torch.maximum(rough_BC[rows, width].double() + error_B[rows], ceiling_B[rows])
            last = decode(code[:, quota - 1])[0].double() / scale_B1[rows, 0]
            settled_B[rows] = torch.isinf(left_out) | (last - last.abs() * 2.0**-22 > left_out)
        return best_BK, settled_B

    def _blocks(self, keys: Keys) -> list[slice]:
        """Example blocks that hold anything the queries may see."""
        end = len(self.keys)
        if self.by_time:
            end = int(np.searchsorted(self.keys.time_N, keys.time_N.max(initial=np.iinfo(np.int64).min), side="left"))
        return [slice(start, min(start + self.block, end)) for start in range(0, end, self.block)]

    def _candidates(
        self, product: Product, query_BD: torch.Tensor, keys: Keys, count: int, barred: Barred | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Allowed examples that may be the best.

        Returns:
            float32 scores [B, count], descending, -inf past the last; their columns; and float64 [B]: no exact score of
            an allowed example that is not among them is higher.
        """
        asked = count + product.more
        best_BC = torch.full((len(query_BD), asked), -torch.inf, device=self.device, dtype=product.dtype)
        column_BC = torch.zeros((len(query_BD), asked), dtype=torch.int64, device=self.device)
        blocks, short_BD = self._blocks(keys), query_BD.to(product.dtype)
        widest = max((block.stop - block.start for block in blocks), default=0)
        buffer = torch.empty(len(query_BD) * widest, device=self.device, dtype=product.dtype)
        for block in blocks:
            width = block.stop - block.start
            score_BE = buffer[: len(query_BD) * width].view(len(query_BD), width)
            torch.mm(short_BD, product.vector_ED[block].T, out=score_BE)
            self._forbid(score_BE, keys, block, barred)
            value, column = _top(score_BE, asked)
            merged = torch.cat([best_BC, value], 1)
            best_BC, at = merged.topk(asked)
            column_BC = torch.cat([column_BC, column + block.start], 1).gather(1, at)
        ceiling_B = product.at_most(query_BD, best_BC[:, -1])
        if product.dtype is torch.float32:
            return best_BC, column_BC, ceiling_B
        score_BC = self._rescored(query_BD, best_BC, column_BC)
        score_BC, at = score_BC.sort(1, descending=True)
        return score_BC[:, :count], column_BC.gather(1, at)[:, :count], ceiling_B

    def _rescored(self, query_BD: torch.Tensor, rough_BC: torch.Tensor, column_BC: torch.Tensor) -> torch.Tensor:
        """float32 scores [B, C] of candidates that a product of shorter numbers found."""
        if not len(self.keys):
            return rough_BC.float()
        at_once = max(1, REFINED // (column_BC.shape[1] * self.vector_ED.shape[1]))
        parts = zip(query_BD.split(at_once), column_BC.split(at_once), strict=True)
        score_BC = torch.cat([torch.bmm(self.vector_ED[column], query[:, :, None])[:, :, 0] for query, column in parts])
        return score_BC.masked_fill_(torch.isinf(rough_BC), -torch.inf)

    def _refine(
        self, query_BD: torch.Tensor, scale_B1: torch.Tensor, rough_BC: torch.Tensor, column_BC: torch.Tensor
    ) -> torch.Tensor:
        """Codes [B, C] of candidates by their exact scores, best first."""
        if not len(self.keys):
            return torch.full_like(column_BC, FORBIDDEN)
        at_once = max(1, REFINED // max(1, column_BC.shape[1] * self.vector_ED.shape[1]))
        parts = zip(*(part.split(at_once) for part in (query_BD, column_BC, scale_B1)), strict=True)
        score_BC = torch.cat([exact_scores(query, self.vector_ED[column], scale) for query, column, scale in parts])
        code_BC = encode(score_BC, self.rank_E[column_BC]).masked_fill_(torch.isinf(rough_BC), FORBIDDEN)
        return code_BC.sort(1, descending=True).values

    def _all(
        self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int, barred: Barred | None
    ) -> torch.Tensor:
        """Codes [B, quota] from exact scores of all allowed examples: for pools full of ties."""
        best_BK = torch.full((len(query_BD), quota), FORBIDDEN, device=self.device)
        query = query_BD.double()
        for block in self._blocks(keys):
            score_BE = query @ self.vector_ED[block].double().T
            self._forbid(score_BE, keys, block, barred)
            code_BE = encode((score_BE * scale_B1).float(), self.rank_E[block])
            code_BE.masked_fill_(torch.isinf(score_BE), FORBIDDEN)
            best_BK = torch.cat([best_BK, code_BE], 1).topk(quota).values
        return best_BK

    def _forbid(self, score_BE: torch.Tensor, keys: Keys, block: slice, barred: Barred | None) -> None:
        """Set to -inf, in place, what the guard does not allow and what is barred."""
        if self.by_time:
            sure = int(np.searchsorted(self.keys.time_N[block], keys.time_N.min(), side="left"))
            if sure < score_BE.shape[1]:
                time_B1 = torch.from_numpy(keys.time_N[:, None]).to(self.device)
                score_BE[:, sure:].masked_fill_(self.time_E[block][sure:] >= time_B1, -torch.inf)
        row, column = self._own_examples(keys, block)
        refused = ~self.guard.allowed_pairs(keys.take(row), self.keys.take(column + block.start))
        found = [(row[refused], column[refused])]
        if barred is not None:
            found += self._barred_examples(barred, block)
        for rows, columns in found:
            if len(rows):
                score_BE[torch.from_numpy(rows).to(self.device), torch.from_numpy(columns).to(self.device)] = -torch.inf

    def _own_examples(self, keys: Keys, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Every (query row, block column) that rules other than time can refuse: of one user, one sample, one item."""
        stored = np.flatnonzero(keys.sample_id_N >= 0)
        at, where = self.by_id.find(keys.sample_id_N[stored])
        pairs = [self.by_user[block.start].find(keys.user_row_N), (stored[at], where - block.start)]
        if self.guard.by_item:
            pairs.append(self.by_item[block.start].find(keys.item_row_N))
        row, column = (np.concatenate(side) for side in zip(*pairs, strict=True))
        inside = (column >= 0) & (column < block.stop - block.start)
        return row[inside], column[inside]

    def _barred_examples(self, barred: Barred, block: slice) -> list[tuple[np.ndarray, np.ndarray]]:
        """Every (query row, block column) of a user or item that is barred, and of an example that was taken."""
        taken = np.nonzero(barred.code_RK != FORBIDDEN)
        at, place = self.by_rank.find(decode(torch.from_numpy(barred.code_RK[taken]))[1].numpy())
        found = [(taken[0][at], place - block.start)]
        for lookup, value_RK in ((self.by_user, barred.user_RK), (self.by_item, barred.item_RK)):
            some = np.nonzero(value_RK >= 0)
            if len(some[0]):
                at, column = lookup[block.start].find(value_RK[some])
                found.append((some[0][at], column))
        width = block.stop - block.start
        return [
            (row[inside], column[inside]) for row, column in found if (inside := (column >= 0) & (column < width)).any()
        ]


class Lookup:
    """Where values stand in an array, by binary search."""

    def __init__(self, value_E: np.ndarray) -> None:
        self._order_E = np.argsort(value_E, kind="stable")
        self._sorted_E = value_E[self._order_E]

    def find(self, wanted_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Every (place in `wanted_n`, place in the array) of equal values."""
        first_n = np.searchsorted(self._sorted_E, wanted_n, side="left")
        count_n = np.searchsorted(self._sorted_E, wanted_n, side="right") - first_n
        at, place = spans(first_n, count_n)
        return at, self._order_E[place]


def _top(score_BE: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` highest scores of each row, descending, -inf where there are fewer; and their columns.

    The best `count` lie in the `count` groups of columns with the highest maxima, so only those are sorted.
    """
    rows, width = score_BE.shape
    groups = width // GROUP
    if groups > 2 * count:
        body_BGC = score_BE[:, : groups * GROUP].view(rows, groups, GROUP)
        group_BC = body_BGC.amax(2).topk(count, sorted=False).indices
        offset = torch.arange(GROUP, device=score_BE.device)
        tail = torch.arange(groups * GROUP, width, device=score_BE.device).expand(rows, -1)
        column = torch.cat([(group_BC[:, :, None] * GROUP + offset).flatten(1), tail], 1)
        value, at = score_BE.gather(1, column).topk(count)
        return value, column.gather(1, at)
    value, column = score_BE.topk(min(count, width))
    short = count - value.shape[1]
    return torch.nn.functional.pad(value, (0, short), value=-torch.inf), torch.nn.functional.pad(column, (0, short))


def device_of(name: str) -> torch.device:
    """The device of a setting.

    Raises:
        LlmcfError: There is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise LlmcfError("no GPU found", code="gpu-missing", where="match.search.device", allowed=("auto", "cpu"))
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def check_examples(example_ED: np.ndarray, keys: Keys, label_E: np.ndarray) -> None:
    """Raise a `DataError` for examples that do not fit together; see `Searcher.prepare`."""
    if not len(example_ED) == len(keys) == len(label_E):
        what = f"{len(example_ED)} vectors, {len(keys)} keys and {len(label_E)} labels"
        raise DataError(f"{what} do not fit together", code="vectors-unfit", where="match examples")
    if len(np.unique(keys.sample_id_N)) != len(keys):
        raise DataError(
            "duplicate sample id", code="ids-repeat", where="match examples", hint="keep one example per sample"
        )
    if not np.isfinite(example_ED).all():
        raise DataError(
            "a vector is not finite", code="vectors-not-finite", where="match examples", hint="embed the examples again"
        )
    if not np.isin(label_E, (0, 1)).all():
        raise DataError("a label is neither 0 nor 1", code="match-label", where="match examples")
