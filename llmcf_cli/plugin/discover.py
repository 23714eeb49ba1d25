"""Finding components: built-ins, installed plugins (entry points of the group `llmcf.plugins`), drop-in folders."""

from __future__ import annotations

import importlib.metadata
import os
from functools import cache
from pathlib import Path

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.plugin.builtin import register
from llmcf_cli.plugin.dropin import drop_ins
from llmcf_cli.plugin.registry import Registry

ENTRY_POINT_GROUP = "llmcf.plugins"
DROP_IN_VARIABLE = "LLMCF_PLUGINS"


def builtin_registry() -> Registry:
    """What comes with llmcf, whatever plugins are installed."""
    found = Registry()
    found.register_from("built-in", register)
    return found


@cache
def registry() -> Registry:
    """The process-wide registry: built-ins, then installed plugins, then drop-in folders."""
    found = builtin_registry()
    for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.name
        try:
            add_components = point.load()
        except Exception as error:
            hint = f"repair or uninstall {point.dist.name if point.dist else point.name}"
            raise LlmcfError(
                f"plugin failed to load: {error!r}", code="plugin-failed", where=origin, hint=hint
            ) from error
        found.register_from(origin, add_components)
    for folder in filter(None, os.environ.get(DROP_IN_VARIABLE, "").split(os.pathsep)):
        for dropin in drop_ins(Path(folder)):
            found.register_from(dropin.origin, dropin.module.register)
    return found
