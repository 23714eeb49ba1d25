"""Histograms of similarity as a picture (PNG) and a page (HTML)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from llmcf_cli.core.text import PLAIN_LABELS, label, page_label

Histogram = Sequence[tuple[float, float, int]]

XLABEL, YLABEL = "similarity of sample and example", "places"


def plot_similarity(histograms: Mapping[str, Histogram], folder: Path) -> list[Path]:
    """Save `similarity.png` and `similarity.html`, a panel for each title.

    Returns:
        The files written; empty where the `plot` extra is not installed, or there is nothing to show.
    """
    shown = {title: bins for title, bins in histograms.items() if bins}
    if not shown:
        return []
    png, page = folder / "similarity.png", folder / "similarity.html"
    try:
        import matplotlib

        with matplotlib.rc_context(PLAIN_LABELS):
            _picture(shown, png)
        _page(shown, page)
    except ModuleNotFoundError:
        return []
    return [png, page]


def _picture(histograms: Mapping[str, Histogram], path: Path) -> None:
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 2.6 * len(histograms) + 0.4), layout="constrained")
    panels = figure.subplots(len(histograms), 1, squeeze=False)[:, 0]
    for axes, (title, bins) in zip(panels, histograms.items(), strict=True):
        axes.bar([low for low, _, _ in bins], [n for _, _, n in bins], [h - low for low, h, _ in bins], align="edge")
        axes.set(xlabel=XLABEL, ylabel=YLABEL)
        axes.set_title(label(title), fontsize="medium")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def _page(histograms: Mapping[str, Histogram], path: Path) -> None:
    from plotly.subplots import make_subplots

    page = make_subplots(rows=len(histograms), cols=1, subplot_titles=[*map(page_label, histograms)])
    for row, bins in enumerate(histograms.values(), 1):
        page.add_bar(
            x=[(low + high) / 2 for low, high, _ in bins], y=[n for _, _, n in bins],
            width=[high - low for low, high, _ in bins], showlegend=False, row=row, col=1,
        )  # fmt: skip
    page.update_xaxes(title_text=XLABEL)
    page.update_yaxes(title_text=YLABEL)
    page.update_layout(height=320 * len(histograms) + 60)
    page.write_html(path, include_plotlyjs=True)
