"""Work whose length a stranger decides, done by a process that the system ends when it takes too much."""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from llmcf_cli.core.errors import LlmcfError

_CHUNK = 1 << 16
_PATIENCE = 60.0  # seconds, whatever else the machine has to do
_DONE, _FAILED = b"+", b"-"
_COPIES = 3
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL}


def confined(work: Callable[[], str], *, seconds: float, most: int) -> str:
    """What `work` returns, computed by a copy of this process.

    Where processes cannot be copied (Windows) it runs here. A copy that crashes, or hangs without computing, is made
    again: libraries with threads of their own may not survive being copied at that moment, whatever `work` does.

    Args:
        work: Pure Python without locks that other threads may hold.
        seconds: CPU time that it may take.
        most: Bytes of memory that it may take, and characters of its result.

    Raises:
        LlmcfError: It takes more; it fails, with the words of its error; or every copy crashes or hangs.
    """
    if not hasattr(os, "fork"):
        return work()
    for _ in range(_COPIES):
        found, ended_by = _copied(work, seconds, most)
        if found is None:
            continue
        if found[:1] == _DONE:
            return found[1:].decode("utf-8", "surrogatepass")
        if found[:1] == _FAILED:
            raise LlmcfError(found[1:].decode("utf-8", "replace"), code="confined-failed")
        if ended_by not in _CRASHES:
            raise LlmcfError(f"takes more than {seconds:g} s or {most >> 20:,} MB", code="confined-limit")
    raise LlmcfError(
        f"{_COPIES} copies of this process were ended by {signal.Signals(ended_by).name}", code="confined-failed"
    )


def _copied(work: Callable[[], str], seconds: float, most: int) -> tuple[bytes | None, int]:
    """What a copy of this process writes, None if it hangs; and the signal that it ended by, 0 for none."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries whose threads and locks `work` does not need
        child = os.fork()
    if child == 0:
        os.close(read)
        _work(work, write, seconds, most)
    os.close(write)
    try:
        found = _received(read, time.monotonic() + _PATIENCE, most)
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)  # it is still there: nobody has waited for it
        _, status = os.waitpid(child, 0)
    return found, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _work(work: Callable[[], str], write: int, seconds: float, most: int) -> None:
    """The life of the copy; does not return."""
    try:
        gc.disable()  # what belongs to the original is not to be ended here
        _limit(seconds, most)
        try:
            result = _DONE + work().encode("utf-8", "surrogatepass")
        except MemoryError:
            os._exit(1)
        except BaseException as error:
            result = _FAILED + (" ".join(str(error).split()) or type(error).__name__).encode("utf-8", "replace")
        view = memoryview(result)
        while view:
            view = view[os.write(write, view) :]
    finally:
        os._exit(0)


def _limit(seconds: float, most: int) -> None:
    import resource

    whole = math.ceil(seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = Path("/proc/self/statm")
    if size.is_file():  # beside what the original has
        has = int(size.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (has + most, has + most))


def _received(read: int, until: float, most: int) -> bytes | None:
    """All that is written to a pipe; nothing where that is too much, None where it ends too late."""
    parts: list[bytes] = []
    size = 0
    while size <= most:
        left = until - time.monotonic()
        if left <= 0 or not select.select([read], [], [], left)[0]:
            return None
        part = os.read(read, _CHUNK)
        if not part:
            return b"".join(parts)
        parts.append(part)
        size += len(part)
    return b""
