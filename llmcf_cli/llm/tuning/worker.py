"""One of the processes that share a tuning: `accelerate launch … -m llmcf_cli.llm.tuning.worker WORK/run.json`."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from llmcf_cli.core.errors import LlmcfError, as_data
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.llm.config import TuneConfig
from llmcf_cli.llm.tuning.launch import ERROR, REPORT

_FAILED = 1


class _LineTask:
    """A task as JSON lines on standard output."""

    def advance(self, amount: float = 1) -> None:
        _tell("advance", amount)

    def skip(self, amount: float) -> None:
        _tell("skip", amount)

    def note(self, text: str) -> None:
        _tell("note", text)

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        _tell("measured", step, dict(values))


class _LineProgress:
    """Progress as JSON lines on standard output, for the process that launched this one."""

    @contextmanager
    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> Iterator[Task]:
        _tell("task", name, total, unit, done)
        yield _LineTask()

    def say(self, text: str) -> None:
        _tell("say", text)


def main() -> None:
    """Take part in the run that a file describes."""
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    work = Path(settings["work"])
    first = os.environ.get("RANK", "0") == "0"
    try:
        report = _fit(settings, _LineProgress() if first else SILENT)
    except LlmcfError as error:
        (work / ERROR).write_text(json.dumps(as_data(error)), encoding="utf-8")
        sys.exit(_FAILED)
    if first:
        (work / REPORT).write_text(json.dumps(report), encoding="utf-8")


def _fit(settings: dict[str, Any], progress: Progress) -> dict[str, Any]:
    from llmcf_cli.llm.tuning.run import TuneRun
    from llmcf_cli.llm.tuning.tune import fit
    from llmcf_cli.plugin import registry

    config = registry().get("tuner", settings["config"]["type"]).config().model_validate(settings["config"])
    paths = {name: Path(settings[name]) for name in ("model", "out", "work")}
    run = TuneRun(config=cast("TuneConfig", config), **paths, seed=settings["seed"], precision=settings["precision"],
                  processes=settings["processes"])  # fmt: skip
    return asdict(fit(run, progress))


def _tell(*values: Any) -> None:
    print(json.dumps(values), flush=True)


def _end_with_launcher() -> None:
    """Standard input ends when the process that launched this one does, however it ended."""
    while os.read(0, 1):  # not sys.stdin, whose lock a thread may not hold while Python ends
        pass
    os._exit(_FAILED)


if __name__ == "__main__":
    main()
