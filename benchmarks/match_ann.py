"""Approximate search under guards (label and time) against exact search of the same examples in the same run.

    python benchmarks/match_ann.py [--quick]

200,000 examples of 768 dimensions (--quick), and without it also 100,000 and 1,000,000, for the growth. K = 4, half
positive and half negative, global clock, in batches of 64 queries that are neighbours in time, as a search for all
samples makes them; probes are the fewest that reach the recall, as `llmcf match tune` finds them. Exact search stands
in blocks in memory; both sides go by the same code but for the index. Vectors are what the text space makes of made-up
items: 60,000 of them in 400 topics of very unequal size, histories of 20 items, most from the three topics that a user
likes. Wall time on all cores.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time

import numpy as np

from llmcf_cli.match.ann import AnnSearcher
from llmcf_cli.match.config import AnnSearchConfig, TextSpaceConfig
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.recall import Measured, Probe, cheapest, runs_in_time
from llmcf_cli.match.space import TextSpace

SIZE, GROWTH, TEXT, K = 200_000, (100_000, 1_000_000), 384, 4
ITEMS, USERS, TOPICS, LENGTH, SECONDS = 60_000, 50_000, 400, 20, 100_000_000
RECALL, MS, GROWTH_TARGET = 0.95, 5.0, 3.0


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200,000 examples only")
    sizes = (SIZE,) if parser.parse_args().quick else (GROWTH[0], SIZE, GROWTH[1])

    print(
        f"{'examples':>10}{'probes':>8}{'recall@4':>10}{'p50 ms':>9}{'p99 ms':>9}{'exact p50 ms':>14}{'build s':>9}",
        flush=True,
    )
    found: dict[int, Measured] = {}
    for size in sizes:
        seconds, found[size] = World(size).compare()
        m = found[size]
        print(
            f"{size:>10,}{m.probes:>8}{m.recall:>10.4f}{m.p50_ms:>9.2f}{m.p99_ms:>9.2f}{m.exact_p50_ms:>14.2f}{seconds:>9.1f}",
            flush=True,
        )
    at = found[SIZE]
    growth = None if len(sizes) == 1 else found[GROWTH[1]].p50_ms / found[GROWTH[0]].p50_ms
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"per query, in batches of 64; growth of p50 from {GROWTH[0]:,} to {GROWTH[1]:,}: {growth or float('nan'):.2f}"
    )
    ok = all(m.recall >= RECALL for m in found.values()) and at.p50_ms <= MS and (growth or 0) < GROWTH_TARGET
    detail = {
        "recall": round(at.recall, 4), "recall_target": RECALL, "p50_ms": round(at.p50_ms, 3), "p50_target_ms": MS,
        "p99_ms": round(at.p99_ms, 3), "exact_p50_ms": round(at.exact_p50_ms, 3), "probes": at.probes,
        "growth": growth and round(growth, 2), "growth_target": GROWTH_TARGET, "peak_gib": round(peak, 2),
    }  # fmt: skip
    ratio = at.exact_p50_ms / at.p50_ms
    print(json.dumps({"name": "match_ann", "ratio": round(ratio, 2), "target": 1.0, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


class World:
    """Seeded items with topics, users with tastes; examples and queries are (history, item) over the same time."""

    def __init__(self, size: int) -> None:
        self.rng = np.random.default_rng(20240)
        self.space = TextSpace(TextSpaceConfig(encoder="asset:any"))
        self.topic_I = np.minimum((self.rng.pareto(1.2, ITEMS) * 30).astype(int), TOPICS - 1)
        self.item_ID = self._items()
        self.by_topic = np.argsort(self.topic_I, kind="stable")
        self.first_T = np.searchsorted(self.topic_I[self.by_topic], np.arange(TOPICS + 1))
        known_T = np.flatnonzero(np.diff(self.first_T))
        self.taste_U3 = self.rng.choice(known_T, (USERS, 3))
        item_N, history_NL, self.keys = self._rows(size, 0)
        self.example_ED = self.space.example_vectors(self.item_ID, item_N, history_NL)
        self.label_E = self.rng.integers(0, 2, size)

    def compare(self) -> tuple[float, Measured]:
        """Seconds to build the index, and what it does."""
        start = time.perf_counter()
        index = AnnSearcher(AnnSearchConfig()).prepare(
            self.example_ED, self.keys, self.label_E, balance="labels", guard=Guard("global")
        )
        seconds = time.perf_counter() - start
        size = len(self.keys)
        item_N, history_NL, keys = self._rows(size, size)
        row = np.concatenate([np.arange(at, min(at + 64, size)) for at in runs_in_time(size, 1024, 0)])
        row = np.argsort(keys.time_N, kind="stable")[row]
        query_ND = self.space.query_vectors(self.item_ID, item_N[row], history_NL[row])
        probe = Probe(index, query_ND, keys.take(row), K)
        return seconds, cheapest(list(probe.sweep(RECALL)), RECALL)

    def _items(self) -> np.ndarray:
        """Unit vectors around their topic, more numbers of which matter less, and something that all share."""
        weight_D = (1 + np.arange(TEXT)) ** -0.25
        topic_TD = self.rng.standard_normal((TOPICS, TEXT))
        item_ID = topic_TD[self.topic_I] + self.rng.standard_normal((ITEMS, TEXT)) + self.rng.standard_normal(TEXT)
        item_ID *= weight_D
        item_ID /= np.linalg.norm(item_ID, axis=1, keepdims=True)
        return np.concatenate([np.zeros((1, TEXT)), item_ID]).astype(np.float32)

    def _rows(self, count: int, first_id: int) -> tuple[np.ndarray, np.ndarray, Keys]:
        """Items and histories, four fifths from the user's topics, popular items of a topic first."""
        user_N = self.rng.integers(0, USERS, count)
        row_NL = np.empty((count, LENGTH + 1), np.int32)
        for place in range(LENGTH + 1):
            topic_N = self.taste_U3[user_N, self.rng.integers(0, 3, count)]
            size_N = self.first_T[topic_N + 1] - self.first_T[topic_N]
            liked_N = self.by_topic[self.first_T[topic_N] + (self.rng.random(count) ** 2 * size_N).astype(int)]
            any_N = self.rng.integers(0, ITEMS, count)
            row_NL[:, place] = 1 + np.where(self.rng.random(count) < 0.8, liked_N, any_N)
        time_N = self.rng.integers(0, SECONDS, count)
        keys = Keys(np.arange(first_id, first_id + count), user_N + 1, row_NL[:, 0], time_N)
        return row_NL[:, 0], row_NL[:, 1:], keys


if __name__ == "__main__":
    main()
