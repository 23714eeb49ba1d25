"""Runs a recipe again and again, each time in a fork of a process that has imported everything, and kills some.

Reads one JSON object a line: `folder`, `artifacts`, `force` (stages), `kill_after` (seconds, or null), `together` (how
many runs at once). Answers each with one: `status` of each run (its exit status, or minus the signal) and `seconds`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.pipeline import open_context, run_steps
from llmcf_cli.stages.steps.evaluate import Evaluate

USED = (
    "duckdb", "matplotlib.figure", "pandas", "plotly.graph_objects", "plotly.io", "scipy.stats",
    "sklearn.linear_model", "torch._dynamo", "llmcf_cli.rec.baselines.popularity", "llmcf_cli.rec.bundle.bundle",
    "llmcf_cli.rec.measure.compare", "llmcf_cli.rec.train.fit", "llmcf_cli.rec.measure.plots",
)  # fmt: skip
"""What runs import, so that each fork need not."""

for module in USED:
    importlib.import_module(module)
torch.set_num_threads(1)


def run(asked: dict) -> int:
    """A whole run; its exit status."""
    loaded = load_recipe(Path(asked["folder"]) / "recipe.yaml", asked.get("changes", ()))
    context = open_context(loaded, Path(asked["artifacts"]))
    try:
        steps = plan(context, [Evaluate()], asked.get("force", ()))
        run_steps(
            context, steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None,
            on_failure=lambda step, error: None,
        )  # fmt: skip
    except LlmcfError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def child(asked: dict) -> int:
    """Start a run in a fork; its process id."""
    pid = os.fork()
    if pid == 0:
        status = 99
        try:
            status = run(asked)
        finally:  # whatever happens, this is no copy of the parent any more
            os._exit(status)
    return pid


def main() -> None:
    """Answer until the input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.monotonic()
        running = [child(asked) for _ in range(asked.get("together", 1))]
        if asked.get("kill_after") is not None:
            time.sleep(asked["kill_after"])
            for pid in running:
                os.kill(pid, signal.SIGKILL)  # not yet waited for, so the id is still its own
        status = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in running]
        print(json.dumps({"status": status, "seconds": time.monotonic() - started}), flush=True)


main()
