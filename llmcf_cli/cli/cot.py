"""`llmcf cot`: prompts before they are sent, and chains of thought once they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption
from llmcf_cli.core.errors import LlmcfError

if TYPE_CHECKING:
    from llmcf_cli.llm.writing.preview import Preview
    from llmcf_cli.recipe.words import Words

app = typer.Typer(no_args_is_help=True)


@app.command()
def preview(
    recipe: RecipeArgument,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Samples whose prompts are shown.")] = 3,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Print the prompts of a few real samples, step by step, with their tokens. Loads no weights."""
    from llmcf_cli.cli.console import make_progress
    from llmcf_cli.stages.look import cot

    _print_preview(cot.preview(opened(recipe, set_, artifacts, allow_read), count, make_progress()))


@app.command()
def show(
    recipe: RecipeArgument,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Of this user.")] = None,
    item: Annotated[str | None, typer.Option(metavar="ID", help="About this item.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="ID", help="Of this train sample.")] = None,
    best: Annotated[int | None, typer.Option(min=1, metavar="N", help="The N of the highest score.")] = None,
    worst: Annotated[int | None, typer.Option(min=1, metavar="N", help="The N of the lowest score.")] = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Print chains of thought with their parts and scores; without an option, the three best."""
    from llmcf_cli.stages.look import cot

    chosen = [("sample", sample), ("user or item", user or item), ("best", best), ("worst", worst)]
    given = [f"--{name}" for name, value in chosen if value is not None]
    if len(given) > 1:
        raise LlmcfError(
            f"{' and '.join(given)} cannot stand together",
            code="option-conflict",
            where="cot show",
            hint="give one of them",
        )
    found = cot.written(opened(recipe, set_, artifacts, allow_read))
    if sample is not None or user is not None or item is not None:
        rows = found.of(sample_id=sample, user_id=user, item_id=item)
    else:
        rows = found.ranked("worst", worst) if worst is not None else found.ranked("best", best or 3)
    _print_rows(rows, found.words)


@app.command()
def export(
    recipe: RecipeArgument,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to write.")],
    form: Annotated[Literal["jsonl", "parquet"], typer.Option("--format", help="Of the file.")] = "jsonl",
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Write all chains of thought, with samples, prompts, parts and scores, to one file."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.look import cot

    count = cot.written(opened(recipe, set_, artifacts, allow_read)).export(out, form)
    console().print(f"{count:,} chains of thought in {out}", markup=False)


def _print_preview(found: Preview) -> None:
    from llmcf_cli.cli.console import console

    for one in found.prompts:
        longest = found.longest[one.step]
        notes = [f"at most {one.tokens:,} of {longest:,} prompt tokens, at most {one.answer:,} new ones"]
        notes += ["oldest history left out"] if one.shortened else []
        notes += one.changed
        notes += [] if one.fits else ["too long even without any history: this sample would be set aside"]
        console().print(f"{one.step}, {one.about}", style="bold cyan", markup=False)
        console().print(f"({'; '.join(notes)})", style="dim", markup=False)
        for message in one.messages:
            console().print(f"{message['role']}: ", style="green", end="", markup=False)
            console().print(message["content"], markup=False)
        console().print()
    shortened = sum(one.shortened for one in found.prompts)
    console().print(f"{shortened} of these {len(found.prompts)} prompts are shortened.", markup=False)
    if found.blank:
        said = f"{found.blank:,} of {found.samples:,} samples have an item without text."
        console().print(said, style="yellow", markup=False)
    calls = ", ".join(f"{name} {count:,}" for name, count in found.calls.items())
    console().print(f"The whole run, about {found.samples:,} samples, writes at most: {calls}.", markup=False)


def _print_rows(rows: Sequence[Mapping[str, Any]], words: Words) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.llm.writing.cots import SCORES

    for row in rows:
        decision = words.decision(row["label"])
        title = f"sample {row['sample_id']}: user {row['user_id']} {decision} item {row['item_id']}, {row['item']}"
        console().print(title, style="bold cyan", markup=False)
        console().print("  ".join(f"{name} {row[name]:.2f}" for name in SCORES), style="dim", markup=False)
        for part in row["parts"]:
            console().print(f"{part['step']}: ", style="green", end="", markup=False)
            console().print(part["text"], markup=False)
        console().print()
