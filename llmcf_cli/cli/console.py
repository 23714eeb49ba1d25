"""The terminal: one console, live progress with rate and remaining time, tables."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from llmcf_cli.core.progress import Pace, PlainProgress, Progress, Task
from llmcf_cli.core.text import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID


@cache
def console() -> Console:
    """The console for results (standard output): a text is shown as it is, control characters written out.

    What is printed with `markup=True` has rich's own (`[red]`) read; text of others in it goes through `escaped`.
    """
    return _console(stderr=False, soft_wrap=False)


@cache
def error_console() -> Console:
    """The console for errors (standard error)."""
    return _console(stderr=True, soft_wrap=True)


def _console(*, stderr: bool, soft_wrap: bool) -> Console:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class CleanConsole(Console):
        """All that is printed comes by here before it gets its own codes: strings, cells of tables, any `Text`."""

        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
            for text, style, control in super().render(renderable, options):
                yield Segment(text if control else visible(text), style, control)

    return CleanConsole(stderr=stderr, highlight=False, soft_wrap=soft_wrap, markup=False, emoji=False)


class _RichTask:
    def __init__(self, bars: RichBars, task: TaskID, pace: Pace) -> None:
        self._bars, self._task, self._pace = bars, task, pace

    def advance(self, amount: float = 1) -> None:
        self._pace.advance(amount)
        self._bars.update(self._task, completed=self._pace.done)

    def skip(self, amount: float) -> None:
        self._pace.skip(amount)
        self._bars.update(self._task, completed=self._pace.done)

    def note(self, text: str) -> None:
        self._bars.update(self._task, note=_plain(text))

    def measured(self, step: int, values: Mapping[str, float]) -> None:
        pass  # the note says what people follow


def _plain(text: str) -> str:
    """A text for a column of bars, which would take its brackets for markup and its control characters as they are."""
    from rich.markup import escape

    return escape(visible(text))


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
        )
        from rich.progress import Task as RichTask
        from rich.text import Text

        pace = Pace(total, done)

        class Rate(ProgressColumn):
            def render(self, task: RichTask) -> Text:
                seconds = pace.left
                left = "" if seconds is None else f", {timedelta(seconds=round(seconds))} left"
                return Text(f"{pace.words(unit)}{left}", style="cyan")

        of = "/{task.total:,.0f}" if total is not None else ""
        bars = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn(f"{{task.completed:,.0f}}{of} {unit}"),
            TimeElapsedColumn(),
            Rate(),
            TextColumn("{task.fields[note]}"),
            console=console(),
            refresh_per_second=4,
        )
        with bars:
            begun = cast("int", done)  # rich says int, and takes any number
            yield _RichTask(bars, bars.add_task(_plain(name), total=total, completed=begun, note=""), pace)

    def say(self, text: str) -> None:
        console().print(f"  {text}", markup=False)


def make_progress() -> Progress:
    """Live bars on a terminal, plain lines in a pipe or log."""
    return RichProgress() if sys.stdout.isatty() else PlainProgress()
