"""Progress through one façade. Engines report; who watches (rich, plain lines, nobody) is decided above."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One running piece of work."""

    def advance(self, amount: float = 1) -> None:
        """Report `amount` more units done."""

    def note(self, text: str) -> None:
        """Replace the short live note beside the bar, e.g. `loss 0.412`."""


class Progress(Protocol):
    """Where long work reports to. Safe to pass around; never None."""

    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> AbstractContextManager[Task]:
        """Start a task of `total` units (None: unknown), of which `done` are already done."""

    def say(self, text: str) -> None:
        """Log one decision worth reading later."""


class _SilentTask:
    def advance(self, amount: float = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class SilentProgress:
    """Reports to nobody; the default of library functions."""

    @contextmanager
    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> Iterator[Task]:
        yield _SilentTask()

    def say(self, text: str) -> None:
        pass


class _PlainTask:
    def __init__(self, name: str, total: float | None, unit: str, done: float, every: float) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._start_done = self._done = done
        self._every = every
        self._note = ""
        self._start = self._last = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self._done += amount
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self.line()

    def note(self, text: str) -> None:
        self._note = text

    def line(self) -> None:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = (self._done - self._start_done) / elapsed
        total = f"/{self._total:,.0f}" if self._total is not None else ""
        left = ""
        if self._total is not None and rate > 0 and self._done < self._total:
            left = f", {(self._total - self._done) / rate:,.0f} s left"
        note = f" · {self._note}" if self._note else ""
        print(
            f"{self._name}: {self._done:,.0f}{total} {self._unit}, {rate:,.1f} {self._unit}/s{left}{note}",
            flush=True,
        )


class PlainProgress:
    """One line every few seconds, for logs and pipes.

    Args:
        every: Least seconds between two lines of one task.
    """

    def __init__(self, every: float = 10.0) -> None:
        self._every = every

    @contextmanager
    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> Iterator[Task]:
        task = _PlainTask(name, total, unit, done, self._every)
        yield task
        task.line()

    def say(self, text: str) -> None:
        print(text, flush=True)


SILENT: Progress = SilentProgress()
