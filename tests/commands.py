"""Commands of `llmcf`, each in a process of its own, without the seconds that its imports take.

A server that has imported the libraries forks once per command; the fork runs `llmcf_cli.__main__.main` with arguments,
folder, environment and output of its own, and ends with its exit status or traceback. All forks have one seed of
hashes: tests that compare what processes make start them themselves, as do those of what a command imports.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import Any

IMPORTED = (
    "duckdb", "matplotlib.figure", "numpy", "pandas", "peft", "pyarrow.parquet", "rich.progress", "rich.table",
    "scipy.stats", "sklearn.linear_model", "torch", "torch._dynamo", "transformers.models.auto.modeling_auto",
    "typer", "yaml",
)  # fmt: skip
"""What commands import and what starts no thread by being imported; the package itself comes on top."""
APART = (
    "llmcf_cli.__main__", "llmcf_cli.llm.asking.harness", "llmcf_cli.llm.engines", "llmcf_cli.rec.onnx.",
    "llmcf_cli.serve.http",
)  # fmt: skip
"""Parts of the package that need what may not be installed, or start threads."""


def llmcf(*words: object, cwd: Path | str | None = None, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run `llmcf WORDS` to its end.

    Args:
        words: The command and its arguments.
        cwd: Folder that it runs in; None: that of the tests.
        changes: What its environment has beside that of the tests; `PYTHONPATH` is searched first.
    """
    given = [*map(str, words)]
    with tempfile.TemporaryDirectory(prefix="llmcf-command-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        asked = {
            "words": given, "cwd": str(cwd or Path.cwd()), "environment": {**os.environ, **changes},
            "path": changes.get("PYTHONPATH", ""), "out": str(out), "err": str(err),
        }  # fmt: skip
        server = _server()
        server.stdin.write(json.dumps(asked) + "\n")
        server.stdin.flush()
        code = json.loads(server.stdout.readline())
        return subprocess.CompletedProcess(["llmcf", *given], code, out.read_text(), err.read_text())


@cache
def _server() -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    atexit.register(_end, server)
    return server


def _end(server: subprocess.Popen[str]) -> None:
    server.stdin.close()
    server.wait()


def serve() -> dict[str, Any] | None:
    """Fork for each line read; what a fork is to do, in that fork, and None in the server once input ends."""
    package = importlib.import_module("llmcf_cli")
    own = [found.name for found in pkgutil.walk_packages(package.__path__, "llmcf_cli.")]
    for name in (*IMPORTED, *(name for name in own if not name.startswith(APART))):
        importlib.import_module(name)
    from llmcf_cli.plugin import registry

    assert not registry.cache_info().currsize, "plugins are those of a fork's own environment"
    tasks = Path("/proc/self/task")
    running = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else []
    lacking = [name for name in running if name != "jemalloc_bg_thd"]  # which pyarrow's allocator starts anew
    assert len(lacking) <= 1, f"a fork would lack threads that an import started: {lacking}"
    gc.freeze()  # a fork that looked at all of this would copy it
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            return json.loads(line)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    return None


def become(asked: dict[str, Any]) -> int:
    """Make a fork the process that was asked for, and run its command; the exit status."""
    for stream, name in ((1, asked["out"]), (2, asked["err"])):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = filter(None, asked["path"].split(os.pathsep))
    sys.argv = ["llmcf", *asked["words"]]
    tempfile.tempdir = None  # an import may have asked for it: that of this environment counts
    from llmcf_cli.__main__ import main

    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def finish(status: int) -> None:
    """End without freeing anything: a fork would copy it first."""
    for thread in threading.enumerate():
        if not thread.daemon and thread is not threading.main_thread():
            thread.join()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    asked = serve()
    finish(become(asked) if asked is not None else 0)
