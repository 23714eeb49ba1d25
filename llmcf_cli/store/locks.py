"""Who makes an artifact, and who reads it: locks that the kernel lets go of however their process ends.

A maker holds a lock file beside the artifact. A reader shares a lock on the artifact's own manifest, which needs no
right to write; who replaces the artifact waits for all of them, unless the system has no such locks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from llmcf_cli.core.errors import StoreError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def held(lock_path: Path, what: str) -> Iterator[None]:
    """Be the one maker of something for as long as the block runs.

    Args:
        lock_path: The lock file; the holder's process id is written beside it.
        what: What is made, for the error.

    Raises:
        StoreError: Another process (named by pid) is.
    """
    from filelock import FileLock, Timeout

    lock, pid_path = FileLock(lock_path), lock_path.with_suffix(".pid")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        pid = pid_path.read_text().strip() if pid_path.is_file() else "unknown"
        raise StoreError(
            f"is being made by process {pid}",
            code="store-busy",
            where=what,
            hint=f"wait for process {pid}, or stop it, then run again",
        ) from error
    try:
        pid_path.write_text(str(os.getpid()))
        yield
    finally:
        pid_path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def sharing(file: Path) -> Iterator[None]:
    """Keep others from replacing what a file belongs to; of no effect where there is no file."""
    handle = _open_shared(file)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def in_use(file: Path) -> bool:
    """Whether another process shares a file."""
    handle = _open(file)
    if handle is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)
    return False


@contextmanager
def replacing(file: Path) -> Iterator[None]:
    """Wait until nobody shares a file, and keep new readers waiting while the block replaces it."""
    handle = _open(file)
    try:
        if handle is not None:
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _open_shared(file: Path) -> int | None:
    """A handle with a shared lock on the file that is there once the lock is had."""
    while True:
        handle = _open(file)
        if handle is None:
            return None
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.stat(file).st_ino == os.fstat(handle).st_ino:  # noqa: PTH116 - beside fstat
                return handle
        os.close(handle)  # replaced while this waited


def _open(file: Path) -> int | None:
    if fcntl is None:
        return None
    try:
        return os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
