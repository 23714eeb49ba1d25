"""Components by name: the registry, and the ways in (built-ins, entry points, drop-in folders)."""

from llmcf_cli.plugin.discover import builtin_registry, registry
from llmcf_cli.plugin.registry import EXTENSIONS, KINDS, STAGE, Component, Kind, Registry

__all__ = ["EXTENSIONS", "KINDS", "STAGE", "Component", "Kind", "Registry", "builtin_registry", "registry"]
