"""`llmcf init`: a first recipe for tables, with what was found and why."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.core.errors import LlmcfError, RecipeError

if TYPE_CHECKING:
    from llmcf_cli.data.draft.asking import Question
    from llmcf_cli.data.draft.recipe import Draft


def _answer(option: str, metavar: str, what: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(option, metavar=metavar, help=what, rich_help_panel="Answers")
    return found


def init(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="Interactions, plus items and users if you have them; or their folder."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="RECIPE.yaml", help="Recipe file to write.", show_default="NAME.yaml here"),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Ask nothing; stop with an error that names what is unclear.")
    ] = False,
    task: Annotated[
        str | None,
        _answer("--task", "TASK", "ranking: score given items (the default); retrieval: list the best of all items."),
    ] = None,
    interactions: Annotated[str | None, _answer("--interactions", "FILE", "File with the interactions.")] = None,
    items: Annotated[str | None, _answer("--items", "FILE", "File with the items.")] = None,
    users: Annotated[str | None, _answer("--users", "FILE", "File with the users.")] = None,
    user: Annotated[str | None, _answer("--user", "COLUMN", "User id.")] = None,
    item: Annotated[str | None, _answer("--item", "COLUMN", "Item id.")] = None,
    time: Annotated[str | None, _answer("--time", "COLUMN", "Time of the event.")] = None,
    time_format: Annotated[
        str | None, _answer("--time-format", "FORMAT", "How times are written, e.g. day_first, milliseconds, %d %b %Y.")
    ] = None,
    time_zone: Annotated[str | None, _answer("--time-zone", "ZONE", "Time zone of times without one.")] = None,
    position: Annotated[
        str | None, _answer("--position", "COLUMN", "Position in the user's order, if there is no time.")
    ] = None,
    rating: Annotated[str | None, _answer("--rating", "COLUMN", "Rating; `none` if there is none.")] = None,
    label: Annotated[str | None, _answer("--label", "KIND", "rating or implicit.")] = None,
    positive_from: Annotated[
        float | None, _answer("--positive-from", "NUMBER", "Lowest rating of a positive sample.")
    ] = None,
    event: Annotated[str | None, _answer("--event", "KIND", "Events to predict; `all` for every event.")] = None,
    conflicts: Annotated[
        str | None, _answer("--conflicts", "ROW", "Which of several rows with the same id to keep: first or last.")
    ] = None,
    delimiter: Annotated[str | None, _answer("--delimiter", "SIGN", "CSV delimiter, e.g. ; or tab.")] = None,
    encoding: Annotated[str | None, _answer("--encoding", "NAME", "CSV encoding if not UTF-8, e.g. cp1252.")] = None,
    header: Annotated[str | None, _answer("--header", "YES/NO", "Whether CSV files start with column names.")] = None,
) -> None:
    from llmcf_cli.data.draft.asking import Decisions
    from llmcf_cli.data.draft.files import tables_of
    from llmcf_cli.data.draft.recipe import draft

    given = {
        "--task": task, "--interactions": interactions, "--items": items, "--users": users, "--user": user,
        "--item": item, "--time": time, "--time-format": time_format, "--time-zone": time_zone, "--position": position,
        "--rating": rating, "--label": label, "--event": event, "--conflicts": conflicts, "--delimiter": delimiter,
        "--positive-from": None if positive_from is None else f"{positive_from:g}", "--encoding": encoding,
        "--header": header,
    }  # fmt: skip
    for option, value, problem in _wrong(time_format, time_zone):
        raise LlmcfError(problem, code="value-invalid", where=f"{option} {value}", hint="see docs/data.md")
    path, files = out or _beside(files), tables_of(files)
    _refuse_existing(path)
    asking = not yes and sys.stdin.isatty() and sys.stdout.isatty()
    decisions = Decisions({o: v for o, v in given.items() if v is not None}, _ask if asking else None)
    found = draft(files, path, decisions)
    _write(path, found.text)
    _show(found, path, _outside(files, path))


def _wrong(time_format: str | None, time_zone: str | None) -> list[tuple[str, str, str]]:
    from llmcf_cli.tabular.times import format_problem, zone_problem

    checked = (("--time-format", time_format, format_problem), ("--time-zone", time_zone, zone_problem))
    return [(o, value, problem) for o, value, check in checked if value is not None and (problem := check(value))]


def _beside(files: Sequence[Path]) -> Path:
    """Here, if all files lie below; else beside them: a recipe reads no file outside its folder unasked."""
    here, stem = Path.cwd(), files[0].name.split(".")[0] or "data"
    if all(file.absolute().is_relative_to(here) for file in files):
        return Path(f"{stem}.yaml")
    return Path(os.path.commonpath([file.absolute().parent for file in files])) / f"{stem}.yaml"


def _outside(files: Sequence[Path], recipe: Path) -> str:
    """What a command must say so that the recipe may read these files; empty if they lie around it."""
    around = recipe.absolute().parent.resolve()
    folders = dict.fromkeys(file.resolve().parent for file in files if not file.resolve().is_relative_to(around))
    return "".join(f" --allow-read {shlex.quote(str(folder))}" for folder in folders)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise LlmcfError(
            "already exists, and nothing is overwritten", code="recipe-exists", where=str(path),
            hint="write to another file with --out OTHER.yaml",
        )  # fmt: skip


def _ask(question: Question) -> str:
    from llmcf_cli.cli.console import console

    console().print(f"{question.where}: {question.what}" if question.where else question.what, markup=False)
    answers = list(question.answers)
    for number, (answer, meaning) in enumerate(question.answers.items(), 1):
        console().print(f"  {number}  {answer}  ({meaning})", markup=False)
    while True:
        given = str(typer.prompt(f"{question.option}, number or name")).strip()
        if given in answers:
            return given
        if given.isdecimal() and 1 <= int(given) <= len(answers):
            return answers[int(given) - 1]
        console().print(f"not one of {', '.join(answers)}", style="yellow", markup=False)


def _write(path: Path, text: str) -> None:
    """Write the recipe and check it as `recipe validate` does; one that is wrong does not stay.

    Raises:
        RecipeError: It does not fit the tables.
    """
    from llmcf_cli.recipe.load import check_recipe
    from llmcf_cli.recipe.problems import in_order
    from llmcf_cli.stages.files import file_problems, locator_of

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as handle:
            handle.write(text)
    except FileExistsError:
        _refuse_existing(path)
    try:
        recipe = check_recipe(str(path))
        problems = in_order([*recipe.problems, *file_problems(recipe.root, locator_of(recipe)).wrong])
    except LlmcfError:
        path.unlink()
        raise
    if problems:
        path.unlink()
        raise RecipeError(problems, hint="write the recipe by hand: see docs/your-own-data.md")


def _show(found: Draft, path: Path, allowing: str) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table

    table = plain_table("what", "chosen", "why")
    for decision in found.decisions:
        table.add_row(decision.what, decision.chosen, decision.why)
    console().print(table)
    console().print(f"wrote {path}", style="green", markup=False, soft_wrap=True)
    name = shlex.quote(str(path))
    console().print(f"next: llmcf ingest {name}{allowing}    # what is kept and dropped", markup=False, soft_wrap=True)
    if allowing:
        console().print("      (the tables are outside the recipe's folder; llmcf remembers this permission)",
                        style="dim", markup=False, soft_wrap=True)  # fmt: skip
    console().print(f"      llmcf run {name}", markup=False, soft_wrap=True)
