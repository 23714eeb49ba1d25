"""`llmcf match show`: the examples that a sample was matched with, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption
from llmcf_cli.tabular.times import shown_time

if TYPE_CHECKING:
    from llmcf_cli.match.explain import Explanation, Row

LABELS = ("no (0)", "yes (1)")


def add_to(group: typer.Typer) -> None:
    """Add the command to the group `llmcf match`."""
    group.command("show", help="Print the examples matched to a sample, with texts and scores.")(show)


def show(
    recipe: RecipeArgument,
    user: Annotated[str | None, typer.Option(metavar="ID", help="User id, as in the data.")] = None,
    item: Annotated[str | None, typer.Option(metavar="ID", help="Item id, as in the data.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="ID", help="Sample id, instead of --user and --item.")] = None,
    split: Annotated[
        Literal["train", "validation", "test"] | None, typer.Option(help="Only samples of this split.")
    ] = None,
    arm: Annotated[
        str | None, typer.Option(metavar="NAME", help="Show the matches of this arm of the comparison.")
    ] = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.core.errors import LlmcfError
    from llmcf_cli.data.output import IngestOutput
    from llmcf_cli.match.explain import find_samples
    from llmcf_cli.stages.look.explain import explain_match, matched_node

    if (sample is None) == (user is None or item is None):
        raise LlmcfError("give either --user and --item, or --sample", code="option-conflict", where="match show")
    node = matched_node(opened(recipe, set_, artifacts, allow_read), arm)
    if sample is None:
        samples = find_samples(IngestOutput(node.needs["ingest"].folder).database, str(user), str(item), split)
        sample = samples[-1]
        if len(samples) > 1:
            others = ", ".join(map(str, samples[:-1]))
            console().print(f"the latest of {len(samples)} samples; --sample shows the others: {others}", style="dim")
    _render(explain_match(node, sample))


def _render(found: Explanation) -> None:
    from rich.padding import Padding
    from rich.text import Text

    from llmcf_cli.cli.console import console

    console().print(f"sample {_about(found.query, found.clock)}", style="bold", markup=False)
    console().print(Padding(Text(_history(found.query)), (0, 0, 1, 2)))
    for place, example in enumerate(found.examples, 1):
        console().print(f"example {place}: sample {_about(example.row, found.clock)}", style="bold", markup=False)
        console().print(
            f"  score {example.score:.4f}; likeness {example.history_score + example.item_score:.4f} = history "
            f"{example.history_score:.4f} + item {example.item_score:.4f}",
            markup=False,
        )
        console().print(Padding(Text(_history(example.row)), (0, 0, 0, 2)))
        text = " ".join(example.cot.split()) or "no chain of thought"
        console().print(Padding(Text(text, style="" if example.cot else "dim"), (0, 0, 1, 2)))
    empty = found.k - len(found.examples)
    if empty:
        console().print(f"{empty} of {found.k} places are empty: no other example was allowed", style="yellow")


def _about(row: Row, clock: str) -> str:
    when = shown_time(row.time) if clock == "global" else f"no. {row.time}"
    return (
        f"{row.sample_id} ({row.split}): user {row.user_id}, item {row.item_id} “{row.item}”, "
        f"label {LABELS[row.label]}, {when}"
    )


def _history(row: Row) -> str:
    return f"history, oldest first: {' → '.join(row.history)}" if row.history else "no history"
