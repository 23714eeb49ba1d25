"""`llmcf cot diff`: what two prompts, or two models, write about the same samples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.cli.stages import ArtifactsOption, SetOption

if TYPE_CHECKING:
    from llmcf_cli.llm.writing.contrast import Contrast, Pair
    from llmcf_cli.recipe.words import Words
    from llmcf_cli.stages.look.cot import Writing

_RUN = "A recipe, or the folder of a gen-cot artifact."


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help=_RUN, autocompletion=recipe_names)],
    second: Annotated[str, typer.Argument(metavar="B", help=_RUN, autocompletion=recipe_names)],
    most: Annotated[
        int, typer.Option("--most", "-n", min=0, help="Number of samples to show: those that differ most.")
    ] = 3,
    as_json: JsonOption = False,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    from llmcf_cli.stages.look import cot

    a, b = (_writing(one, set_, artifacts, allow_read) for one in (first, second))
    found, notes = cot.contrasted(a, b, most)
    if as_json:
        print_json([{"a": first, "b": second, "notes": notes, **asdict(found)}])
        return
    _print(found, notes, a.written.words)


def _writing(
    run: str, set_: list[str] | None, artifacts: Path | None, allow_read: list[Path] | None
) -> Writing:  # fmt: skip
    from llmcf_cli.stages.look import cot

    if Path(run).is_dir():
        return cot.writing_of_folder(Path(run))
    return cot.writing(opened(run, set_, artifacts, allow_read))


def _print(found: Contrast, notes: tuple[str, ...], words: Words) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import text_table

    sides = (found.first, found.second)
    rows = [
        ["samples written about", *(f"{side.samples:,}" for side in sides)],
        ["kept by the judge", *(f"{side.kept:,}" for side in sides)],
        ["words, on average", *("–" if side.words is None else f"{side.words:.1f}" for side in sides)],
    ]
    reasons = dict.fromkeys([*found.first.dropped, *found.second.dropped])
    rows += [[f"dropped: {why}", *(f"{side.dropped.get(why, 0):,}" for side in sides)]
             for why in reasons]  # fmt: skip
    text_table(["texts", "A", "B"], rows, title="What is written")
    kept = f"{found.both_kept:,} kept in both, {found.first_kept:,} only in A, {found.second_kept:,} only in B"
    console().print(f"{found.both:,} samples are in both, {found.same:,} with the same text; {kept}", markup=False)
    if found.scores:
        cells = [
            [one.score, f"{one.first:.3f}", f"{one.second:.3f}", f"{one.difference:+z.3f}",
             "–" if one.low is None else f"[{one.low:+z.3f}, {one.high:+z.3f}]", f"{one.samples:,}"]
            for one in found.scores
        ]  # fmt: skip
        text_table(["score", "A", "B", "B − A", "95 % interval", "samples"], cells,
                   title="The judge's scores of samples in both")  # fmt: skip
    for note in notes:
        console().print(f"! {note}", style="yellow", markup=False, soft_wrap=True)
    for pair in found.most:
        _print_pair(pair, words)


def _print_pair(pair: Pair, words: Words) -> None:
    from llmcf_cli.cli.console import console

    title = (
        f"sample {pair.sample_id}: user {pair.user_id} {words.decision(pair.label)} item {pair.item_id}, {pair.item}"
    )
    console().print()
    console().print(title, style="bold cyan", markup=False)
    for name, text, score, kept in (("A", pair.first, pair.first_score, pair.first_kept),
                                    ("B", pair.second, pair.second_score, pair.second_kept)):  # fmt: skip
        console().print(f"{name}: ", style="green", end="", markup=False)
        console().print(text, markup=False)
        console().print(f"score {score:.2f}, {'kept' if kept else 'dropped'}", style="dim", markup=False)
