"""Measures of the whole catalogue, against plain torch.

    python benchmarks/catalogue.py [--quick] [--wall]

22,363 users and 12,101 items, as Amazon Beauty has (--quick: 4,000 users), vectors of 64 numbers, seen items left
out: each target's rank, the 50 best items, and all measures. Plain torch multiplies, masks, and takes `topk` and the
count of higher scores, 1,024 users at a time; it breaks no ties and measures nothing. Sides alternate; medians of CPU
time on one thread. Ranks and lists must be the same, and 200 users' lists those of a sort in NumPy.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import time

import numpy as np
import torch

from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.retrieval import ranked
from llmcf_cli.rec.retrieval.config import RetrievalConfig
from llmcf_cli.rec.retrieval.task import Retrieval

ITEMS, DIM, PEER_BATCH, SORTED = 12_101, 64, 1024, 200
TARGET, SECONDS_TARGET, MEMORY_TARGET = 1.0, 3.0, 2.0


class Case:
    """Random users, items, targets and seen items."""

    def __init__(self, users: int) -> None:
        rng = np.random.default_rng(7)
        self.user_ND = torch.from_numpy(rng.standard_normal((users, DIM), dtype=np.float32))
        self.item_ID = torch.from_numpy(rng.standard_normal((ITEMS + 1, DIM), dtype=np.float32))
        self.target_N = rng.integers(1, ITEMS + 1, users)
        size_N = rng.integers(4, 14, users)
        self.owner_S = np.repeat(np.arange(users), size_N)
        self.offset_N = np.concatenate([[0], np.cumsum(size_N)])
        seen_S = rng.integers(1, ITEMS + 1, len(self.owner_S))
        self.seen_S = np.where(seen_S == self.target_N[self.owner_S], seen_S % ITEMS + 1, seen_S)
        taken_I = np.bincount(self.seen_S, minlength=ITEMS + 1)
        self.truth = Truth(self.target_N.astype(np.float32), np.arange(1, users + 1, dtype=np.int32), taken_I)

    def seen(self, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Whose each seen item is, and its row."""
        part = slice(self.offset_N[block.start], self.offset_N[block.stop])
        return self.owner_S[part] - block.start, self.seen_S[part]


@torch.inference_mode()
def ours(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and lists; and all measures of them."""
    memory, item_DI = torch.empty(0), case.item_ID.T

    def scores(block: slice) -> torch.Tensor:
        return torch.mm(case.user_ND[block], item_DI, out=memory.resize_(block.stop - block.start, ITEMS + 1))

    found = ranked.predictions(scores, torch.from_numpy(case.target_N), case.seen, ITEMS).numpy()
    for measure in Retrieval(RetrievalConfig()).measures:
        measure.values(found, case.truth)
    return ranked.rank_of(found), ranked.items_of(found)


@torch.inference_mode()
def plain(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Ranks and lists."""
    ranks, lists = [], []
    for start in range(0, len(case.user_ND), PEER_BATCH):
        block = slice(start, min(start + PEER_BATCH, len(case.user_ND)))
        score_BI = case.user_ND[block] @ case.item_ID.T
        score_BI[:, 0] = -torch.inf
        owner_S, seen_S = map(torch.from_numpy, case.seen(block))
        score_BI[owner_S, seen_S] = -torch.inf
        lists.append(score_BI.topk(ranked.LISTED).indices)
        own_B1 = score_BI.gather(1, torch.from_numpy(case.target_N[block])[:, None])
        ranks.append(1 + (score_BI > own_B1).sum(1))
    return torch.cat(ranks).numpy(), torch.cat(lists).numpy()


def sorted_lists(case: Case) -> np.ndarray:
    """Lists of the first users by NumPy."""
    score_NI = (case.user_ND[:SORTED] @ case.item_ID.T).numpy()
    owner_S, seen_S = case.seen(slice(0, SORTED))
    score_NI[:, 0] = score_NI[owner_S, seen_S] = -np.inf
    return np.argsort(-score_NI, axis=1, kind="stable")[:, : ranked.LISTED]


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer users")
    parser.add_argument("--wall", action="store_true", help="wall time, for a machine that is otherwise idle")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = Case(4_000 if options.quick else 22_363)
    clock = time.perf_counter if options.wall else time.process_time
    seconds, found = {"llmcf": [], "torch": []}, {}
    for _ in range(3):
        for name, side in (("llmcf", ours), ("torch", plain)):  # ours first: the peak of memory is its own
            started = clock()
            found[name] = side(case)
            seconds[name].append(clock() - started)
            if name == "llmcf" and len(seconds["llmcf"]) == 1:
                gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    median = {name: statistics.median(values) for name, values in seconds.items()}
    # Blocks of another size sum in another order, which may swap two items that are equal to the last digit.
    same = np.mean([(one == other).mean() for one, other in zip(found["llmcf"], found["torch"], strict=True)])
    right = (found["llmcf"][1][:SORTED] == sorted_lists(case)).mean()

    print(f"{len(case.user_ND):,} users, {ITEMS:,} items, one thread")
    for name, value in median.items():
        print(f"{name:<8}{value:>8.2f} s")
    print(f"same ranks and lists {same:.4%}, as sorted {right:.4%}, peak {gib:.2f} GiB")
    ratio = median["torch"] / median["llmcf"]
    fast = options.quick or median["llmcf"] < SECONDS_TARGET
    ok = ratio >= TARGET and fast and gib < MEMORY_TARGET and same > 0.999 and right > 0.999
    detail = {
        "seconds": {name: round(value, 2) for name, value in median.items()}, "seconds_target": SECONDS_TARGET,
        "gib": round(gib, 2), "same": round(float(same), 6),
    }  # fmt: skip
    result = {"name": "catalogue", "ratio": round(ratio, 2), "target": TARGET, "ok": bool(ok), "detail": detail}
    print(json.dumps(result))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
