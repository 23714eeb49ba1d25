"""Groups of commands that Typer has no setting for, and what errors say to run next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

from llmcf_cli.core.errors import LlmcfError

RECIPE = "RECIPE"
"""Stands in hints for what the user called the recipe, with the options that make it the same run."""


class FallThroughGroup(TyperGroup):
    """`GROUP ARGUMENTS` means `GROUP run ARGUMENTS` where the first argument names no command of the group.

    So a stage command keeps its plain form beside commands about its result.
    """

    default: ClassVar[str] = "run"
    """The command that takes what names no other."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def remember(ctx: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
    """Callback of an argument or option: keeps what the user gave, for the hints of errors."""
    name = parameter.opts[0] if parameter.param_type_name == "option" else RECIPE
    ctx.meta[f"{__name__}.{name}"] = value
    return value


def fill_hints(error: LlmcfError, given: Any) -> None:
    """Put the user's recipe and options where hints have `RECIPE`; leave it where there is no recipe."""
    recipe, changes, folder = (given.get(f"{__name__}.{name}") for name in (RECIPE, "--set", "--artifacts"))
    if recipe is not None and not Path(recipe).is_dir():
        for one in (error, *getattr(error, "problems", ())):
            one.hint = one.hint.replace(RECIPE, same_run(recipe, changes or (), folder))


def same_run(recipe: str, overrides: Sequence[str] = (), artifacts: Path | None = None) -> str:
    """What a command line says after the command to mean the same run."""
    changes = [word for change in overrides for word in ("--set", change)]
    folder = [] if artifacts is None else ["--artifacts", str(artifacts)]
    return shlex.join([recipe, *changes, *folder])
