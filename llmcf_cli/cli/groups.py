"""Groups of commands that Typer has no setting for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from typer.core import TyperGroup


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


def listed(order: Sequence[str]) -> type[TyperGroup]:
    """A group that lists its commands in the order given, others after them; Typer would put sub-groups first."""
    place = {name: position for position, name in enumerate(order)}

    class Listed(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return sorted(super().list_commands(ctx), key=lambda name: place.get(name, len(place)))

    return Listed
