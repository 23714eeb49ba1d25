"""What `llmcf recipe inspect` prints."""

from __future__ import annotations

from rich.table import Table

from llmcf_cli.cli.console import console
from llmcf_cli.cli.tables import escaped
from llmcf_cli.core.permissions import Host
from llmcf_cli.stages.look.access import Access, Fetch, Read, Send


def print_access(found: Access, recipe: str) -> None:
    """Print what a recipe would do, a table for each kind of it, and what is to be allowed first."""
    table = _table("reads", "named at", "")
    for read in found.reads:
        table.add_row(escaped(str(read.path or read.name)), escaped(str(read.where)), _readable(read))
    console().print(table, markup=True)
    if found.fetches:
        table = _table("fetches", "MB", "from", "licence", "")
        for fetch in found.fetches:
            size, licence = f"{fetch.asset.size / 1e6:,.1f}", escaped(fetch.asset.licence)
            table.add_row(escaped(fetch.asset.name), size, _sources(fetch), licence, _state(fetch))
        console().print(table, markup=True)
    if found.sends:
        table = _table("sends prompts, made from your data, to", "with the key in", "")
        for send in found.sends:
            table.add_row(escaped(str(send.host)), send.variable or "no key", _sendable(send))
        console().print(table, markup=True)
    table = _table("writes below", "")
    for folder, what in found.writes:
        table.add_row(escaped(str(folder)), what)
    console().print(table, markup=True)
    if found.plugins:
        table = _table("runs code of plugins", "from")
        for component, origin in found.plugins:
            table.add_row(escaped(component), escaped(origin))
        console().print(table, markup=True)
    if not found.sends:
        console().print("sends nothing: language models run on this machine")
    for hint in dict.fromkeys(read.problem.hint for read in found.reads if read.refused and read.problem):
        console().print(f"next: {hint}", markup=False, soft_wrap=True)
    for send in found.sends:
        if not send.allowed:
            console().print(f"next: if you trust it: llmcf keys allow {send.host} --env NAME, or --no-key",
                            markup=False, soft_wrap=True)  # fmt: skip
    if not found.refused:
        console().print(f"next: llmcf run {recipe}", markup=False, soft_wrap=True)


def _table(*columns: str) -> Table:
    """A table that folds what is too long: a path that is cut off could hide where it leads."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _readable(read: Read) -> str:
    if read.problem is None:
        return "[yellow]ok, outside the recipe's folder[/]" if read.outside else "[green]ok[/]"
    return "[red]outside the recipe's folder, not allowed[/]" if read.refused else "[yellow]missing[/]"


def _sources(fetch: Fetch) -> str:
    return ", ".join(str(source) if isinstance(source, Host) else f"the {source}" for source in fetch.sources)


def _state(fetch: Fetch) -> str:
    whose = "declared by the recipe's own catalogue" if fetch.own else ""
    here = "[green]here[/]" if fetch.here else "[yellow]to be fetched[/]"
    return f"{here}{'; ' + whose if whose else ''}"


def _sendable(send: Send) -> str:
    if send.host.is_this_machine:
        return "[green]this machine[/]"
    return "[green]allowed[/]" if send.allowed else "[red]not allowed[/]"
