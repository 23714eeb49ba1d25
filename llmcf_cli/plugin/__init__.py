"""Components by name: the registry, and the ways in (built-ins, entry points, drop-in folders)."""

from llmcf_cli.plugin.discover import registry
from llmcf_cli.plugin.registry import KINDS, Component, Kind, Registry

__all__ = ["KINDS", "Component", "Kind", "Registry", "registry"]
