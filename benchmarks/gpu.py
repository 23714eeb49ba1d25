"""Everything that a GPU changes, checked and measured by one script on one card, without a network.

    python benchmarks/gpu.py --folder FOLDER [--only NAME …] [--minutes 9]
    python benchmarks/gpu.py --folder FOLDER --device cpu --quick
    python benchmarks/gpu.py --folder FOLDER --collect [--weights]

Wheels in FOLDER/wheels are installed into a temporary folder; models are read from FOLDER/models. Each check prints one
line of JSON as it ends: `{"name", "ratio", "target", "ok", "seconds", "detail"}`, with `faults` where it does not hold.
A check that fails, dies or takes too long does not stop the others. The last line sums up; the exit code is 1 if a
check did not hold or was not reached. `--device cpu --quick` runs every check in a reduced form, to try the script
itself: numbers are checked, speed is not judged. `--collect` fills FOLDER/models from the assets fetched on this
machine, without weights unless told; see docs/gpu.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_check import ENCODER, LANGUAGE, Outcome, Setting

ROOT = Path(__file__).resolve().parents[1]
STARTING = 120.0  # seconds that a process may take to import what the checks need
SLOWER = {"cuda": 1, "cpu": 5}  # limits are for a card; a CPU is given more for the reduced form
_SHOWN = 8  # last lines of its log that a dead process leaves in its check's line


@dataclass(frozen=True)
class Check:
    """A check: a function of the same name in a module beside this one, and the most seconds it may take."""

    module: str
    limit: float


CHECKS = {
    "core": Check("gpu_rec", 90), "epoch": Check("gpu_rec", 90), "search": Check("gpu_match", 60),
    "search_rate": Check("gpu_match", 60), "tuning": Check("gpu_tune", 120), "sharding": Check("gpu_tune", 180),
    "generation": Check("gpu_ask", 120), "teacher": Check("gpu_ask", 60), "embedding": Check("gpu_ask", 60),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="holds wheels/ and models/")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="where to compute")
    parser.add_argument("--quick", action="store_true", help="every check in seconds, to try the script itself")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), metavar="NAME", help="these checks")
    parser.add_argument("--minutes", type=float, default=9.0, help="end after so many, whatever is left")
    parser.add_argument("--collect", action="store_true", help="fill FOLDER/models from this machine's assets, and end")
    parser.add_argument("--weights", action="store_true", help="with --collect: weights, too (630 MB)")
    parser.add_argument("--child", type=Path, metavar="WORK", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.collect:
        collect(options.folder, options.weights)
        return 0
    if options.child:
        return answer(Setting(options.device, options.quick, options.folder, options.child), options.only)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        lines = list(run(options, Path(work), begun + 60 * options.minutes))
    held = [line["name"] for line in lines if line["ok"]]
    missed = [line["name"] for line in lines if not line["ok"]]
    detail = {"device": options.device, "quick": options.quick, "held": held, "missed": missed}
    result = {"name": "gpu", "ratio": round(len(held) / len(lines), 3), "target": 1.0, "ok": not missed}
    print(json.dumps({**result, "seconds": round(time.monotonic() - begun, 1), "detail": detail}), flush=True)
    return 1 if missed else 0


def run(options: argparse.Namespace, work: Path, end: float) -> Iterator[dict[str, Any]]:
    """Results of the checks, printed as they come.

    All are done by one process as long as it lives; a check that fails ends it, since a card's error stays with the
    process that met it, and another process does the rest.
    """
    site, fault = install(options.folder / "wheels", work / "site")
    if fault:
        yield shown(failed("wheels", fault))
    environment = surroundings(options.device, site)
    left = list(options.only)
    while left:
        for result in child(options, list(left), work, environment, end):
            yield shown(result)
            left.remove(result["name"])


def child(
    options: argparse.Namespace, names: list[str], work: Path, environment: dict[str, str], end: float
) -> Iterator[dict[str, Any]]:
    """Results of one process, at least one: that of the first check, whatever became of it."""
    command = [sys.executable, __file__, "--folder", str(options.folder.resolve()), "--device", options.device]
    command += ["--child", str(work), *(["--quick"] if options.quick else []), "--only", *names]
    log = work / "log.txt"
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment,
            start_new_session=True,
        )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    current, limit = names[0], time.monotonic() + STARTING * SLOWER[options.device]
    begun = time.monotonic()
    try:
        while True:
            try:
                line = lines.get(timeout=max(min(limit, end) - time.monotonic(), 0.01))
            except queue.Empty:
                why = "the time of the whole run is over" if time.monotonic() >= end else "took too long"
                yield failed(current, why, time.monotonic() - begun, log)
                return
            if not line:
                if current:
                    status = process.wait()
                    yield failed(current, f"the process ended with status {status}", time.monotonic() - begun, log)
                return
            told = json.loads(line)
            if "begin" in told:
                current, begun = told["begin"], time.monotonic()
                limit = begun + CHECKS[current].limit * SLOWER[options.device]
            else:
                yield told
                at = names.index(current) + 1
                current = names[at] if told["ok"] and at < len(names) else ""
                limit = time.monotonic() + STARTING * SLOWER[options.device]
    finally:
        _end(process)


def answer(setting: Setting, names: Sequence[str]) -> int:
    """Be the process that does checks: a line as each begins and ends; nothing else reaches standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(text: str) -> None:
        print(text, file=answers, flush=True)

    for name in names:
        tell(json.dumps({"begin": name}))
        begun = time.monotonic()
        try:
            check = getattr(importlib.import_module(CHECKS[name].module), name)
            _need(setting.device)
            outcome: Outcome = check(setting)
        except Exception as error:  # whatever the check, a library or the card raises
            traceback.print_exc()
            outcome = Outcome(faults=[f"{type(error).__name__}: {error}"])
        tell(outcome.line(name, time.monotonic() - begun))
        if outcome.faults:
            return 1
        _release(setting.device)
    return 0


def install(wheels: Path, site: Path) -> tuple[Path | None, str]:
    """Install the wheels of a folder, if there are any: where, and what went wrong."""
    files = sorted(map(str, wheels.glob("*.whl")))
    if not files:
        return None, ""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    done = subprocess.run([*command, "--target", str(site), *files], capture_output=True, text=True)
    return (None, done.stderr[-2000:]) if done.returncode else (site, "")


def surroundings(device: str, site: Path | None) -> dict[str, str]:
    """The environment of the checks: this checkout, the wheels, no network, and no card where none is asked for."""
    paths = [str(ROOT), *([str(site)] if site else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    found = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return found | ({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})


def failed(name: str, fault: str, seconds: float = 0.0, log: Path | None = None) -> dict[str, Any]:
    """The result of a check that gave none."""
    last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:] if log else []
    return json.loads(Outcome(detail={"log": last} if last else {}, faults=[fault]).line(name, seconds))


def shown(result: dict[str, Any]) -> dict[str, Any]:
    """The result, printed."""
    print(json.dumps(result), flush=True)
    return result


def collect(folder: Path, weights: bool) -> None:
    """Copy the models that the checks use, and say how large they are."""
    from llmcf_cli.llm.models.load import hf_folder
    from llmcf_cli.recipe.library import library_dir
    from llmcf_cli.store.assets import Locator, open_assets

    assets = open_assets(library_dir())
    locate = Locator(library_dir(), assets)
    for name in (LANGUAGE, ENCODER):
        source, target = locate.path(f"asset:{name}"), folder / "models" / name
        if any(source.glob("*.gguf")):
            source = hf_folder(source, assets.cache.parent / "models")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target, ignore=None if weights else shutil.ignore_patterns("*.safetensors", ".*"))
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        print(f"{target}: {size / 1e6:.1f} MB{'' if weights else ', without weights'}")


def _need(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no GPU; --device cpu --quick tries the script without one")


def _release(device: str) -> None:
    import gc

    import torch

    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def _end(process: subprocess.Popen[str]) -> None:
    """End a process and what it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
