"""CPU time of `llmcf --help` and `llmcf recipe validate`, against importing Typer alone.

    python benchmarks/startup.py [--quick]

Processes are started in turn, 20 times each (--quick: 8), and the least CPU time of each is taken, user and system,
children included: what else runs on the machine only adds to it. The ratio reported is that of `recipe validate` of
recipes/quickstart.yaml, whose answer about the data set's columns is known from an earlier check, to `import typer`;
lower is better.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HELP_TARGET, TARGET = 0.25, 0.30  # seconds
LLMCF = ("-m", "llmcf_cli")
SIDES = {
    "python": ("-c", "pass"),
    "import typer": ("-c", "import typer"),
    "import typer, pydantic": ("-c", "import typer, pydantic; pydantic.BaseModel"),
    "llmcf --help": (*LLMCF, "--help"),
    "llmcf recipe validate": (*LLMCF, "recipe", "validate", str(ROOT / "recipes" / "quickstart.yaml")),
}


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs")
    runs = 8 if parser.parse_args().quick else 20
    seconds = dict.fromkeys(SIDES, 60.0)
    for words in SIDES.values():
        cpu_time(words)  # writes byte code, and the answer that is kept
    for _ in range(runs):
        for name, words in SIDES.items():
            seconds[name] = min(seconds[name], cpu_time(words))
    for name, value in seconds.items():
        print(f"{name:<24}{value:>8.3f} s")
    ratio = seconds["llmcf recipe validate"] / seconds["import typer"]
    ok = seconds["llmcf recipe validate"] <= TARGET and seconds["llmcf --help"] <= HELP_TARGET
    detail = {"seconds": {name: round(value, 3) for name, value in seconds.items()}, "help_target": HELP_TARGET}
    print(json.dumps({"name": "startup", "ratio": round(ratio, 2), "target": TARGET, "ok": ok, "detail": detail}))
    sys.exit(0 if ok else 1)


def cpu_time(words: tuple[str, ...]) -> float:
    """Seconds of processor time of a Python process."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, cwd=ROOT, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with exit status {process.returncode}")
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
