"""`llmcf keys`: what the user allows recipes on this machine: hosts, with the key each gets, and places to read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)

HostArgument = Annotated[str, typer.Argument(metavar="HOST", help="Host, e.g. api.example.com or localhost:8000.")]


@app.command()
def allow(
    host: HostArgument,
    env: Annotated[
        str | None, typer.Option("--env", metavar="NAME", help="Environment variable that holds the host's key.")
    ] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Send the host no key.")] = False,
) -> None:
    """Allow recipes to send prompts to a host, and choose the key it gets."""
    from llmcf_cli.core.permissions import Host, Permissions

    if (env is None) != no_key:
        raise typer.BadParameter("give --env NAME, or --no-key")
    found, permissions = Host.of(host), Permissions()
    permissions.allow_host(found, env)
    gets = f"the key in {env}" if env else "no key"
    typer.echo(f"{found} may receive prompts and {gets}; saved in {permissions.file}")
    if not found.is_encrypted:
        typer.echo("note: http is not encrypted: others on the network can read the prompts", err=True)


@app.command("list")
def list_() -> None:
    """List the allowed hosts and files."""
    import os

    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table
    from llmcf_cli.core.permissions import READ_VARIABLE, Permissions

    permissions = Permissions()
    hosts, reads = permissions.hosts(), permissions.reads()
    if hosts:
        table = plain_table("host", "gets the key in", "which is")
        for host, env in hosts.items():
            table.add_row(str(host), env or "none", "" if env is None else "set" if os.environ.get(env) else "not set")
        console().print(table)
    if reads:
        table = plain_table("recipes in", "may also read")
        for folder, places in reads.items():
            table.add_row(folder, "\n".join(places))
        console().print(table)
    if everywhere := os.environ.get(READ_VARIABLE):
        console().print(f"{READ_VARIABLE}: any recipe may read {everywhere}", markup=False, soft_wrap=True)
    if not hosts and not reads:
        console().print("nothing is allowed except servers on this machine and files beside a recipe")
    console().print(f"saved in {permissions.file}", markup=False, soft_wrap=True, style="dim")


@app.command()
def forget(
    what: Annotated[str, typer.Argument(metavar="HOST|FOLDER", help="Host or folder, as `llmcf keys list` shows it.")],
) -> None:
    """Revoke what was allowed for a host, or for the recipes in a folder."""
    from llmcf_cli.core.errors import LlmcfError
    from llmcf_cli.core.permissions import Host, Permissions

    permissions = Permissions()
    is_folder = "://" not in what and ("/" in what or Path(what).is_dir())
    found = permissions.forget_reads(Path(what)) if is_folder else permissions.forget_host(Host.of(what))
    if not found:
        raise LlmcfError(
            "not among the allowed hosts and folders", code="permission-unknown", where=what, hint="llmcf keys list"
        )
    typer.echo(f"no longer allowed: {what}")
