"""SASRec's sequences per second against RecTools' and RecBole's, and the time of a list over 100,000 items.

    python benchmarks/retrieval.py [--quick] [--wall] [--peers PYTHON]

Training: 4,000 users (--quick: 1,000) with 5 to 30 events of 12,101 items; vectors of 64, one block and head, length
50, batches of 128, dropout 0.2, Adam, one thread each, data pipelines included. Three losses: sampled softmax with 64
negatives, which a batch of ours shares while RecTools draws them for each position; gBCE with 64, which both draw for
each position, so that both do the same work; and softmax over all items, RecBole's own, which makes an example of every
prefix of a user's events. Ours is `rec.fit.fit` for one epoch with all it does beside:
evaluation of some users, a checkpoint. RecTools' time is its loop over batches alone. Sides alternate; medians of CPU
time (--wall: of wall time).

Lists: `Scorer.recommend` for one known user over 100,000 items, k = 10, seen items left out, by a bundle of SASRec; the
median of calls, and whether the lists are those of a sort of all scores in NumPy.
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

from llmcf_cli.data.ingest import ingest
from llmcf_cli.features.batch import Samples, to_batch
from llmcf_cli.features.spec import FIRST_ID
from llmcf_cli.plugin import registry
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import NoneConfig
from llmcf_cli.rec.input.dataset import TaskData, load_task_data
from llmcf_cli.rec.retrieval.config import (
    GBCEConfig,
    RetrievalConfig,
    SampledSoftmaxConfig,
    SASRecConfig,
    SoftmaxConfig,
)
from llmcf_cli.rec.retrieval.model import RetrievalModel
from llmcf_cli.rec.retrieval.task import Retrieval
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.recipe.sections import FitSection
from llmcf_cli.serve.scorer import Scorer

TARGET, RECBOLE_TARGET, MILLISECONDS_TARGET = 2.0, 3.0, 5.0
SIZES = {"layers": 1, "heads": 1, "dim": 64, "dropout": 0.2, "length": 50, "negatives": 64, "rate": 1e-3, "batch": 128}
LOSSES = {
    "sampled_softmax": SampledSoftmaxConfig(negatives=SIZES["negatives"]),
    "gBCE": GBCEConfig(negatives=SIZES["negatives"]),
    "softmax": SoftmaxConfig(),
}
PEERS = {"sampled_softmax": "RecTools", "gBCE": "RecTools", "softmax": "RecBole"}
SECONDS = {"cpu": time.process_time, "wall": time.perf_counter}
BACKBONE = SASRecConfig(embedding_dim=64, layers=1, heads=1, dropout=0.2)


def main() -> None:
    """Run, print the tables and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer users, fewer rounds")
    parser.add_argument("--wall", action="store_true", help="wall time, for a machine that is otherwise idle")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of an environment with benchmarks/peers.txt")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, clock = 2 if options.quick else 3, "wall" if options.wall else "cpu"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rates = trained(folder, 1_000 if options.quick else 4_000, peers_python(options.peers), rounds, clock)
        milliseconds, p99, same = listed(folder, 100_000, 100 if options.quick else 400, clock)
    ratios = {loss: sides["llmcf"] / sides["peer"] for loss, sides in rates.items()}
    print(f"{'':<18}{'llmcf':>12}{'peer':>12}   sequences per second")
    for loss, sides in rates.items():
        print(f"{loss:<18}{sides['llmcf']:>12,.0f}{sides['peer']:>12,.0f}{ratios[loss]:>10.2f} ×  {PEERS[loss]}")
    print(f"recommend, 100,000 items: p50 {milliseconds:.2f} ms, p99 {p99:.2f} ms, same as a sort: {same}")
    ratio = ratios["sampled_softmax"]
    enough = ratio >= TARGET and ratios["softmax"] >= RECBOLE_TARGET
    ok = bool(enough and milliseconds <= MILLISECONDS_TARGET and same)
    detail = {
        "sequences_per_second": {loss: {side: round(rate) for side, rate in of.items()} for loss, of in rates.items()},
        "ratios": {loss: round(value, 2) for loss, value in ratios.items()}, "recommend_p50_ms": round(milliseconds, 2),
        "recommend_p99_ms": round(p99, 2), "recommend_target_ms": MILLISECONDS_TARGET, "same_as_sort": same,
    }  # fmt: skip
    print(json.dumps({"name": "retrieval", "ratio": round(ratio, 2), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def trained(folder: Path, users: int, python: Path, rounds: int, clock: str) -> dict[str, dict[str, float]]:
    """Loss → side → sequences per second; a sequence is a user, on both sides."""
    data = world(folder / "train", users, 12_101)
    train = data.splits["train"]
    np.savez(folder / "events.npz", user=train.user_row_N, item=train.item_row_N, time=train.time_N)
    few = slice(0, 256)
    data = dataclasses.replace(
        data, splits={**data.splits, "validation": data.splits["validation"].take(few)},
        targets={**data.targets, "validation": data.targets["validation"][few]},
    )  # fmt: skip
    seconds = SECONDS[clock]
    section = FitSection(batch_size=SIZES["batch"], learning_rate=SIZES["rate"], weight_decay=0, epochs=1)
    found = {}
    for loss, config in LOSSES.items():
        peer = Peer(python, str(folder / "events.npz"), loss, json.dumps(SIZES), clock, script="peers_retrieval.py")
        taken: dict[str, list[float]] = {"llmcf": [], "peer": []}
        for number in range(rounds + 1):  # the first warms up
            model = RetrievalModel(data.resources, BACKBONE, NoneConfig(), (config,), seed=1)
            started = seconds()
            fit(model, data, section, seed=1, work=folder / f"{loss}{number}")
            taken["llmcf"].append(seconds() - started)
            taken["peer"].append(peer.epoch())
        peer.close()
        found[loss] = {side: users / statistics.median(values[1:]) for side, values in taken.items()}
    return found


def listed(folder: Path, items: int, calls: int, clock: str) -> tuple[float, float, bool]:
    """p50 and p99 of a call in milliseconds, and whether lists are those of a sort."""
    data, seconds = world(folder / "lists", 8_000, items), SECONDS[clock]
    model = RetrievalModel(data.resources, BACKBONE, NoneConfig(), seed=1)
    model.embedding.table_VD.data[FIRST_ID:].normal_()
    save_bundle(folder / "bundle", model, task=RetrievalConfig(), recipe={"name": "lists"}, clock="per_user")
    scorer = Scorer.load(folder / "bundle")
    names = data.resources.catalog.users.ids.to_pylist()
    taken, same = [], True
    for number in range(-5, calls):
        user = names[number % len(names)]
        started = seconds()
        found = scorer.recommend([{"user_id": user}], 10)
        taken.append((seconds() - started) * 1e3)
        if number % 20 == 0:
            same &= found["item_id"].to_pylist() == by_sort(scorer, data, user)
    return float(np.median(taken[5:])), float(np.quantile(taken[5:], 0.99)), bool(same)


def by_sort(scorer: Scorer, data: TaskData, user: str) -> list[str]:
    """The ten best items of a user by NumPy, of the model's own vectors."""
    model, events = scorer.model, data.resources.get("events").taken
    row = data.resources.catalog.users.ids.to_pylist().index(user) + 1
    own = events.item_E[events.offset_U[row] : events.offset_U[row + 1]]
    history_1L = np.zeros((1, SIZES["length"]), np.int32)
    history_1L[0, -len(own) :] = own
    none_1 = np.zeros(1, np.int32)
    asked = Samples(none_1.astype(np.int64), none_1, none_1, history_1L, none_1.astype(np.float32), none_1)
    with torch.inference_mode():
        score_I = (model.catalogue() @ model.users(to_batch(asked).take(torch.zeros(1, dtype=torch.int64)))[0]).numpy()
    score_I[[0, *own]] = -np.inf
    return [data.resources.catalog.items.ids[int(place) - 1].as_py() for place in np.argsort(-score_I)[:10]]


def world(folder: Path, users: int, items: int) -> TaskData:
    """Users with 5 to 30 events of popular and rare items, in an order; the last two of each are left out."""
    folder.mkdir()
    rng = np.random.default_rng(7)
    size_U = rng.integers(5, 31, users)
    lines = ["user,item,place"]
    for user, size in enumerate(size_U):
        taken = np.unique(np.minimum((items * rng.random(size) ** 2).astype(int), items - 1))
        lines += [f"u{user},i{item},{place}" for place, item in enumerate(rng.permutation(taken))]
    (folder / "events.csv").write_text("\n".join(lines) + "\n")
    (folder / "items.csv").write_text("item\n" + "\n".join(f"i{item}" for item in range(items)) + "\n")
    section = DatasetSection.model_validate({
        "source": {
            "type": "csv", "interactions": str(folder / "events.csv"), "items": str(folder / "items.csv"),
            "columns": {"user": "user", "item": "item", "position": "place"},
        },
        "label": {"type": "implicit"}, "split": {"type": "leave_one_out"}, "history": {"max_length": SIZES["length"]},
    })  # fmt: skip
    ingest(section, locate=Path, seed=1, out=folder / "data.duckdb")
    configs = [registry().get("input", "events").config()()]
    return load_task_data(
        folder / "data.duckdb", Retrieval(RetrievalConfig()), history_length=SIZES["length"], inputs=configs
    )


if __name__ == "__main__":
    main()
