"""`llmcf replay`: what each level of refreshing would have brought, window by window."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.opening import AllowReadOption, allow
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption
from llmcf_cli.core.errors import LlmcfError

if TYPE_CHECKING:
    from llmcf_cli.recipe.refresh import RefreshLevel

_UNITS = {
    "s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}  # fmt: skip


def replay(
    recipe: RecipeArgument,
    window: Annotated[str, typer.Option("--window", metavar="LENGTH", help="Length of a window: 12h, 7d, 2w.")] = "7d",
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Start of the first window, ISO 8601; by default after "
                                 "four fifths of the rows.")
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="End of the last window; by default, that of the rows.")
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", metavar="NAME", help="Arm of the comparison to replay.")
    ] = None,
    level: Annotated[
        list[str] | None,
        typer.Option("--level", metavar="LEVEL", help="Level to replay: items, examples, finetune or full. "
                     "Repeatable; by default, all levels that the arm supports."),
    ] = None,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the windows.")] = False,
    allow_read: AllowReadOption = None,
) -> None:  # fmt: skip
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.cli.tables import duration, text_table
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.serve.replayed import POPULAR, score_window
    from llmcf_cli.stages.replay import arms, page, record
    from llmcf_cli.stages.steps.task_data import task_of

    levels = _levels(level, arms.LEVELS) if level else None
    allow(recipe, allow_read)
    loaded = load_recipe(recipe, set_ or ())
    task = task_of(loaded.recipe)

    def say(text: str) -> None:
        console().print(text, markup=False, soft_wrap=True)

    telling = arms.Telling(
        make_progress(), lambda step: None,
        lambda step, manifest: say(f"  {step.node.label}: {duration(manifest.seconds)}") if step.runs else None,
        lambda number: say(f"window {number} of {len(found.windows.windows)}"),
    )  # fmt: skip
    found = arms.Replay(
        loaded, arm, levels, width=_width(window), first=_moment(from_, "--from"), last=_moment(to, "--to"),
        artifacts=artifacts, overrides=set_ or (), telling=telling,
    )  # fmt: skip
    said = [f"{one.rows:,}" for one in found.windows.windows]
    say(f"arm {found.arm}, seed {found.seed}: {found.windows.before:,} rows before the windows, then {', '.join(said)}")
    if found.windows.unread:
        say(f"! {found.windows.unread:,} lines could not be read, or have no time")
    if dry_run:
        return
    rows = found.run(score_window)
    main = task.measures[0]
    differences = [*record.differences(rows, main.name, POPULAR)]
    tables = [
        (f"{main.title} by window, predicted before learning from it", record.quality_rows(rows, main.name)),
        (f"{main.title} over the windows, and the cost of the refreshes between them",
         record.cost_rows(rows, main.name)),
        ("Differences, paired over the windows", record.difference_rows(differences)),
    ]  # fmt: skip
    for title, table in tables:
        text_table(*table, title=title)
    for row in rows:
        if row["note"]:
            say(f"! window {row['window']}, {row['arm']}: {row['note']}; the earlier model stayed")
    spent = found.base_cost
    say(f"before the first window: {spent.texts:,} texts, {spent.calls:,} calls, {spent.seconds:,.1f} s, "
        f"{spent.bytes / 1e6:,.1f} MB")  # fmt: skip
    record.write_parquet(rows, found.folder / "replay.parquet")
    (found.folder / "replay.md").write_text(record.markdown(tables))
    drawn = record.plot(rows, main.name, main.title, found.folder / "replay.png")
    page.write_replay_page(
        page.gather_replay(loaded.recipe.name, rows, main, differences), found.folder / "replay.html"
    )
    names = ["replay.parquet", "replay.md", *(["replay.png"] if drawn else [])]
    say(f"{', '.join(names)} in {found.folder}")
    say(f"report: {found.folder / 'replay.html'}")


def _levels(given: list[str], allowed: tuple[RefreshLevel, ...]) -> list[RefreshLevel]:
    wrong = next((one for one in given if one not in allowed), None)
    if wrong is not None:
        raise LlmcfError(f"unknown level {wrong!r}", code="option-conflict", where="--level", allowed=allowed)
    return [one for one in allowed if one in given]


def _width(written: str) -> int:
    """The length of a window, in microseconds."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})([smhdw])", written.strip())
    if not found:
        raise LlmcfError(f"{written!r} is not a length of time", code="option-conflict", where="--window",
                         allowed=("12h", "7d", "2w"))  # fmt: skip
    return int(found[1]) * (_UNITS[found[2]] // timedelta(microseconds=1))


def _moment(written: str | None, where: str) -> int | None:
    """A time in microseconds since 1970; without a zone it is in UTC."""
    if written is None:
        return None
    try:
        time = datetime.fromisoformat(written)
    except ValueError as error:
        raise LlmcfError(f"{written!r} is not a time in ISO 8601", code="option-conflict", where=where,
                         allowed=("1998-03-01", "1998-03-01T12:00:00+01:00")) from error  # fmt: skip
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
