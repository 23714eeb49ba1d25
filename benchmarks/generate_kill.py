"""Generation killed with SIGKILL at twenty random moments, against an unbroken run.

    python benchmarks/generate_kill.py [--quick]

A tiny random Llama writes greedy texts for 80 train samples of a tiny data set, slowed so that a run takes some
seconds. Every life ends by SIGKILL at a random moment, starting up included; a last one finishes. Counted are finished
texts that a kill lost, finished calls that a later life made again, and rows of the final tables that differ from the
unbroken run's. The ratio reported is the kills survived without any of these to all kills. --quick: the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import random
import sqlite3
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

ROOT = Path(__file__).parents[1]
KILLS, SAMPLES, BATCH, DELAY, TARGET = 20, 80, 2, 0.1, 1.0
TABLES = ("cot", "cot_part", "cot_candidate", "cot_dropped")
PROMPT = """
name: tiny
variables: [history, item, decision]
messages:
  - {role: user, content: "{{#history}}{{.}}, {{/history}}then {{item}}: {{decision}}. Why?"}
"""

Call = tuple[str, int]  # prompt hash and index
Start = tuple[Path, Path]  # folder with model, data and prompt; folder of the run


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="accepted for uniformity; the run is short as it is")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), random.Random(options.seed))
    for name, value in found.items():
        print(f"{name:>22}{value:>10,.2f}" if isinstance(value, float) else f"{name:>22}{value:>10,}")
    sound = KILLS - found["kills_with_a_fault"]
    ratio = sound / KILLS if not found["rows_different"] else 0.0
    ok = ratio >= TARGET and found["kills"] == KILLS
    print(json.dumps({"name": "generate_kill", "ratio": ratio, "target": TARGET, "ok": ok, "detail": found}))
    sys.exit(0 if ok else 1)


def measure(folder: Path, chance: random.Random) -> dict[str, Any]:
    """Kill and resume, and compare with an unbroken run."""
    tiny_llm().save_tiny_model(folder / "model")
    tiny_llm().save_tiny_data(folder / "data.duckdb", samples=2 * SAMPLES, items=40)
    (folder / "prompt.yaml").write_text(PROMPT)
    # Children of a process that has imported everything and computed nothing: a life costs no seconds of imports.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "llmcf_cli.llm.writing.generate",
            "llmcf_cli.llm.engines.transformers",
            "sklearn",
            "transformers.models.llama.modeling_llama",
        ]
    )
    live(context, folder, folder / "warm", 5.0)  # the server imports before its first child
    began = time.time()
    whole = live(context, folder, folder / "whole", None)
    startup = (folder / "whole" / "first").stat().st_mtime - began
    killed, lost, repeated, faults, kills = folder / "killed", 0, 0, 0, 0
    texts: dict[Call, str] = {}
    while kills < KILLS:
        made_before = calls_made(killed)
        # On average a life makes less than a twentieth of the work, so that there is work left for the last.
        moment = chance.uniform(0, startup + 2 * (whole - startup) / KILLS)
        kills += live(context, folder, killed, moment) is None
        now = finished(killed)
        lost_now = sum(now.get(call) != text for call, text in texts.items())
        again = sum(call in texts for call in calls_made(killed)[len(made_before) :])
        lost, repeated, faults = lost + lost_now, repeated + again, faults + bool(lost_now or again)
        texts = now
    made_before = calls_made(killed)
    live(context, folder, killed, None)
    again = sum(call in texts for call in calls_made(killed)[len(made_before) :])
    return {
        "kills": kills, "finished_when_resumed": len(texts), "texts_lost": lost, "calls_repeated": repeated + again,
        "kills_with_a_fault": faults, "rows_different": different(folder / "whole", killed),
        "rows": pq.read_metadata(killed / "cot.parquet").num_rows, "unbroken_seconds": round(whole, 2),
        "startup_seconds": round(startup, 2),
    }  # fmt: skip


def live(context: Any, folder: Path, run: Path, moment: float | None) -> float | None:
    """One life of a run: seconds to its end, or None if it was killed at `moment` before that."""
    run.mkdir(exist_ok=True)
    process = context.Process(target=generate, args=(folder, run))
    started = time.monotonic()
    process.start()
    process.join(moment)
    if process.is_alive():
        process.kill()
        process.join()
        return None
    if process.exitcode:
        raise RuntimeError(f"a run failed with exit status {process.exitcode}")
    return time.monotonic() - started


def generate(folder: Path, run: Path) -> None:
    """The work of a life, in a process of its own: `gen-cot`'s function with a slow engine, its calls written down."""
    import torch

    from llmcf_cli.llm.engines.transformers import TransformersEngine
    from llmcf_cli.llm.writing.generate import generate_cots
    from llmcf_cli.llm.writing.workers import SharedTexts
    from llmcf_cli.recipe.dataset import HistorySection
    from llmcf_cli.recipe.prompt import load_prompt
    from llmcf_cli.recipe.sections import CoTSection

    torch.set_num_threads(1)
    claim, plain = SharedTexts.claim, TransformersEngine.generate

    def noted(store: Any, calls: Any, tries: int) -> Any:
        leased = claim(store, calls, tries)
        if not (run / "first").exists():
            (run / "first").touch()
        with (run / "calls.jsonl").open("a") as log:
            log.writelines(json.dumps([call[0], call[3]]) + "\n" for call in leased)
        return leased

    def slow(engine: Any, *arguments: Any) -> Any:
        time.sleep(DELAY)
        return plain(engine, *arguments)

    SharedTexts.claim, TransformersEngine.generate = noted, slow
    section = CoTSection.model_validate({
        "prompt": "p", "sample": {"count": SAMPLES},
        "engine": {"type": "transformers", "max_new_tokens": 12, "temperature": 0, "max_batch": BATCH},
        "judge": {"type": "rubric", "min_words": 1, "min_coherence": 0, "truncated": "keep"},
    })  # fmt: skip
    generate_cots(
        section, data=folder / "data.duckdb", model=folder / "model", model_digest="m",
        prompt=load_prompt(folder / "prompt.yaml"), cache=run / "cache.sqlite", out=run, seed=5,
        history=HistorySection(),
    )  # fmt: skip


def finished(run: Path) -> dict[Call, str]:
    """Every text in the cache of a run."""
    if not (run / "cache.sqlite").is_file():
        return {}
    with closing(sqlite3.connect(run / "cache.sqlite")) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'generation'").fetchone():
            return {}
        rows = connection.execute("SELECT prompt_hash, sample_index, text FROM generation").fetchall()
    found = {(prompt_hash, index): text for prompt_hash, index, text in rows}
    if len(found) != len(rows):
        raise RuntimeError("a text is there twice")
    return found


def calls_made(run: Path) -> list[Call]:
    """Every call that the lives of a run began, in order."""
    log = run / "calls.jsonl"
    return [tuple(json.loads(line)) for line in log.read_text().splitlines()] if log.is_file() else []


def different(one: Path, other: Path) -> int:
    """Rows of the final tables that are not the same in both runs."""
    count = 0
    for name in TABLES:
        rows = [pq.read_table(run / f"{name}.parquet").to_pylist() for run in (one, other)]
        count += abs(len(rows[0]) - len(rows[1])) + sum(a != b for a, b in zip(*rows, strict=False))
    return count


def tiny_llm() -> Any:
    """The module `tests/tiny_llm.py`."""
    spec = importlib.util.spec_from_file_location("tiny_llm", ROOT / "tests" / "tiny_llm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
