"""Samples per second of training DeepFM, against FuxiCTR's and torch-rechub's DeepFM on the same table.

    python benchmarks/train_ranking.py [--quick] [--peers PYTHON]

80,000 samples (--quick: 30,000) in the shape of MovieLens-100K: three user features, a year, genres, a history of 20
pooled with the item's embedding; embeddings of 32, MLP 200-80, Adam, batches of 512, one thread each, data pipelines
included. Ours is `rec.fit.fit` for one epoch with all it does beside: checks, evaluation of a few rows, a checkpoint.
The peers' time is their epoch alone. Sides alternate; medians of CPU time (--wall: of wall time). The peers live in an
environment of their own, which is made if it is missing; the ratio reported is that to the faster of the two.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from environment import Peer, peers_python
from synthetic import Size, task_data

from llmcf_cli.rec.config import DeepFMConfig, NoneConfig
from llmcf_cli.rec.input.dataset import TaskData
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.sections import FitSection

TARGET, BATCH = 1.5, 512
PEERS = ("fuxictr", "torch-rechub")


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--wall", action="store_true", help="wall time, for a machine that is otherwise idle")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of an environment with benchmarks/peers.txt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = task_data(Size(train=30_000 if options.quick else 80_000))
    few = data.splits["validation"].take(slice(0, 256))
    data = dataclasses.replace(data, splits={**data.splits, "validation": few})
    count = len(data.splits["train"])
    seconds = measure(data, peers_python(options.peers), 3 if options.quick else 5, "wall" if options.wall else "cpu")
    rates = {name: count / statistics.median(values) for name, values in seconds.items()}

    print(f"{count:,} samples, DeepFM, batches of {BATCH}, one thread")
    print(f"{'':<16}{'samples/s':>12}{'llmcf is':>12}")
    for name, rate in rates.items():
        print(f"{name:<16}{rate:>12,.0f}{rates['llmcf'] / rate:>10.2f} ×")
    ratio = rates["llmcf"] / max(rates[name] for name in PEERS)
    detail = {"samples": count, "samples_per_second": {name: round(rate) for name, rate in rates.items()}}
    result = {"name": "train_ranking", "ratio": round(ratio, 2), "target": TARGET, "ok": ratio >= TARGET}
    print(json.dumps({**result, "detail": detail}))
    sys.exit(0 if ratio >= TARGET else 1)


def measure(data: TaskData, python: Path, rounds: int, clock: str) -> dict[str, list[float]]:
    """Seconds of epochs, side by side, after one of each to warm up."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(data, folder)
        arguments = (str(folder / "table.npz"), str(folder / "fields.json"), str(BATCH), clock)
        peers = {peer: Peer(python, peer, *arguments) for peer in PEERS}
        seconds: dict[str, list[float]] = {side: [] for side in ("llmcf", *PEERS)}
        for number in range(rounds + 1):
            seconds["llmcf"].append(ours(data, folder / f"work{number}", clock))
            for peer, process in peers.items():
                seconds[peer].append(process.epoch())
        for process in peers.values():
            process.close()
    return {side: values[1:] for side, values in seconds.items()}


def ours(data: TaskData, work: Path, clock: str) -> float:
    """Seconds of a fit of one epoch."""
    seconds = time.perf_counter if clock == "wall" else time.process_time
    model = RecModel(data.resources, DeepFMConfig(), NoneConfig())
    section = FitSection(batch_size=BATCH, learning_rate=1e-3, weight_decay=0, epochs=1)
    started = seconds()
    fit(model, data, section, seed=0, work=work)
    return seconds() - started


def write_table(data: TaskData, folder: Path) -> None:
    """The train split as the peers read it: every row with the features of its user and item."""
    train, catalog = data.splits["train"], data.resources.catalog
    columns, fields = {"label": train.label_N}, []
    for field in data.resources.spec.fields:
        table, row_N = (
            (catalog.users, train.user_row_N) if field.entity == "user" else (catalog.items, train.item_row_N)
        )
        columns[field.name] = table.columns[field.name][row_N]
        fields.append({"name": field.name, "size": field.size, "width": field.width, "shares": None})
    columns["history"] = np.where(train.history_row_NL > 0, catalog.items.columns["item_id"][train.history_row_NL], 0)
    size = next(field["size"] for field in fields if field["name"] == "item_id")
    width = train.history_row_NL.shape[1]
    fields.append({"name": "history", "size": size, "width": width, "shares": "item_id"})
    np.savez(folder / "table.npz", **columns)
    (folder / "fields.json").write_text(json.dumps(fields))


if __name__ == "__main__":
    main()
