"""Tokens per second of tuning SmolLM2-135M, against TRL's SFTTrainer with its own packing, and what packing gains.

    python benchmarks/tune_llm.py [--quick] [--peers PYTHON]

Instructions from MovieLens-100K (histories of up to 20 films) and as many general ones, in steps of 1,024 tokens, full
tuning with AdamW, the precision that `auto` takes, one thread. Five sides, each a process that takes a step when asked:
llmcf packed, llmcf padded in batches of similar length, llmcf padded in random batches (both with 1,024 tokens
including padding), TRL packed by best fit into rows of 1,024 tokens, TRL padding-free without packing. Sides
alternate; medians of wall time per token that is no padding (--cpu: of CPU time). The ratio reported is that of llmcf
packed to the faster of TRL's. --quick takes fewer steps.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from environment import Peer, peers_python

from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.config import FullTuneConfig
from llmcf_cli.llm.mix.build import build_mix
from llmcf_cli.llm.models.load import hf_folder, load_causal_lm, load_tokenizer, resolved_precision
from llmcf_cli.llm.tuning.epochs import padding_share, plan_batches
from llmcf_cli.llm.tuning.tokens import TokenisedMix, tokenise

TARGET, TOKENS, SAMPLES, SEED = 1.0, 1024, 280, 2024
OURS = ("llmcf packed", "llmcf grouped", "llmcf random")
THEIRS = {"TRL packed": "packed", "TRL padding-free": "padding-free"}
SETTINGS = [
    f"llm.count={SAMPLES}", f"llm.tune.max_length={TOKENS}",
    "llm.mix=[{source: recommendation, share: 0.5}, {source: {type: jsonl, path: data/general.jsonl}, share: 0.5}]",
]  # fmt: skip


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--cpu", action="store_true", help="CPU time, for a machine shared with other work")
    parser.add_argument("--peers", metavar="PYTHON", help="interpreter of an environment with benchmarks/peers.txt")
    parser.add_argument("--side", nargs=4, metavar=("KIND", "MODEL", "WORK", "CLOCK"), help="a measured process")
    options = parser.parse_args()
    if options.side:
        answer(*options.side)
        return
    clock, rounds = "cpu" if options.cpu else "wall", 3 if options.quick else 7
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        model = prepare(work)
        costs = measure(model, work, peers_python(options.peers), rounds, clock)
        padding = padding_shares(work)
    rates = {side: 1 / statistics.median(values) for side, values in costs.items()}

    print(f"SmolLM2-135M, {TOKENS:,} tokens a step, {resolved_precision('auto')}, one thread, {clock} time")
    print(f"{'':<18}{'tokens/s':>10}{'padding':>10}{'llmcf packed is':>18}")
    for side, rate in rates.items():
        print(f"{side:<18}{rate:>10,.1f}{padding.get(side, 0):>10.1%}{rates[OURS[0]] / rate:>16.2f} ×")
    ratio = rates[OURS[0]] / max(rates[side] for side in THEIRS)
    detail = {
        "tokens_per_second": {side: round(rate, 1) for side, rate in rates.items()},
        "gain_over_grouped": round(rates[OURS[0]] / rates[OURS[1]], 2),
        "gain_over_random": round(rates[OURS[0]] / rates[OURS[2]], 2),
        "precision": resolved_precision("auto"), "tokens": TOKENS, "clock": clock,
    }  # fmt: skip
    result = {"name": "tune_llm", "ratio": round(ratio, 2), "target": TARGET, "ok": ratio >= TARGET}
    print(json.dumps({**result, "detail": detail}))
    sys.exit(0 if ratio >= TARGET else 1)


def prepare(work: Path) -> Path:
    """Write the mix's tokens for both sides; the folder of the model."""
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.engine.run import execute, plan
    from llmcf_cli.stages.pipeline import open_context, targets

    context = open_context(load_recipe("movielens_100k/base", SETTINGS), work / "artifacts")
    steps = plan(context, targets(context.recipe, "ingest"))
    execute(steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None)
    model = hf_folder(context.locate.path(context.recipe.llm.model), context.models)
    tokenizer = load_tokenizer(model)
    build_mix(
        context.recipe.llm, data=steps[-1].node.folder / "data.duckdb", locate=context.locate.path,
        tokenizer=tokenizer, seed=SEED, out=work / "mix.parquet",
    )  # fmt: skip
    tokenise(work / "mix.parquet", work, tokenizer, TOKENS)
    samples = TokenisedMix(work)
    rows = samples[range(len(samples))]
    answers = [[int(i >= row["prompt"]) for i in range(len(row["tokens"]))] for row in rows]
    table = {"input_ids": [row["tokens"].tolist() for row in rows], "completion_mask": answers}
    pq.write_table(pa.table(table), work / "samples.parquet")
    return model


def measure(model: Path, work: Path, python: Path, rounds: int, clock: str) -> dict[str, list[float]]:
    """Seconds per token of steps, side by side, after one of each to warm up."""
    sides = {side: Peer(Path(sys.executable), "--side", side, str(model), str(work), clock, script="tune_llm.py")
             for side in OURS}  # fmt: skip
    shared = (str(model), str(work / "samples.parquet"), str(TOKENS), resolved_precision("auto"), clock)
    sides |= {side: Peer(python, kind, *shared, script="peers_llm.py") for side, kind in THEIRS.items()}
    costs: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds + 1):
        for side, process in sides.items():
            costs[side].append(process.epoch())
    for process in sides.values():
        process.close()
    return {side: values[1:] for side, values in costs.items()}


def settings(side: str) -> FullTuneConfig:
    """How a side of ours tunes."""
    packing = "packed" if side == OURS[0] else "none"
    return FullTuneConfig(batch_tokens=TOKENS, max_length=TOKENS, packing=packing, schedule="constant", epochs=20)


def batches(side: str, lengths_N: np.ndarray) -> list[np.ndarray]:
    """The batches of a side of ours; the random ones hold as many samples as their longest allows."""
    if side != OURS[2]:
        return plan_batches(lengths_N, settings(side), SEED)
    found: list[np.ndarray] = []
    for batch in plan_batches(lengths_N, settings(OURS[0]), SEED):
        room = max(1, int(TOKENS // lengths_N[batch].max()))
        found += [batch[start : start + room] for start in range(0, len(batch), room)]
    return found


def padding_shares(work: Path) -> dict[str, float]:
    """Share of the tokens of padded batches that is padding."""
    lengths_N = TokenisedMix(work).lengths_N
    return {side: padding_share(batches(side, lengths_N), lengths_N) for side in OURS[1:]}


def answer(side: str, model: str, work: str, clock: str) -> None:
    """Take a step whenever asked, as `llm.tune` does."""
    from stepwise import Stepwise

    from llmcf_cli.llm.tuning.trainer import build_trainer

    torch.set_num_threads(1)
    samples, answers = TokenisedMix(Path(work)), sys.stdout
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            settings(side), load_causal_lm(Path(model), torch.float32), load_tokenizer(Path(model)), samples,
            batches(side, samples.lengths_N), work=Path(folder), seed=SEED, precision=resolved_precision("auto"),
            processes=1, interrupted=threading.Event(), progress=SILENT,
        )  # fmt: skip
        trainer.args.save_strategy = "no"
        Stepwise(answers, clock).watch(trainer)


if __name__ == "__main__":
    main()
