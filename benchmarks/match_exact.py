"""Exact search against the bare matrix product of the same shape, and against sorting all scores of every query.

    python benchmarks/match_exact.py [--quick]

175,000 queries × 13,000 examples × 768 dimensions (--quick: 16,384 queries), guards included, half positive and half
negative examples. Three layouts: per-user clock (nothing can be skipped), global clock with queries in random order (a
time mask over every block), global clock with queries in time order (what training does; later examples are
skipped). The ratio reported is the lowest of the three; sorting is compared in time order. Two more lines are outside
the target, with queries in random order: limits (one example per user and distinct items), and candidates found in
bfloat16. Every search prepares its examples anew. Sides alternate in one run, in three rounds with --quick and one at
full size; medians of CPU time on one thread, which other work on the machine disturbs least (--wall: wall time on all
threads, for a machine that is otherwise idle).
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from llmcf_cli.match.config import ExactSearchConfig
from llmcf_cli.match.exact import ExactSearcher
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.limits import Limits
from llmcf_cli.match.searcher import Matches

EXAMPLES, DIM, K = 13_000, 768, 4
TARGET, SORT_TARGET, MEMORY_TARGET = 0.60, 20.0, 2.0
LAYOUTS = ("per-user clock", "global, shuffled", "global, in time order")
LIMITED, SHORT = "with limits", "in bfloat16"
BASE = 4096  # distinct query vectors, repeated, so that the queries take no memory on either side


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer queries")
    parser.add_argument("--wall", action="store_true", help="wall time on all threads")
    options = parser.parse_args()
    clock = time.perf_counter if options.wall else time.process_time
    if not options.wall:
        torch.set_num_threads(1)
    quick = options.quick
    queries, rounds, sorted_queries = (16_384, 3, 256) if quick else (175_000, 1, 1024)

    world = World(queries, clock)
    rows = [world.compare(layout, rounds) for layout in (*LAYOUTS, LIMITED, SHORT)]
    sort_speedup, identical = world.against_sort(sorted_queries)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    print(f"{queries:,} queries × {EXAMPLES:,} examples × {DIM}, K = {K}, {torch.get_num_threads()} threads")
    print(f"{'layout':<24}{'search s':>10}{'product s':>11}{'of its rate':>13}")
    for layout, search, product in rows:
        print(f"{layout:<24}{search:>10.2f}{product:>11.2f}{product / search:>12.0%}")
    print(
        f"sorting every query: {sort_speedup:.0f} × slower, identical results: {identical}; peak memory {peak:.2f} GiB"
    )
    ratio = min(product / search for layout, search, product in rows if layout in LAYOUTS)
    ok = ratio >= TARGET and sort_speedup >= SORT_TARGET and identical and peak < MEMORY_TARGET
    detail = {
        "layouts": {layout: round(product / search, 3) for layout, search, product in rows},
        "queries": queries, "sort_speedup": round(sort_speedup, 1), "sort_target": SORT_TARGET,
        "identical": identical, "peak_gib": round(peak, 2), "peak_target_gib": MEMORY_TARGET,
    }  # fmt: skip
    print(json.dumps({"name": "match_exact", "ratio": round(ratio, 3), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


class World:
    """Seeded unit vectors (history ⊕ item), 20,000 users and as many seconds; examples are spread over the time.

    Args:
        queries: How many.
        clock: Seconds.
        device: Where to search and to multiply.
    """

    def __init__(self, queries: int, clock: Callable[[], float], device: str = "cpu") -> None:
        self.rng = np.random.default_rng(20240)
        self.count, self.clock, self.device = queries, clock, device
        self.example_ED = self._vectors(EXAMPLES)
        self.query_BD = 0.5 * self._vectors(BASE)
        self.label_E = self.rng.integers(0, 2, EXAMPLES)
        self.example_keys = self._keys(EXAMPLES, np.sort(self.rng.integers(0, 20_000, EXAMPLES)), 0)
        self.time_N = self.rng.integers(0, 20_000, queries)
        self.base_keys = self._keys(queries, self.time_N, EXAMPLES)
        self.block = ExactSearchConfig().query_block

    def compare(self, layout: str, rounds: int) -> tuple[str, float, float]:
        """Median seconds of the search and of the bare product."""
        search, product = [], []
        for _ in range(rounds):
            search.append(self.seconds(lambda: self.search(layout)))
            product.append(self.seconds(self.product))
        return layout, statistics.median(search), statistics.median(product)

    def search(self, layout: str, device: str = "", **settings: Any) -> Matches:
        """The matches of all queries in one of the layouts, on a device (none: this world's)."""
        keys = self.base_keys
        if layout.endswith("order"):
            keys = keys.take(np.argsort(self.time_N, kind="stable"))
        limits = Limits(1, True) if layout == LIMITED else Limits()
        guard = Guard("per_user" if layout.startswith("per-user") else "global", limits=limits)
        product = "bfloat16" if layout == SHORT else "float32"
        config = ExactSearchConfig(product=product, device=device or self.device, **settings)
        return self._search(keys, guard, config)

    def against_sort(self, count: int) -> tuple[float, bool]:
        """How many times slower, per query, sorting all scores of every query is; and whether the results agree."""
        guard = Guard("global")
        keys = self.base_keys.take(np.argsort(self.time_N, kind="stable"))
        start = self.clock()
        found = self._search(keys, guard, ExactSearchConfig(device=self.device))
        ours = (self.clock() - start) / self.count
        rows = np.linspace(0, self.count - 1, count).astype(int)
        start = self.clock()
        want_NK = np.array([self._sorted(row, keys, guard) for row in rows])
        theirs = (self.clock() - start) / count
        return theirs / ours, bool((want_NK == found.index_NK[rows]).all())

    def _queries(self, block: slice) -> np.ndarray:
        return self.query_BD[np.arange(block.start, block.stop) % BASE]

    def _search(self, keys: Keys, guard: Guard, config: ExactSearchConfig) -> Matches:
        return ExactSearcher(config).search(
            self._queries,
            keys,
            self.example_ED,
            self.example_keys,
            self.label_E,
            k=K,
            balance="labels",
            guard=guard,
        )

    def product(self, dtype: torch.dtype = torch.float32) -> None:
        """The bare matrix product, block by block, the queries brought to the device as the search does."""
        example_DE = torch.from_numpy(self.example_ED).to(self.device, dtype).T
        size = self.block
        out = torch.empty(size, EXAMPLES, device=self.device, dtype=dtype)
        for start in range(0, self.count, size):
            query_BD = torch.from_numpy(self._queries(slice(start, min(start + size, self.count))))
            query_BD = query_BD.to(self.device, dtype)
            torch.mm(query_BD, example_DE, out=out[: len(query_BD)])
        if self.device == "cuda":
            torch.cuda.synchronize()

    def _sorted(self, row: int, keys: Keys, guard: Guard) -> list[int]:
        score_E = torch.mv(torch.from_numpy(self.example_ED), torch.from_numpy(self.query_BD[row % BASE])).numpy()
        score_E[~guard.allowed(keys.take(slice(row, row + 1)), self.example_keys)[0]] = -np.inf
        order_E = np.argsort(-score_E, kind="stable")
        order_E = order_E[score_E[order_E] > -np.inf]
        best = [order_E[self.label_E[order_E] == label][: K // 2] for label in (1, 0)]
        found = sorted(np.concatenate(best), key=lambda example: (-score_E[example], example))
        return [int(example) for example in found] + [-1] * (K - len(found))

    def seconds(self, work: Callable[[], object]) -> float:
        """How long some work takes."""
        start = self.clock()
        work()
        return self.clock() - start

    def _vectors(self, count: int) -> np.ndarray:
        vector_N2T = self.rng.standard_normal((count, 2, DIM // 2), dtype=np.float32)
        vector_N2T /= np.linalg.norm(vector_N2T, axis=2, keepdims=True)
        return vector_N2T.reshape(count, DIM)

    def _keys(self, count: int, time_N: np.ndarray, first_id: int) -> Keys:
        user_N, item_N = self.rng.integers(1, 20_001, count), self.rng.integers(1, 12_001, count)
        return Keys(np.arange(first_id, first_id + count), user_N, item_N, time_N)


if __name__ == "__main__":
    main()
