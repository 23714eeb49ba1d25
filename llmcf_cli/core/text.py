"""Text of others made fit to be shown: on a terminal, in Markdown."""

from __future__ import annotations

import re

# C0 but tab and line feed, DEL, C1; marks that turn the direction of what follows; lone surrogates.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
PLAIN_LABELS = {"text.parse_math": False, "text.usetex": False}
"""Settings of matplotlib by which `$` in a label is a dollar."""
_MARKDOWN = re.compile(r"([\\`\[\]|*~$])")


def visible(text: str) -> str:
    r"""The text with control characters written out (`\x1b`): a title moves no cursor and hides no line."""
    return _UNSEEN.sub(_written, text)


def markdown(text: str) -> str:
    """The text for one line of Markdown: no HTML, link, emphasis, code or formula in it, no end of a table's cell."""
    import html  # a table of 2,000 names, which few commands need

    return _MARKDOWN.sub(r"\\\1", html.escape(label(text), quote=False))


def label(text: str) -> str:
    """The text on one line, for a plot; drawn with `PLAIN_LABELS`, as matplotlib reads formulas in labels."""
    return visible(" ".join(text.split()))


def page_label(text: str) -> str:
    """The text for a plot in a page: plotly reads some of HTML in labels, links among it."""
    import html

    return html.escape(label(text), quote=False)


def _written(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
