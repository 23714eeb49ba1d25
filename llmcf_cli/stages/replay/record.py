"""What a replay found, as tables, tests over windows, Parquet and a plot.

Legend: W windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.text import PLAIN_LABELS, label
from llmcf_cli.rec.measure.compare import p_text

_LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """Two arms over the windows that both have a value of.

    Attributes:
        arm, other: Which; the difference is of the first minus the second.
        windows: W.
        mean: Over the windows.
        interval: 95 % confidence interval of it, by Student's t; None with one window.
        p_value: Of a paired t test; None with one window, or where all differences are the same.
    """

    arm: str
    other: str
    windows: int
    mean: float
    interval: tuple[float, float] | None
    p_value: float | None


def arms_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The arms, in order."""
    return list(dict.fromkeys(row["arm"] for row in rows))


def differences(rows: Sequence[Mapping[str, Any]], measure: str, reference: str) -> Iterator[Difference]:
    """Each arm against the one before it: what the next step up in cost brings. The last against the first, too.

    Args:
        rows: Of a replay.
        measure: What differs.
        reference: The arm without a model, against which the last is set.
    """
    arms = [arm for arm in arms_of(rows) if arm != reference]
    pairs = [(arm, other) for other, arm in pairwise(arms)]
    pairs += [(arms[-1], arms[0])] * (len(arms) > 2) + [(arms[-1], reference)]
    value = {(row["arm"], row["window"]): row[measure] for row in rows if row.get(measure) is not None}
    windows = sorted({row["window"] for row in rows})
    for arm, other in dict.fromkeys(pairs):
        both = [w for w in windows if (arm, w) in value and (other, w) in value]
        if both:
            yield _paired(arm, other, np.array([value[arm, w] - value[other, w] for w in both]))


def _paired(arm: str, other: str, difference_W: np.ndarray) -> Difference:
    from scipy.stats import ttest_1samp

    mean = float(difference_W.mean())
    if len(difference_W) < 2 or np.ptp(difference_W) == 0:
        return Difference(arm, other, len(difference_W), mean, None, None)
    tested = ttest_1samp(difference_W, 0.0)
    low, high = tested.confidence_interval(_LEVEL)
    return Difference(arm, other, len(difference_W), mean, (float(low), float(high)), float(tested.pvalue))


def quality_rows(rows: Sequence[Mapping[str, Any]], measure: str) -> tuple[list[str], list[list[str]]]:
    """A row for each window: samples, and the measure of each arm; last the means."""
    arms = arms_of(rows)
    cells = []
    for window in sorted({row["window"] for row in rows}):
        of = {row["arm"]: row for row in rows if row["window"] == window}
        some = next(iter(of.values()))
        cells.append([_day(some["first"]), f"{some['samples']:,}", *(_number(of, arm, measure) for arm in arms)])
    means = [_mean(rows, arm, measure) for arm in arms]
    return ["window from", "samples", *arms], [*cells, ["mean", "", *means]]


def cost_rows(rows: Sequence[Mapping[str, Any]], measure: str) -> tuple[list[str], list[list[str]]]:
    """A row for each arm: its means over the windows, on new users and items apart, and all that it cost."""
    titles = [
        "arm",
        "all",
        "new users",
        "new items",
        "texts",
        "calls",
        "tokens read",
        "tokens written",
        "seconds",
        "MB",
    ]
    counts = ("texts", "calls", "prompt_tokens", "new_tokens")
    cells = []
    for arm in arms_of(rows):
        own = [row for row in rows if row["arm"] == arm]
        means = [_mean(rows, arm, name) for name in (measure, f"new_users_{measure}", f"new_items_{measure}")]
        total = {name: sum(row[name] for row in own) for name in (*counts, "seconds", "bytes")}
        cells.append([
            arm, *means, *(f"{total[name]:,}" for name in counts), f"{total['seconds']:,.1f}",
            f"{total['bytes'] / 1e6:,.1f}",
        ])  # fmt: skip
    return titles, cells


def difference_rows(found: Sequence[Difference]) -> tuple[list[str], list[list[str]]]:
    """A row for each pair of arms."""
    cells = []
    for one in found:
        interval = "–" if one.interval is None else f"{one.interval[0]:+.4f} … {one.interval[1]:+.4f}"
        cells.append([
            f"{one.arm} − {one.other}", str(one.windows), f"{one.mean:+.4f}", interval, p_text(one.p_value)
        ])  # fmt: skip
    return ["arms", "windows", "mean difference", "95 % interval", "p (paired t)"], cells


def write_parquet(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write all rows: times in UTC, a column for each measure, empty where it is not defined."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    columns |= {name: [_moment(row[name]) for row in rows] for name in ("first", "last")}
    pq.write_table(pa.table(columns), file)


def plot(rows: Sequence[Mapping[str, Any]], measure: str, title: str, file: Path) -> bool:
    """Plot quality and cost by window; whether the `plot` extra is there to do so."""
    try:
        import matplotlib
        import matplotlib.figure
    except ModuleNotFoundError:
        return False
    with matplotlib.rc_context(PLAIN_LABELS):
        figure = matplotlib.figure.Figure(figsize=(9, 6.4), layout="constrained")
        panels = figure.subplots(2, 1, sharex=True)
        for arm in arms_of(rows):
            own = [row for row in rows if row["arm"] == arm]
            when = [_moment(row["first"]) for row in own]
            panels[0].plot(when, [row.get(measure) for row in own], marker="o", label=label(arm))
            panels[1].plot(when, np.cumsum([row["seconds"] for row in own]), marker="o", label=label(arm))
        panels[0].set(ylabel=label(title))
        panels[1].set(ylabel="seconds of refreshing so far", xlabel="start of window")
        for axes in panels:
            axes.grid(alpha=0.3)
        panels[0].legend(ncols=5, fontsize="small")
        figure.autofmt_xdate()
        figure.savefig(file, dpi=130)
    return True


def markdown(tables: Sequence[tuple[str, tuple[list[str], list[list[str]]]]]) -> str:
    """Titled tables as a page."""
    parts = []
    for title, (titles, cells) in tables:
        lines = [titles, ["---"] * len(titles), *cells]
        parts.append(f"{title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    return "\n".join(parts)


def _number(of: Mapping[str, Mapping[str, Any]], arm: str, measure: str) -> str:
    value = of.get(arm, {}).get(measure)
    return "–" if value is None else f"{value:.4f}"


def _mean(rows: Sequence[Mapping[str, Any]], arm: str, measure: str) -> str:
    """Over the windows in which it is defined, with their number where that is not all."""
    own = [row for row in rows if row["arm"] == arm]
    values = [row[measure] for row in own if row.get(measure) is not None]
    if not values:
        return "–"
    some = f" ({len(values)} window{'s' * (len(values) != 1)})" if len(values) < len(own) else ""
    return f"{np.mean(values):.4f}{some}"


def _moment(time: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time)


def _day(time: int) -> str:
    return _moment(time).strftime("%Y-%m-%d %H:%M")
