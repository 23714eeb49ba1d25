"""Checks of `gpu.py`: exact search on the card."""

from __future__ import annotations

import time

import numpy as np
import torch
from gpu_check import Outcome, Setting
from match_exact import DIM, EXAMPLES, LAYOUTS, LIMITED, SHORT, World

ALL = (*LAYOUTS, LIMITED, SHORT)


def search(setting: Setting) -> Outcome:
    """Exact search gives on the device what it gives on the CPU, to the bit, and what sorting all scores gives.

    With either clock, with limits, from products in float32 and bfloat16, in blocks of other sizes. The figure is the
    share of layouts that agree.
    """
    world = World(setting.sized(8192, 64), time.perf_counter, setting.device)
    faults = []
    for layout in ALL:
        ours = world.search(layout, query_block=512, example_block=1000)
        theirs = world.search(layout, device="cpu")
        rows = np.flatnonzero((ours.index_NK != theirs.index_NK).any(1) | (ours.score_NK != theirs.score_NK).any(1))
        if len(rows):
            faults.append(f"{layout}: {len(rows)} of {world.count} queries differ, the first is {rows[0]}")
    _, sorted_alike = world.against_sort(setting.sized(256, 8))
    if not sorted_alike:
        faults.append("sorting all scores gives other matches")
    detail = {"queries": world.count, "examples": EXAMPLES, "dimensions": DIM, "layouts": list(ALL)}
    return Outcome(1 - len(faults) / (len(ALL) + 1), 1.0, detail, faults)


def search_rate(setting: Setting) -> Outcome:
    """Exact search, guards included, against the bare matrix product of the same shape, both in either precision.

    The figure is the lowest share of the float32 product's rate that a layout reaches.
    """
    world = World(setting.sized(175_000, 64), time.perf_counter, setting.device)
    rounds = 3 if setting.judged else 1
    world.compare(LAYOUTS[0], 1)
    rows = [world.compare(layout, rounds) for layout in ALL]
    short = min(world.seconds(lambda: world.product(torch.bfloat16)) for _ in range(rounds + 1))
    seconds = {layout: found for layout, found, _ in rows}
    product = min(found for _, _, found in rows)
    work = 2.0 * world.count * EXAMPLES * DIM
    detail = {
        "queries": world.count, "examples": EXAMPLES, "dimensions": DIM, "seconds": seconds,
        "product_seconds": {"float32": product, "bfloat16": short},
        "product_tflops": {"float32": work / product / 1e12, "bfloat16": work / short / 1e12},
        "share_of_product": {layout: product / found for layout, found in seconds.items()},
        "queries_per_second": {layout: world.count / found for layout, found in seconds.items()},
    }  # fmt: skip
    return Outcome(min(product / seconds[layout] for layout in LAYOUTS), None, detail)
