"""Approximate top-K over LanceDB: what the guards, the balance and the order promise holds exactly; only which of the
allowed examples are found may differ from exact search, and by how much is measured (`recall.py`).

An index that filters for every query on its own is slow. Here a query's past is cut in two. Cuts stand in time, about
`time_block` examples apart. All queries between two cuts share one filter, so they go to LanceDB together, as a batch
with a prefilter on an indexed column. The examples from the cut to the query's own time are few: they are compared one
by one, by exact search. A query's result depends on no other query.

Besides time, guards refuse only examples of the query's own user or item (and itself), which a join finds. The index is
asked for as many more examples as it may have to give up, the guard decides on every candidate, and a query that still
has fewer than it could is asked again without the index, which compares all. Scores are those of exact search, to the
bit.

Legend: N queries, B queries of a block, E examples, D space dimensions, K examples per query, C candidates.
"""

from __future__ import annotations

import copy
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch

from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.match.config import AnnSearchConfig, ExactSearchConfig
from llmcf_cli.match.exact_index import Lookup, Pool, check_examples
from llmcf_cli.match.grid import FORBIDDEN, encode, exact_scores, on_grid, to_grid
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.lance import COMPRESSED, Kind, Rows, kind_for, open_index, trained_on
from llmcf_cli.match.limits import Choice
from llmcf_cli.match.ranked import AHEAD, RankedIndex
from llmcf_cli.match.searcher import Balance, Searcher

BATCH = 64  # queries that LanceDB is given at once
SLACK = 4  # candidates beyond the quota: equal scores that the index orders otherwise
ROWS_AT_ONCE = 1 << 20  # candidates that LanceDB may give at once
POOLS_KEPT = 8  # blocks between two cuts that stay in memory, of an indexed pool
CPU = torch.device("cpu")


class AnnSearcher(Searcher):
    """Indexes of LanceDB, one for each label, behind exact guards."""

    repeatable = False

    def __init__(
        self, config: AnnSearchConfig | None = None, folder: Path | None = None, progress: Progress = SILENT
    ) -> None:
        self.config = config or AnnSearchConfig()
        self._folder, self._progress = folder, progress

    def kept_in(self, folder: Path, progress: Progress = SILENT) -> AnnSearcher:
        """A searcher whose indexes stay in `folder`: they are opened, resumed or extended instead of built again."""
        return AnnSearcher(self.config, folder, progress)

    def prepare(
        self, example_ED: np.ndarray, example_keys: Keys, example_label_E: np.ndarray, *, balance: Balance, guard: Guard
    ) -> AnnIndex:
        """See `Searcher.prepare`. The vectors are kept by reference and may be a memory map."""
        examples = Examples(example_ED, example_keys, np.asarray(example_label_E), balance, guard)
        return AnnIndex(self.config, examples, self._folder, self._progress)


@dataclass(frozen=True)
class Examples:
    """What an index is made of.

    Attributes:
        vector_ED: float [E, D], unweighted space vectors.
        keys: Their keys.
        label_E: 0 or 1.
        balance: See `Searcher.prepare`.
        guard: Decides what a query may see.

    Raises:
        DataError: See `Searcher.prepare`.
    """

    vector_ED: np.ndarray
    keys: Keys
    label_E: np.ndarray
    balance: Balance
    guard: Guard

    def __post_init__(self) -> None:
        check_examples(self.vector_ED, self.keys, self.label_E)

    def members(self) -> dict[str, np.ndarray]:
        """Name → rows of every pool that a quota is filled from."""
        if self.balance == "labels":
            return {"positive": np.flatnonzero(self.label_E == 1), "negative": np.flatnonzero(self.label_E == 0)}
        return {"all": np.arange(len(self.label_E))}


class AnnIndex(RankedIndex):
    """Examples ready to be searched; see `AnnSearcher.prepare`. Safe to share between threads, not with a fork."""

    def __init__(
        self, config: AnnSearchConfig, examples: Examples, folder: Path | None = None, progress: Progress = SILENT
    ) -> None:
        super().__init__(examples.keys, examples.vector_ED.shape[1], config.query_block, examples.guard.limits, CPU)
        self.config, self.examples, self._folder = config, examples, folder
        self.scale = _shared_scale(examples.vector_ED)
        place = folder
        if place is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="llmcf-ann-")  # removed with this index
            place = Path(self._temporary.name)
        self._pools = {
            name: _AnnPool(config, examples, self.rank_E, member_E, self.scale, place / name, progress)
            for name, member_E in examples.members().items()
        }

    @property
    def kinds(self) -> dict[str, dict[str, Any]]:
        """Pool → the kind of its index, how many examples it has and how many the index was trained on."""
        return {name: pool.described() for name, pool in self._pools.items()}

    @property
    def compares_all(self) -> bool:
        """Whether there is no index: every example is compared, and the result is exact."""
        return all(pool.kind == "flat" for pool in self._pools.values())

    def exact(self) -> AnnIndex:
        """The same examples, all of them compared: what recall is measured against."""
        return AnnIndex(self.config.model_copy(update={"index": "flat"}), self.examples)

    def with_effort(self, probes: int, refine: int) -> AnnIndex:
        """The same index, looked into more or less thoroughly."""
        config = self.config.model_copy(update={"probes": probes, "refine": refine})
        twin = copy.copy(self)
        twin.config = config
        twin._pools = {name: pool.with_config(config) for name, pool in self._pools.items()}
        return twin

    def append(self, vector_ED: np.ndarray, keys: Keys, label_E: np.ndarray, progress: Progress = SILENT) -> AnnIndex:
        """An index of these examples after the ones there are. In the folder that it is kept in only they are written,
        and put into the partitions that exist; with twice the examples these were made for, they are made anew.

        Raises:
            DataError: As `prepare`.
        """
        old = self.examples
        names = ("sample_id_N", "user_row_N", "item_row_N", "time_N")
        both = Keys(*(np.concatenate([getattr(old.keys, name), getattr(keys, name)]) for name in names))
        examples = Examples(
            np.concatenate([old.vector_ED, vector_ED]), both, np.concatenate([old.label_E, label_E]), old.balance,
            old.guard,
        )  # fmt: skip
        return AnnIndex(self.config, examples, self._folder, progress)

    @property
    def pools(self) -> Sequence[_AnnPool]:
        """See `RankedIndex.pools`; of the near examples some may be missed."""
        return list(self._pools.values())

    def limited(self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int) -> torch.Tensor:
        """See `RankedIndex.limited`; from more and more candidates, where they do not settle it."""
        code_BK = torch.full((len(keys), quota * len(self._pools)), FORBIDDEN)
        rows_R, width = np.arange(len(keys)), AHEAD * quota
        while len(rows_R):
            choice = Choice(len(rows_R), len(self._pools), quota, self.limits)
            asked = query_BD[rows_R], scale_B1[rows_R], keys.take(rows_R), width
            code_RPC = torch.stack([pool.nearest(*asked) for pool in self.pools], 1)
            settled_R = choice.walk(np.arange(len(rows_R)), code_RPC.numpy(), *self.owners(code_RPC))
            code_BK[rows_R[settled_R]] = torch.from_numpy(choice.code_NK[settled_R])
            rows_R, width = rows_R[~settled_R], AHEAD * width
        return code_BK


class _AnnPool:
    """The examples one quota is filled from, in order of time and cut into blocks."""

    def __init__(
        self, config: AnnSearchConfig, examples: Examples, rank_E: np.ndarray, member_E: np.ndarray,
        scale: torch.Tensor, folder: Path, progress: Progress,
    ) -> None:  # fmt: skip
        self.config, self.guard, self.by_time = config, examples.guard, examples.guard.by_time
        if self.by_time:
            member_E = member_E[np.argsort(examples.keys.time_N[member_E], kind="stable")]
        self.vector_ED, self.member_E, self.scale = examples.vector_ED, member_E, scale
        self.keys, self.rank_E = examples.keys.take(member_E), rank_E[member_E]
        self.by_id = np.argsort(self.keys.sample_id_N)
        self.by_user, self.by_item = Lookup(self.keys.user_row_N), Lookup(self.keys.item_row_N)
        self.cut_C, self.start_C = self._cuts()
        self.kind: Kind = kind_for(config, len(member_E))
        self.table: Any = None
        if self.kind != "flat":
            rows = Rows(examples.vector_ED, examples.keys, member_E)
            self.table = open_index(folder, rows, self.kind, config, progress)
        self._blocks: OrderedDict[int, Pool] = OrderedDict()
        self._lock = Lock()

    def with_config(self, config: AnnSearchConfig) -> _AnnPool:
        """The same pool with other probes."""
        twin = copy.copy(self)
        twin.config = config
        return twin

    def described(self) -> dict[str, Any]:
        """Kind, examples, and what the index was trained on."""
        trained = trained_on(self.table)[1] if self.table is not None else 0
        return {"kind": self.kind, "examples": len(self.member_E), "trained_on": trained}

    def nearest(self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int) -> torch.Tensor:
        """int64 [B, quota] codes (see `grid.encode`) of the best allowed examples found, best first."""
        best_BK = torch.full((len(query_BD), quota), FORBIDDEN)
        block_B = self._block_of(keys)
        for block in np.unique(block_B):
            row = np.flatnonzero(block_B == block)
            for at in np.array_split(row, -(-len(row) // (16 * BATCH))):
                query = (query_BD[at], scale_B1[at], keys.take(at), quota)
                codes = [self._block(b).nearest(*query) for b in self._compared(block)]
                if self.table is not None and (not self.by_time or block > 0):
                    codes.append(self._indexed(*query, block))
                if codes:
                    best_BK[at] = torch.cat(codes, 1).topk(quota).values
        return best_BK

    def _cuts(self) -> tuple[np.ndarray, np.ndarray]:
        """Times at which blocks start, and their first examples: fewer than `time_block` lie between a cut and any
        later time before the next cut, however many times are equal."""
        size = len(self.member_E)
        if not self.by_time:
            start_C = np.arange(0, max(size, 1), self.config.time_block)
            return np.zeros(len(start_C), np.int64), start_C
        tick_C = self.keys.time_N[:: self.config.time_block]
        lowest, highest = np.iinfo(np.int64).min, np.iinfo(np.int64).max
        cut_C = np.unique(np.concatenate([[lowest], tick_C, np.minimum(tick_C, highest - 1) + 1]))
        return cut_C, np.searchsorted(self.keys.time_N, cut_C, side="left")

    def _block_of(self, keys: Keys) -> np.ndarray:
        """The block that a query's time lies in; the last one where time is no rule."""
        if not self.by_time:
            return np.full(len(keys), len(self.cut_C) - 1)
        return np.searchsorted(self.cut_C, keys.time_N, side="right") - 1

    def _compared(self, block: int) -> Iterator[int]:
        """The blocks whose examples are all compared: the query's own, or without an index all up to it."""
        if self.table is None:
            yield from range(block + 1)
        elif self.by_time:
            yield block

    def _block(self, block: int) -> Pool:
        """A block's examples, ready for exact search."""
        with self._lock:
            if block in self._blocks:
                self._blocks.move_to_end(block)
                return self._blocks[block]
            end = self.start_C[block + 1] if block + 1 < len(self.start_C) else len(self.member_E)
            part = slice(self.start_C[block], end)
            grid_ED = to_grid(self._vectors(self.member_E[part]), self.scale)
            every = np.arange(len(grid_ED))
            whole = ExactSearchConfig(example_block=len(every) or 1)
            pool = Pool(grid_ED, self.keys.take(part), self.rank_E[part], every, self.guard, whole, CPU)
            self._blocks[block] = pool
            while self.table is not None and len(self._blocks) > POOLS_KEPT:
                self._blocks.popitem(last=False)
            return pool

    def _vectors(self, row: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.require(self.vector_ED[row], np.float32, ["C", "W"]))

    def _indexed(
        self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, quota: int, block: int
    ) -> torch.Tensor:
        """Codes [B, quota] of what the index finds before a block (of anything, where time is no rule)."""
        end = int(self.start_C[block]) if self.by_time else len(self.member_E)
        refused_B = self._refused(keys, end)
        code_BK = torch.full((len(query_BD), quota), FORBIDDEN)
        order_B, start = np.argsort(-refused_B, kind="stable"), 0
        while start < len(order_B) and end:
            limit = min(quota + SLACK + int(refused_B[order_B[start]]), end)
            at = order_B[start : start + max(1, min(BATCH, ROWS_AT_ONCE // limit))]
            start += len(at)
            for exhaustive in (False, True):
                found_BC = self._ask(query_BD[at], limit, block, exhaustive)
                code_BK[at] = self._codes(query_BD[at], scale_B1[at], keys.take(at), found_BC, quota)
                missing = (code_BK[at] != FORBIDDEN).sum(1).numpy() < np.minimum(quota, end - refused_B[at])
                at = at[missing]
                if not len(at):
                    break
        return code_BK

    def _refused(self, keys: Keys, end: int) -> np.ndarray:
        """[B]: how many of the first `end` examples the guard refuses: of the query's user, its item, or itself."""
        itself_B = self._position(keys.sample_id_N)
        pairs = [
            self.by_user.find(keys.user_row_N),
            (np.flatnonzero(itself_B >= 0), itself_B[itself_B >= 0]),
        ]
        if self.guard.by_item:
            pairs.append(self.by_item.find(keys.item_row_N))
        row, example = np.unique(np.concatenate([np.stack(pair, 1) for pair in pairs]), axis=0).T
        refused = ~self.guard.allowed_pairs(keys.take(row), self.keys.take(example)) & (example < end)
        return np.bincount(row[refused], minlength=len(keys))

    def _position(self, sample_id: np.ndarray) -> np.ndarray:
        """Positions of examples by sample id; -1 for what is no example of this pool."""
        ids = self.keys.sample_id_N[self.by_id]
        at = np.minimum(np.searchsorted(ids, sample_id), len(ids) - 1)
        return np.where((ids[at] == sample_id) & (sample_id >= 0), self.by_id[at], -1)

    def _ask(self, query_BD: torch.Tensor, limit: int, block: int, exhaustive: bool) -> np.ndarray:
        """Positions [B, C] of the examples that LanceDB finds, nearest first, -1 past the last."""
        vectors = list(query_BD.numpy())
        search = self.table.search(vectors if len(vectors) > 1 else vectors[0], vector_column_name="vector")
        search = search.distance_type("dot").select(["sample_id", "_distance"]).limit(limit)
        if self.by_time:
            search = search.where(f"time < {int(self.cut_C[block])}", prefilter=True)
        if exhaustive:
            search = search.bypass_vector_index()
        else:
            search = search.nprobes(self.config.probes)
            if self.kind in COMPRESSED:
                search = search.refine_factor(self.config.refine)
        rows = search.to_arrow()
        row = rows["query_index"].to_numpy() if len(vectors) > 1 else np.zeros(rows.num_rows, np.int64)
        order = np.lexsort((rows["_distance"].to_numpy(), row))
        row, position = row[order], self._position(rows["sample_id"].to_numpy()[order])
        found_BC = np.full((len(vectors), limit), -1, np.int64)
        place = np.arange(len(row)) - np.searchsorted(row, row, side="left")
        found_BC[row, place] = position
        return found_BC

    def _codes(
        self, query_BD: torch.Tensor, scale_B1: torch.Tensor, keys: Keys, found_BC: np.ndarray, quota: int
    ) -> torch.Tensor:
        """Codes [B, quota] of the allowed among candidates, by their exact scores, best first."""
        width = found_BC.shape[1]
        query = keys.take(np.repeat(np.arange(len(keys)), width))
        flat = found_BC.reshape(-1)
        allowed_BC = (self.guard.allowed_pairs(query, self.keys.take(flat)) & (flat >= 0)).reshape(found_BC.shape)
        # The nearest of the allowed first, and of these no more than can matter.
        kept = np.argsort(~allowed_BC, axis=1, kind="stable")[:, : quota + SLACK]
        found_BC, allowed_BC = np.take_along_axis(found_BC, kept, 1), np.take_along_axis(allowed_BC, kept, 1)
        candidate = to_grid(self._vectors(self.member_E[found_BC.reshape(-1)]), self.scale)
        score_BC = exact_scores(query_BD, candidate.view(*found_BC.shape, -1), scale_B1)
        code_BC = encode(score_BC, torch.from_numpy(self.rank_E[found_BC]))
        code_BC.masked_fill_(torch.from_numpy(~allowed_BC), FORBIDDEN)
        best_BK = code_BC.topk(min(quota, code_BC.shape[1])).values
        return torch.nn.functional.pad(best_BK, (0, quota - best_BK.shape[1]), value=FORBIDDEN)


def _shared_scale(vector_ED: np.ndarray) -> torch.Tensor:
    """The one scale that `on_grid` gives all rows together, without a copy of them."""
    scale = torch.zeros((1, 1), dtype=torch.float64)
    for start in range(0, len(vector_ED), BATCH * BATCH):
        rows = torch.from_numpy(np.require(vector_ED[start : start + BATCH * BATCH], np.float32, ["C", "W"]))
        scale = torch.maximum(scale, on_grid(rows, shared=True)[1])
    return scale if len(vector_ED) else torch.ones((1, 1), dtype=torch.float64)
