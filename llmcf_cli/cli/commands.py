"""The commands of `llmcf`, as the registry has them: built-in ones, and those of plugins."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from llmcf_cli.cli.groups import fill_hints
from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.plugin import STAGE, Component, Registry, builtin_registry, registry

PANEL = "Stages (each first runs the earlier stages it needs)"


class Commands(TyperGroup):
    """Lists commands without importing them; imports the one that is run."""

    def list_commands(self, ctx: Any) -> list[str]:
        try:
            found = registry()
        except LlmcfError as error:  # help must answer all the same
            typer.echo(f"plugin commands are missing from this list: {error}", err=True)
            found = builtin_registry()
        self._keep(found)
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if not self.commands:
            self._keep(builtin_registry())
        if cmd_name not in self.commands:
            self._keep(registry())
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else command_of(self._components[name]), rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            panels.setdefault(panel, []).append((name, command.help or ""))
        for panel, rows in panels.items():
            with formatter.section(panel):
                formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LlmcfError as error:
            fill_hints(error, ctx.meta)
            raise

    def _keep(self, found: Registry) -> None:
        self._components = {component.name: component for component in found.extensions()}
        self.commands = {name: _listed(component) for name, component in self._components.items()}


def command_of(component: Component) -> Any:
    """A stage's or plugin's command for Typer, imported now.

    Raises:
        LlmcfError: Its target is neither a function nor a group.
    """
    from llmcf_cli.cli.stages import stage_command

    if component.kind == STAGE and not component.command:
        target = stage_command(component.name)
    else:
        target = component.load(component.command)
    if isinstance(target, typer.Typer):
        target.rich_markup_mode = None
        command: Any = typer.main.get_group(target)
    elif callable(target):
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command()(target)
        command = typer.main.get_command(alone)
    else:
        what = f"{component.command or component.target} is neither a function nor a typer.Typer"
        raise LlmcfError(what, code="plugin-target", where=f"{component.kind} {component.name} of {component.origin}")
    command.name, command.help = component.name, component.summary
    return command


def _listed(component: Component) -> TyperCommand:
    """What help says of a command, without its import."""
    panel = PANEL if component.kind == STAGE else None
    return TyperCommand(component.name, help=component.summary, rich_help_panel=panel)
