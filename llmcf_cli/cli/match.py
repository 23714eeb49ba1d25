"""`llmcf match`: the stage, and commands about what it finds."""

from __future__ import annotations

import typer

from llmcf_cli.cli.groups import FallThroughGroup
from llmcf_cli.cli.stages import stage_command

app = typer.Typer(no_args_is_help=True, cls=FallThroughGroup, subcommand_metavar="RECIPE | COMMAND ...")

app.command("run", help="The stage itself; `llmcf match RECIPE` is short for it.")(stage_command("match"))
