"""`llmcf review`: chains of thought read by people, one at a time, with the judge's scores beside them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from llmcf_cli.llm.writing.reviews import Agreement, Review
    from llmcf_cli.recipe.words import Words

_KEYS = "k keep  d drop  n drop, with a note  s skip  b back  q quit"
_MEANT = frozenset("kdnsbq")
_ARROWS = {"\x1b[D": "b", "\x1bOD": "b", "\x1b[C": "s", "\x1bOC": "s"}
"""What a terminal sends for the arrows to the left and right."""


def review(
    recipe: RecipeArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File of the verdicts.", show_default="NAME.reviews.parquet"),
    ] = None,
    order: Annotated[
        Literal["sample", "worst", "best"], typer.Option("--order", help="Order by sample, or by the judge's score.")
    ] = "sample",
    only: Annotated[
        Literal["all", "kept", "dropped"], typer.Option("--only", help="Only texts that the judge kept, or dropped.")
    ] = "all",
    below: Annotated[
        float | None, typer.Option("--below", metavar="SCORE", help="Only texts with a lower score.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Also show texts that have a verdict.")] = False,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.llm.writing.reviews import agreement, digest_of, read_reviews, to_review, write_reviews
    from llmcf_cli.stages.look import cot

    context = opened(recipe, set_, artifacts, allow_read)
    found = cot.written(context)
    file = out or Path(f"{context.recipe.name}.reviews.parquet")
    reviews = read_reviews(file) if file.exists() else {}
    rows = to_review(found)
    chosen = _chosen(rows, order, only, below)
    unread = chosen if again else [row for row in chosen if digest_of(row["text"]) not in reviews]
    console().print(f"{len(unread):,} of {len(chosen):,} texts to read; verdicts in {file}", soft_wrap=True)
    try:
        for made in _asked(unread, found.words, reviews):
            reviews[made.text_sha256] = made
            write_reviews(list(reviews.values()), file)
    finally:
        _print_agreement(agreement(rows, reviews))
        if left := sum(digest_of(row["text"]) not in reviews for row in chosen):
            console().print(f"{left:,} texts left; run the same command to continue")
    if file.exists():
        console().print(f"next: set cot.review: {file} in the recipe; examples then leave out what you dropped",
                        soft_wrap=True)  # fmt: skip


def _chosen(
    rows: Sequence[Mapping[str, Any]], order: str, only: str, below: float | None
) -> Sequence[Mapping[str, Any]]:
    chosen = [
        row for row in rows
        if only in ("all", "kept" if row["kept"] else "dropped") and (below is None or row["score"] < below)
    ]  # fmt: skip
    sign = {"sample": 0.0, "worst": 1.0, "best": -1.0}[order]
    return sorted(chosen, key=lambda row: (sign * row["score"], row["sample_id"]))


def _asked(rows: Sequence[Mapping[str, Any]], words: Words, reviews: Mapping[str, Review]) -> Iterator[Review]:
    """Verdicts as they are given, until the last text, `q`, or the end of the input.

    Args:
        rows: Texts to read.
        words: Of their labels.
        reviews: What there is to show where somebody comes back to a text; grows with what is yielded.
    """
    from llmcf_cli.llm.writing.reviews import Review, Verdict, digest_of

    place = 0
    while place < len(rows):
        row = rows[place]
        _show(row, words, place, len(rows), reviews.get(digest_of(row["text"])))
        key = _known_key()
        if key == "q":
            return
        if key == "b":
            place = max(place - 1, 0)
            continue
        if key != "s":
            note = _line("why? ") if key == "n" else ""
            yield Review.now(row, Verdict.keep if key == "k" else Verdict.drop, note or "")
        place += 1


def _show(row: Mapping[str, Any], words: Words, place: int, many: int, given: Review | None) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.llm.writing.cots import SCORES

    judged = "kept by the judge" if row["kept"] else f"dropped by the judge: {row['reason'] or 'score'}"
    console().rule(f"{place + 1:,} of {many:,}")
    console().print(f"user {row['user_id']} {words.decision(row['label'])} item {row['item_id']}", style="bold cyan")
    for name in ("user", "item"):
        if row[name]:
            console().print(f"{name}: {row[name]}", style="dim")
    console().print(row["text"])
    scores = "  ".join(f"{name} {row[name]:.2f}" for name in SCORES if row[name] is not None)
    console().print(f"{judged}  {scores}", style="dim")
    if given is not None:
        console().print(f"you: {given.verdict}{f', {given.note}' if given.note else ''}", markup=False)
    console().print(_KEYS, style="green")


def _known_key() -> str:
    """A key that means something; others are told, and the text is not shown again for them."""
    from llmcf_cli.cli.console import console

    while True:
        key = _key()
        key = _ARROWS.get(key, key.lower())
        if key in _MEANT:
            return key
        console().print(f"not one of: {_KEYS}", style="yellow")


def _key() -> str:
    """A key of the terminal, or the first letter of a line of what is piped in; `q` at its end."""
    if sys.stdin.isatty():
        key = typer.getchar()
        if key == "\x03":
            raise KeyboardInterrupt
        return key
    line = _line("")
    return "q" if line is None else line[:1]


def _line(question: str) -> str | None:
    """A line of the input; None at its end."""
    try:
        return input(question)
    except EOFError:
        return None


def _print_agreement(found: Agreement) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import text_table

    if not found.texts:
        return
    rows = [["judge kept", f"{found.both_keep:,}", f"{found.people_drop:,}"],
            ["judge dropped", f"{found.people_keep:,}", f"{found.both_drop:,}"]]  # fmt: skip
    text_table(["texts", "you keep", "you drop"], rows, title=f"You and the judge, {found.texts:,} texts")
    kappa = "undefined, because one side always gives the same verdict" if found.kappa is None else f"{found.kappa:.2f}"
    console().print(f"agreement {found.share:.1%}, Cohen's kappa {kappa}")
