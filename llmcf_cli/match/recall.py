"""What an approximate index finds of the exact result, how long it takes, and the cheapest setting that finds enough.

Legend: N queries, K examples per query, D space dimensions, P places of a query that one label fills.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.match.ann import BATCH, AnnIndex
from llmcf_cli.match.guard import Keys
from llmcf_cli.match.lance import COMPRESSED
from llmcf_cli.match.searcher import Matches

PROBES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
REFINE = (2, 4, 8)


@dataclass(frozen=True)
class Measured:
    """An index on a sample of queries.

    Attributes:
        probes: Partitions looked into.
        refine: Candidates per wanted example that compressed kinds rescore.
        recall: Share of the exact result's places that were filled as well; 1 where it has none.
        p50_ms: Median over batches of 64 queries, divided by 64: milliseconds per query.
        p99_ms: 99th percentile likewise.
        exact_p50_ms: Median of comparing all examples, likewise.
        queries: Queries measured.
    """

    probes: int
    refine: int
    recall: float
    p50_ms: float
    p99_ms: float
    exact_p50_ms: float
    queries: int


@dataclass(frozen=True)
class Tuned:
    """Settings of an index, measured.

    Attributes:
        pools: The index's pools, as `AnnIndex.kinds` describes them.
        measured: What was measured, cheapest first; empty if all examples are compared: no setting changes anything.
        best: The fastest that reaches the recall; None if nothing was measured.
    """

    pools: dict[str, dict[str, Any]]
    measured: list[Measured]
    best: Measured | None


class Probe:
    """Sampled queries with the exact answer to them.

    Args:
        index: The index to be measured.
        query_ND: Weighted query vectors; neighbours in time stand together, as in a search for all samples.
        keys: Their keys.
        k: Examples per query.
        progress: Told that they are being answered.
    """

    def __init__(self, index: AnnIndex, query_ND: np.ndarray, keys: Keys, k: int, progress: Progress = SILENT) -> None:
        self.index, self.query_ND, self.keys, self.k = index, query_ND, keys, k
        progress.say(f"{len(keys):,} queries answered exactly, to measure the index's recall")
        exact = index.exact()
        exact.search(query_ND, keys, k=k)  # blocks are made ready
        self.exact, self.exact_ms = self._timed(exact)

    def measure(self, index: AnnIndex) -> Measured:
        """Recall and latency of an index of the same examples."""
        index.search(self.query_ND[:BATCH], self.keys.take(slice(BATCH)), k=self.k)
        found, ms = self._timed(index)
        p50, p99 = np.quantile(ms, (0.5, 0.99))
        hits, places = recalled(found, self.exact, index.examples.label_E, index.examples.balance == "labels")
        return Measured(
            index.config.probes, index.config.refine, hits / places if places else 1.0, float(p50), float(p99),
            float(np.median(self.exact_ms)), len(self.keys),
        )  # fmt: skip

    def sweep(self, recall: float) -> Iterator[Measured]:
        """Every setting from the cheapest on, until one that needs no refining has reached the recall or none is left.

        The exact share that a setting finds grows with its probes, so what comes after could only be slower.
        """
        compressed = any(pool["kind"] in COMPRESSED for pool in self.index.kinds.values())
        for refine in REFINE if compressed else (self.index.config.refine,):
            for probes in PROBES:
                measured = self.measure(self.index.with_effort(probes, refine))
                yield measured
                if measured.recall >= recall:
                    break

    def _timed(self, index: AnnIndex) -> tuple[Matches, np.ndarray]:
        """All queries in batches, and milliseconds per query of each batch."""
        parts, ms = [], []
        for start in range(0, len(self.keys), BATCH):
            block = slice(start, start + BATCH)
            keys, begin = self.keys.take(block), time.perf_counter()
            parts.append(index.search(self.query_ND[block], keys, k=self.k))
            ms.append((time.perf_counter() - begin) / len(keys) * 1e3)
        joined = Matches(np.concatenate([p.index_NK for p in parts]), np.concatenate([p.score_NK for p in parts]))
        return joined, np.array(ms)


def recalled(found: Matches, exact: Matches, label_E: np.ndarray, by_label: bool) -> tuple[int, int]:
    """How many places of the exact result were filled as well, and how many it has.

    An example counts if its score reaches that of the last of the exact result (of its label): which of equal ones is
    found does not matter.
    """
    hits = places = 0
    for label in (0, 1) if by_label else (None,):
        here_NP, there_NP = (_of_label(m, label_E, label) for m in (found, exact))
        last_N1 = np.where(there_NP, exact.score_NK, np.inf).min(axis=1, keepdims=True)
        hits += int((here_NP & (found.score_NK >= last_N1)).sum())
        places += int(there_NP.sum())
    return hits, places


def cheapest(measured: list[Measured], recall: float) -> Measured:
    """The fastest setting that reaches the recall.

    Raises:
        LlmcfError: None does; says what was reached.
    """
    enough = [m for m in measured if m.recall >= recall]
    if not enough:
        best = max(measured, key=lambda m: m.recall)
        raise LlmcfError(
            f"no setting reaches a recall of {recall}: {best.recall:.4f} at {best.probes} probes and refine "
            f"{best.refine}, {best.p50_ms:.2f} ms per query", code="recall-unreachable", where="match.search",
            hint="lower --recall, or set match.search.index: ivf_flat, or match.search: exact",
        )  # fmt: skip
    return min(enough, key=lambda m: m.p50_ms)


def require(measured: Measured, min_recall: float) -> None:
    """Refuse an index that finds too little.

    Raises:
        LlmcfError: With the numbers and what to change.
    """
    if measured.recall < min_recall:
        raise LlmcfError(
            f"the index finds {measured.recall:.4f} of the exact result, below min_recall {min_recall} "
            f"({measured.queries:,} queries, {measured.probes} probes, {measured.p50_ms:.2f} ms per query; exact "
            f"search takes {measured.exact_p50_ms:.2f} ms)", code="recall-too-low", where="match.search",
            hint=f"llmcf match tune RECIPE --recall {min_recall}; or raise match.search.probes, or set search: exact",
        )  # fmt: skip


def runs_in_time(count: int, wanted: int, seed: int) -> np.ndarray:
    """Starts of runs of 64 neighbours among `count` rows in time order: about `wanted` rows, or all, seeded."""
    starts = np.arange(0, count, BATCH)
    chosen = np.random.default_rng(seed).choice(len(starts), min(len(starts), -(-wanted // BATCH)), replace=False)
    return starts[np.sort(chosen)]


def _of_label(matches: Matches, label_E: np.ndarray, label: int | None) -> np.ndarray:
    """bool [N, K]: places filled with examples of a label."""
    filled_NK = matches.index_NK >= 0
    return filled_NK if label is None else filled_NK & (label_E[matches.index_NK] == label)
