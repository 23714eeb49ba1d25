"""Progress through one façade. Engines report; who watches (rich, plain lines, nobody) is decided above."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from llmcf_cli.core.text import visible


class Task(Protocol):
    """One running piece of work."""

    def advance(self, amount: float = 1) -> None:
        """Report `amount` more units done."""

    def skip(self, amount: float) -> None:
        """Report `amount` units that were done before, so that they count as done but not in the rate."""

    def note(self, text: str) -> None:
        """Replace the short live note beside the bar, e.g. `loss 0.412`."""

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        """Report numbers by name, e.g. `train/loss`, after an epoch or step; steps only grow."""


class Pace:
    """How fast a task goes: units that were skipped count as done, not as work.

    Args:
        total: Units of the task; None: unknown.
        done: Of these, done before it starts.
    """

    def __init__(self, total: float | None, done: float = 0) -> None:
        self.total, self.done = total, done
        self._worked = 0.0
        self._start = time.monotonic()

    def advance(self, amount: float) -> None:
        """So many units were done now."""
        self.done += amount
        self._worked += amount

    def skip(self, amount: float) -> None:
        """So many units were done before."""
        self.done += amount

    @property
    def rate(self) -> float:
        """Units per second; 0 before any."""
        return self._worked / max(time.monotonic() - self._start, 1e-9)

    @property
    def left(self) -> float | None:
        """Seconds to the end at this rate; None if unknown or over."""
        if self.total is None or not self._worked or self.done >= self.total:
            return None
        return (self.total - self.done) / self.rate

    def words(self, unit: str) -> str:
        """The rate for people: `12.3 row/s`, and where a unit takes longer than a second `4.1 s each`."""
        rate = self.rate
        return f"{1 / rate:,.1f} s each" if 0 < rate < 1 else f"{rate:,.1f} {unit}/s"


class Progress(Protocol):
    """Where long work reports to. Safe to pass around; never None."""

    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> AbstractContextManager[Task]:
        """Start a task of `total` units (None: unknown), of which `done` are already done."""

    def say(self, text: str) -> None:
        """Log one decision worth reading later."""


class _SilentTask:
    def advance(self, amount: float = 1) -> None:
        pass

    def skip(self, amount: float) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def measured(self, step: int, values: Mapping[str, float]) -> None:
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
        self._name, self._unit, self._every = name, unit, every
        self._pace = Pace(total, done)
        self._note = ""
        self._last = time.monotonic()

    def advance(self, amount: float = 1) -> None:
        self._pace.advance(amount)
        now = time.monotonic()
        if now - self._last >= self._every:
            self._last = now
            self.line()

    def skip(self, amount: float) -> None:
        self._pace.skip(amount)

    def note(self, text: str) -> None:
        self._note = text

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        pass  # the note says what people follow

    def line(self) -> None:
        pace = self._pace
        total = f"/{pace.total:,.0f}" if pace.total is not None else ""
        left = f", {pace.left:,.0f} s left" if pace.left is not None else ""
        note = f" · {self._note}" if self._note else ""
        line = f"{self._name}: {pace.done:,.0f}{total} {self._unit}, {pace.words(self._unit)}{left}{note}"
        print(visible(line), flush=True)


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
        print(visible(text), flush=True)


SILENT: Progress = SilentProgress()
