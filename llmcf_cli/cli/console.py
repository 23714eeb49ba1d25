"""The terminal: one console, live progress with rate and remaining time, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from llmcf_cli.core.progress import PlainProgress, Progress, Task

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID


@cache
def console() -> Console:
    """The console for results (standard output)."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=False)


@cache
def error_console() -> Console:
    """The console for errors (standard error)."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True)


class _RichTask:
    def __init__(self, bars: RichBars, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, amount: float = 1) -> None:
        self._bars.advance(self._task, amount)

    def note(self, text: str) -> None:
        self._bars.update(self._task, note=text)


class RichProgress:
    """Live bars on a terminal; each finished task leaves one line."""

    @contextmanager
    def task(self, name: str, total: float | None, unit: str, done: float = 0) -> Iterator[Task]:
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Task as RichTask
        from rich.text import Text

        class Rate(ProgressColumn):
            def render(self, task: RichTask) -> Text:
                speed = task.finished_speed or task.speed
                return Text(f"{speed:,.1f} {unit}/s" if speed else f"– {unit}/s", style="cyan")

        of = "/{task.total:,.0f}" if total is not None else ""
        bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn(f"{{task.completed:,.0f}}{of} {unit}"),
            Rate(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console(),
            refresh_per_second=4,
        )
        with bars:
            yield _RichTask(bars, bars.add_task(name, total=total, completed=done, note=""))

    def say(self, text: str) -> None:
        console().print(f"  {text}", markup=False)


def make_progress() -> Progress:
    """Live bars on a terminal, plain lines in a pipe or log."""
    return RichProgress() if sys.stdout.isatty() else PlainProgress()
