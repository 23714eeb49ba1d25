"""Tuning shared by several processes: `accelerate launch` runs `llmcf_cli.llm.tuning.worker`, this process watches it.

Everything before and after (data, mix, artifacts) happens once, here; the processes only train.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import LlmcfError, from_data
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.tree import plain
from llmcf_cli.core.yamlfile import read_any_yaml
from llmcf_cli.llm.tuning.estimate import Sharding
from llmcf_cli.llm.tuning.run import TuneReport, TuneRun

RUN, ERROR, REPORT, LOG = "run.json", "error.json", "report.json", "launch.log"
"""Files in the work folder through which this process and the launched ones speak."""

_SHARDING = {"FSDP": ("weights", "state"), "DEEPSPEED": ("state",)}
MAX_PROCESSES = 1024
_ELSEWHERE = frozenset({
    "command_file", "commands", "deepspeed_hostfile", "deepspeed_multinode_launcher", "main_process_ip",
    "megatron_lm_config", "mpirun_config", "tpu_env", "tpu_name", "tpu_use_cluster", "tpu_use_sudo", "tpu_vm",
    "tpu_zone",
})  # fmt: skip
"""Settings by which accelerate would run commands, or processes on other machines."""
_SHOWN = 12  # last lines of the log that an error shows


@dataclass(frozen=True)
class LaunchSettings:
    """What a configuration of `accelerate launch` says.

    Attributes:
        processes: How many it starts.
        sharding: What they divide between them.
    """

    processes: int
    sharding: Sharding


def read_launch(path: Path) -> LaunchSettings:
    """Read a file as `accelerate config` writes it.

    Raises:
        LlmcfError: It is no such file, or is for other machines.
    """
    found = plain(read_any_yaml(path))
    processes = found.get("num_processes") if isinstance(found, dict) else None
    if not isinstance(processes, int) or not 1 <= processes <= MAX_PROCESSES or "distributed_type" not in found:
        raise LlmcfError("not a configuration of accelerate: it has no distributed_type or num_processes",
                         code="launch-config", where=str(path),
                         hint="write one with: accelerate config --config_file FILE")  # fmt: skip
    for place, settings in (("", found), ("deepspeed_config.", found.get("deepspeed_config"))):
        for key in settings if isinstance(settings, dict) else ():
            if settings[key] and key in _ELSEWHERE:
                what = "concerns other machines, or runs commands"
                hint = "remove it: processes run on this machine only"
                raise LlmcfError(what, code="launch-elsewhere", where=f"{path}: {place}{key}", hint=hint)
    if found.get("compute_environment", "LOCAL_MACHINE") != "LOCAL_MACHINE":
        raise LlmcfError("only this machine is supported", code="launch-elsewhere",
                         where=f"{path}: compute_environment",
                         allowed=("LOCAL_MACHINE",))  # fmt: skip
    if found.get("num_machines", 1) != 1:
        raise LlmcfError(
            "several machines are not supported", code="launch-elsewhere", where=f"{path}: num_machines", allowed=("1",)
        )
    shared = _SHARDING.get(str(found["distributed_type"]), ())
    return LaunchSettings(processes, Sharding(**dict.fromkeys(shared, processes)))


def fit_launched(run: TuneRun, launch: Path, progress: Progress) -> TuneReport:
    """Do a run whose tokens are in its work folder by several processes; see `tune`.

    Raises:
        LlmcfError: What a process reported, or the end of the log where one ended without a word.
        KeyboardInterrupt: Ctrl-C; the processes save a checkpoint first, as far as they can within half a minute.
    """
    for name in (ERROR, REPORT):
        (run.work / name).unlink(missing_ok=True)
    paths = {name: str(getattr(run, name).absolute()) for name in ("model", "out", "work")}
    settings = {"config": run.config.model_dump(mode="json"), **paths, "seed": run.seed, "precision": run.precision,
                "processes": run.processes}  # fmt: skip
    (run.work / RUN).write_text(json.dumps(settings), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch.absolute()), "-m",
               "llmcf_cli.llm.tuning.worker", str((run.work / RUN).absolute())]  # fmt: skip
    with (run.work / LOG).open("w", encoding="utf-8") as log, _started(command, log) as process:
        _relay(process, progress, log)
    if process.returncode:
        raise _failure(run.work, process.returncode)
    report = json.loads((run.work / REPORT).read_text(encoding="utf-8"))
    return TuneReport(**{**report, "loss": [tuple(point) for point in report["loss"]]})


@contextmanager
def _started(command: list[str], log: Any) -> Iterator[subprocess.Popen[str]]:
    """The launcher, in a session of its own, so that Ctrl-C reaches it once, from here; ended with this block."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
        process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    finally:
        if process.stdin:
            process.stdin.close()  # a process that is left ends when it sees this
        process.wait()


def _relay(process: subprocess.Popen[str], progress: Progress, log: Any) -> None:
    """Show what the first process reports, line by line; anything else goes into the log."""
    with ExitStack() as stack:
        task: Any = None
        for line in process.stdout or ():
            try:
                kind, *values = json.loads(line)
            except (ValueError, TypeError):
                log.write(line)
                continue
            if kind == "task":
                task = stack.enter_context(progress.task(*values))
            elif kind == "say":
                progress.say(*values)
            elif task is not None:
                getattr(task, kind)(*values)


def _failure(work: Path, status: int) -> LlmcfError:
    try:
        told = json.loads((work / ERROR).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        with (work / LOG).open(encoding="utf-8") as log:
            last = "".join(deque(log, _SHOWN)).strip()
        return LlmcfError(f"accelerate launch ended with status {status}; the last lines of its log:\n{last}",
                          code="launch-failed", where=str(work / LOG))  # fmt: skip
    return from_data(told)
