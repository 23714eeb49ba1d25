"""Where code comes from: plugins that a value or stage uses, and versions of the libraries that do the work."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from llmcf_cli import __version__
from llmcf_cli.core.types import ComponentConfig, Config
from llmcf_cli.plugin import STAGE, registry

_LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "lm-eval",
    "sentence-transformers",
    "lancedb",
    "duckdb",
    "numpy",
    "pyarrow",
)


@cache
def versions() -> dict[str, str]:
    """Versions of llmcf, Python and the libraries that do the work, as far as installed."""
    found = {"llmcf": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def plugins_of(value: Any) -> Iterator[tuple[str, str]]:
    """Component → origin, for every component in `value` that is not built in."""
    if isinstance(value, ComponentConfig):
        for component in registry().configured():
            if component.name == value.type and component.origin != "built-in" and component.config() is type(value):
                yield f"{component.kind} {component.name}", component.origin
    if isinstance(value, Config):
        for name in type(value).model_fields:
            yield from plugins_of(getattr(value, name))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from plugins_of(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from plugins_of(item)


def plugin_of(stage: type[Any]) -> dict[str, str]:
    """The origin of a stage's class that is not built in: with another version of its plugin it runs again."""
    return {
        f"{STAGE} {found.name}": found.origin for found in registry().stages()
        if found.name == stage.name and found.origin != "built-in" and found.load() is stage
    }  # fmt: skip
