"""`llmcf cot`: prompts before they are sent, and chains of thought once they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmcf_cli.cli.cot_diff import diff
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption
from llmcf_cli.core.errors import LlmcfError

if TYPE_CHECKING:
    from llmcf_cli.llm.writing.preview import Preview
    from llmcf_cli.llm.writing.travel import Exported
    from llmcf_cli.recipe.words import Words

app = typer.Typer(no_args_is_help=True)
app.command("diff", help="Compare two prompts, models or judges on the same samples.")(diff)


class About(StrEnum):
    """What a text was written from."""

    user = "user"
    item = "item"


@app.command()
def preview(
    recipe: RecipeArgument,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Number of samples to show.")] = 3,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Print the prompts of a few real samples, step by step, with their token counts. Loads no weights."""
    from llmcf_cli.cli.console import make_progress
    from llmcf_cli.stages.look import cot

    _print_preview(cot.preview(opened(recipe, set_, artifacts, allow_read), count, make_progress()))


@app.command()
def show(
    recipe: RecipeArgument,
    user: Annotated[str | None, typer.Option(metavar="ID", help="Only texts written for this user.")] = None,
    item: Annotated[str | None, typer.Option(metavar="ID", help="Only texts about this item.")] = None,
    sample: Annotated[int | None, typer.Option(metavar="ID", help="Only the text of this train sample.")] = None,
    best: Annotated[int | None, typer.Option(min=1, metavar="N", help="The N texts with the highest scores.")] = None,
    worst: Annotated[int | None, typer.Option(min=1, metavar="N", help="The N texts with the lowest scores.")] = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Print chains of thought with their parts and scores; by default, the best three."""
    from llmcf_cli.stages.look import cot

    chosen = [("sample", sample), ("user or item", user or item), ("best", best), ("worst", worst)]
    given = [f"--{name}" for name, value in chosen if value is not None]
    if len(given) > 1:
        raise LlmcfError(
            f"{' and '.join(given)} exclude each other",
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
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the chains of thought to this file, for reading."),
    ] = None,
    form: Annotated[Literal["jsonl", "parquet"], typer.Option("--format", help="Format of the --out file.")] = "jsonl",
    cache: Annotated[
        Path | None,
        typer.Option(
            "--cache", metavar="FILE", help="Write every generated text to this file, for `llmcf cot import` elsewhere."
        ),
    ] = None,
    without: Annotated[
        list[About] | None,
        typer.Option("--without", help="With --cache: leave out texts written from this. Repeatable."),
    ] = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Export chains of thought with samples, prompts, parts and scores; or all generated texts, to import elsewhere."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.look import cot
    from llmcf_cli.stages.share.texts import export_cache

    if out is None and cache is None:
        raise typer.BadParameter("give --out FILE or --cache FILE")
    if without and cache is None:
        raise LlmcfError("applies only to --cache", code="option-conflict", where="--without", hint="add --cache FILE")
    context = opened(recipe, set_, artifacts, allow_read)
    if out is not None:
        count = cot.written(context).export(out, form)
        console().print(f"{count:,} chains of thought in {out}", markup=False)
    if cache is not None:
        _print_exported(export_cache(context, cache, without or ()), cache)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File written by `llmcf cot export --cache`.")],
    artifacts: ArtifactsOption = None,
    lock: Annotated[
        Path | None, typer.Option("--lock", metavar="LOCK", help="Refuse texts of models that are not in this lock.")
    ] = None,
) -> None:
    """Import texts generated elsewhere into the cache, so that no call generates them again."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.pipeline import artifact_root, generations
    from llmcf_cli.stages.share.lock import read_lock
    from llmcf_cli.stages.share.texts import import_cache

    cache = generations(artifact_root(artifacts))
    found = import_cache(cache, file, read_lock(lock) if lock is not None else None)
    kept = f", {found.kept:,} differ from those here, which were kept" if found.kept else ""
    said = f"{found.texts:,} texts in {file}: {found.new:,} new, {found.same:,} already here{kept}"
    console().print(said, markup=False, soft_wrap=True)
    for model, count in found.models.items():
        console().print(f"  {count:,} of the model {model}", style="dim", markup=False, soft_wrap=True)


def _print_exported(found: Exported, file: Path) -> None:
    from llmcf_cli.cli.console import console

    steps = ", ".join(f"{name} {count:,}" for name, count in found.steps.items())
    console().print(f"{found.texts:,} texts in {file} ({steps})", markup=False, soft_wrap=True)
    if found.texts < found.asked:
        missing = f"! the recipe asks for {found.asked:,}: the rest was not generated here, or was set aside"
        console().print(missing, style="yellow", markup=False, soft_wrap=True)
    for about, count in found.left_out.items():
        said = f"! left out: {count:,} written from a {about}; whoever imports the file must generate them"
        console().print(said, style="yellow", markup=False, soft_wrap=True)


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
    console().print(f"{shortened} of these {len(found.prompts)} prompts were shortened.", markup=False)
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
