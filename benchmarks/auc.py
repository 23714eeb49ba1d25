"""AUC of many scores, against scikit-learn's roc_auc_score.

    python benchmarks/auc.py [--quick]

10 million float32 logits with ties (--quick: 2 million). Sides alternate; medians of CPU time on one thread (--wall: of
wall time). Both must agree to 1e-12. GAUC over 100,000 users is timed beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import roc_auc_score

from llmcf_cli.rec.measure.base import Truth
from llmcf_cli.rec.measure.ranking import AUC, GroupAUC

TARGET, SECONDS_TARGET, USERS = 1.0, 5.0, 100_000


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer scores")
    parser.add_argument("--wall", action="store_true", help="wall time, for a machine that is otherwise idle")
    options = parser.parse_args()
    count = 2_000_000 if options.quick else 10_000_000
    rng = np.random.default_rng(20240)
    label_N = rng.integers(0, 2, count).astype(np.float32)
    logit_N = rng.standard_normal(count, dtype=np.float32) + 0.5 * label_N
    logit_N[: count // 4] = np.round(logit_N[: count // 4], 2)
    truth = Truth(label_N, rng.integers(1, USERS + 1, count, dtype=np.int32))

    sides = {
        "auc": lambda: AUC().value(logit_N, truth), "roc_auc_score": lambda: roc_auc_score(label_N, logit_N),
        "gauc": lambda: GroupAUC().value(logit_N, truth),
    }  # fmt: skip
    seconds, values = measure(sides, time.perf_counter if options.wall else time.process_time)
    difference = abs(values["auc"] - values["roc_auc_score"])

    print(f"{count:,} scores, {USERS:,} users")
    for name, value in seconds.items():
        print(f"{name:<16}{value:>8.2f} s{values[name]:>12.6f}")
    ratio = seconds["roc_auc_score"] / seconds["auc"]
    ok = ratio >= TARGET and difference <= 1e-12 and seconds["auc"] < SECONDS_TARGET
    detail = {
        "scores": count, "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "seconds_target": SECONDS_TARGET, "difference": difference,
    }  # fmt: skip
    print(json.dumps({"name": "auc", "ratio": round(ratio, 2), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def measure(
    sides: dict[str, Callable[[], float]], clock: Callable[[], float]
) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each side in three rounds, and its value."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    values = {}
    for _ in range(3):
        for name, side in sides.items():
            started = clock()
            values[name] = float(side())
            seconds[name].append(clock() - started)
    return {name: statistics.median(found) for name, found in seconds.items()}, values


if __name__ == "__main__":
    main()
