"""Tables and numbers as text, for a terminal of any width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

from llmcf_cli.cli.console import console

GAP = 2
"""Spaces between the columns of a table."""


def text_table(titles: Sequence[str], cells: Sequence[Sequence[str]], *, title: str) -> None:
    """Print a table under its title; one too wide for the terminal as several, each with the first column."""
    console().print()
    console().print(title, style="italic", markup=False)
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    for columns in fitting(widths, console().width):
        table = plain_table()
        for place in (0, *columns):
            table.add_column(titles[place], justify="right" if place else "left", overflow="fold")
        for row in cells:
            table.add_row(*(row[place] for place in (0, *columns)))
        console().print(table)


def fitting(widths: Sequence[int], total: int) -> list[list[int]]:
    """Places 1, 2, … of columns in groups that fit beside column 0."""
    groups: list[list[int]] = [[]]
    left = total - widths[0]
    for place, width in enumerate(widths[1:], 1):
        left -= width + GAP
        if left < 0 and groups[-1]:
            groups.append([])
            left = total - widths[0] - width - GAP
        groups[-1].append(place)
    return groups


def plain_table(*columns: str) -> Table:
    """A table without lines."""
    return Table(*columns, box=None, pad_edge=False, header_style="bold")


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes."""
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def number(value: Any) -> str:
    """A float by three digits; anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def optional(value: float | None) -> str:
    """A metric, or that there is none."""
    return "failed" if value is None else f"{value:.4f}"


def escaped(text: str) -> str:
    """Text whose brackets are no markup."""
    from rich.markup import escape

    return escape(text)
