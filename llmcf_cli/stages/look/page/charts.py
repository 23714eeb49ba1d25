"""Where the marks of charts stand: geometry alone, in units of an SVG's view box; the template draws them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH = 640
_LEFT, _RIGHT, _TOP, _BOTTOM, _ROW = 170, 16, 8, 34, 26
_HEIGHT = 300
_PLOT_LEFT = 56
_LONGEST = 24
"""Characters of a label beside a row."""


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Mark:
    """A row of a chart of intervals."""

    label: str
    full: str
    y: float
    x: float
    low: float
    high: float
    dots: tuple[float, ...]
    told: str


@dataclass(frozen=True)
class Intervals:
    """Values with intervals, a row each."""

    title: str
    axis: str
    height: float
    left: float
    right: float
    bottom: float
    rows: tuple[Mark, ...]
    ticks: tuple[Tick, ...]
    zero: float | None


@dataclass(frozen=True)
class Line:
    """A series of a chart of lines."""

    label: str
    points: str
    dots: tuple[tuple[float, float], ...]
    told: str


@dataclass(frozen=True)
class Lines:
    """Several series over one axis."""

    title: str
    x_axis: str
    y_axis: str
    height: float
    left: float
    right: float
    top: float
    bottom: float
    lines: tuple[Line, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    diagonal: tuple[float, float, float, float] | None


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about so many."""
    if not high > low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= count)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def intervals(
    title: str, axis: str, rows: Sequence[tuple[str, float, float, float, Sequence[float]]], *, zero: bool = False
) -> Intervals:
    """A chart of (label, value, low, high, single values).

    Args:
        title: What it shows.
        axis: What the numbers are.
        rows: From top to bottom.
        zero: Whether zero has a line, and the numbers signs.
    """
    ends = [end for _, value, low, high, dots in rows for end in (value, low, high, *dots)] + [0.0] * zero
    scale = _Scale(min(ends), max(ends), _LEFT, WIDTH - _RIGHT)
    form = "+.4f" if zero else ".4f"
    marks = tuple(
        Mark(
            label if len(label) <= _LONGEST else f"{label[: _LONGEST - 1]}…", label, _TOP + _ROW * (place + 0.5),
            scale(value), scale(low), scale(high), tuple(map(scale, dots)),
            f"{label}: {value:{form}}, 95 % interval {low:{form}} to {high:{form}}",
        )
        for place, (label, value, low, high, dots) in enumerate(rows)
    )  # fmt: skip
    bottom = _TOP + _ROW * len(rows)
    at = tuple(Tick(scale(value), f"{value:{'+' if zero and value else ''}g}") for value in scale.ticks)
    return Intervals(
        title, axis, bottom + _BOTTOM, _LEFT, WIDTH - _RIGHT, bottom, marks, at, scale(0.0) if zero else None
    )


def lines(
    title: str, x_axis: str, y_axis: str, series: Mapping[str, Sequence[tuple[float, float]]], *, diagonal: bool = False
) -> Lines | None:
    """A chart of (x, y) by series; None where no series has a point.

    Args:
        title: What it shows.
        x_axis, y_axis: What the numbers are.
        series: Label → points.
        diagonal: Whether both axes are shares from 0 to 1, with a line where they are equal.
    """
    points = [point for values in series.values() for point in values]
    if not points:
        return None
    xs, ys = ([0.0, 1.0], [0.0, 1.0]) if diagonal else ([x for x, _ in points], [y for _, y in points])
    bottom = _HEIGHT - _BOTTOM - 8
    x = _Scale(min(xs), max(xs), _PLOT_LEFT, WIDTH - _RIGHT, 0.0 if diagonal else 0.03)
    y = _Scale(min(ys), max(ys), bottom, _TOP, 0.0 if diagonal else 0.06)
    drawn = tuple(
        Line(
            label, " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in values), tuple((x(a), y(b)) for a, b in values),
            f"{label}: " + ", ".join(f"{a:g} → {b:.4f}" for a, b in values),
        )
        for label, values in series.items() if values
    )  # fmt: skip
    whole = not diagonal
    x_ticks = tuple(Tick(x(v), f"{v:g}") for v in x.ticks if not whole or v == int(v))
    y_ticks = tuple(Tick(y(v), f"{v:g}") for v in y.ticks)
    corner = (x(0), y(0), x(1), y(1)) if diagonal else None
    return Lines(
        title, x_axis, y_axis, _HEIGHT, _PLOT_LEFT, WIDTH - _RIGHT, _TOP, bottom, drawn, x_ticks, y_ticks, corner
    )


class _Scale:
    """From numbers to places."""

    def __init__(self, low: float, high: float, start: float, end: float, margin: float = 0.05) -> None:
        span = (high - low) or abs(high) or 1.0
        self._low, self._high = low - margin * span, high + margin * span
        if self._high == self._low:
            self._high += 1.0
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 2)

    @property
    def ticks(self) -> list[float]:
        return [round(value, 10) for value in ticks(self._low, self._high)]
