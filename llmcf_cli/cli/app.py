"""The command line, and the one place where errors become messages."""

from __future__ import annotations

import errno
import sys

import typer

from llmcf_cli import __version__
from llmcf_cli.cli.commands import Commands
from llmcf_cli.core.errors import LlmcfError, StoreError

INTERRUPTED = 130
_OF_THE_PLACE = frozenset({
    errno.EACCES, errno.EDQUOT, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
})  # fmt: skip
"""What can be wrong with a place that the user chose."""

app = typer.Typer(
    name="llmcf", no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False,
    cls=Commands, rich_markup_mode=None,  # importing rich takes as long as all else
    help="LLM-enhanced collaborative filtering, from a declarative recipe to a model you can serve.",
)  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"llmcf {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    pass


def run() -> None:
    """Run the command line; exit with the error's own code, 130 on Ctrl-C."""
    from llmcf_cli.cli.console import error_console

    try:
        app()
    except LlmcfError as error:
        error_console().print(f"error: {error}", style="red", markup=False)
        error_console().print(f"  code: {', '.join(error.codes)}", style="dim", markup=False)
        sys.exit(error.exit_code)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what Typer makes of Ctrl-C
            error_console().print("interrupted: finished work is kept; run the same command to resume", style="yellow")
        raise
    except OSError as error:
        if error.errno not in _OF_THE_PLACE:
            raise
        hint = "choose another folder with --artifacts DIR or LLMCF_CACHE"
        place = str(error.filename)[:200]
        error_console().print(f"error: {place}: {error.strerror}\n  next: {hint}", style="red", markup=False)
        sys.exit(StoreError.exit_code)
