"""Which inputs components need, all told. Cheap to import."""

from __future__ import annotations

from collections.abc import Iterable

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.types import InputConfig
from llmcf_cli.plugin import registry


def declaration(name: str) -> type[InputConfig]:
    """The configuration class of an input.

    Raises:
        UnknownNameError: It is not registered.
        LlmcfError: What is registered declares no input.
    """
    found = registry().get("input", name, where="`needs` of a component").config()
    if not issubclass(found, InputConfig):
        raise LlmcfError(f"{found.__name__} is not an InputConfig", code="plugin-target", where=f"input {name}")
    return found


def closure(names: Iterable[str]) -> list[str]:
    """Inputs and all that they are made of, each after what it is made of, else in the order of registration.

    Raises:
        UnknownNameError: One is not registered.
    """
    wanted, found = set(names), []

    def visit(name: str) -> None:
        if name not in found:
            for other in in_order(declaration(name).needs):
                visit(other)
            found.append(name)

    for name in in_order(wanted):
        visit(name)
    return found


def in_order(names: Iterable[str]) -> list[str]:
    """Names in the order of registration, unknown ones last."""
    known = [component.name for component in registry().of_kind("input")]
    wanted = set(names)
    return [name for name in known if name in wanted] + sorted(wanted.difference(known))
