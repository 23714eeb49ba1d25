"""A recipe before validation: plain values, each with the place it was written at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcf_cli.core.place import KeyPath, Place, dotted


@dataclass(frozen=True)
class Origin:
    """Where a value comes from.

    Attributes:
        file: The YAML file, or None for a default or a `--set`.
        line: 1-based line in `file`.
        override: The `--set` argument, when it comes from one.
    """

    file: Path | None = None
    line: int = 0
    override: str = ""

    def __str__(self) -> str:
        if self.override:
            return f"--set {self.override}"
        if self.file is None:
            return "default"
        return f"{shown(self.file)}:{self.line}"

    def place(self, *path: str | int) -> Place:
        """This as the place of an error, with a key path."""
        if self.override:
            return Place(override=self.override, path=path)
        return (
            Place("default", path=path)
            if self.file is None
            else Place(file=shown(self.file), line=self.line, path=path)
        )


DEFAULT = Origin()


@dataclass(frozen=True)
class Node:
    """A mapping (of nodes), a list (of nodes) or a scalar, and where it was written."""

    value: Any
    origin: Origin


def shown(file: Path) -> str:
    """`file` as a message shows it: relative when it lies under the working folder."""
    absolute = Path(file).absolute()
    cwd = Path.cwd()
    return str(absolute.relative_to(cwd)) if absolute.is_relative_to(cwd) else str(absolute)


def text_origin(origin: Origin, text: Any, line: int) -> Origin:
    """Where a line of a text (from 1) was written, given where its key was."""
    if not isinstance(text, str) or origin.file is None:
        return origin
    # A block scalar (the only kind with line breaks worth counting) begins on the line below its key.
    return replace(origin, line=origin.line + ("\n" in text) + line - 1)


def plain(node: Node) -> Any:
    """The values alone, as JSON-like data."""
    if isinstance(node.value, dict):
        return {key: plain(child) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [plain(child) for child in node.value]
    return node.value


def child(node: Node, key: str | int) -> Node | None:
    """The node under `key`, or None."""
    if isinstance(node.value, dict):
        found: Node | None = node.value.get(key)
        return found
    if isinstance(node.value, list) and isinstance(key, int) and 0 <= key < len(node.value):
        return node.value[key]  # type: ignore[no-any-return]
    return None


def nearest(node: Node, path: KeyPath) -> Node:
    """The node at `path`, or the deepest one on the way there."""
    for key in path:
        below = child(node, key)
        if below is None:
            return node
        node = below
    return node


def long_form(node: Node) -> Node:
    """`NAME` as `{type: NAME}`: the two ways to write a component."""
    return Node({"type": node}, node.origin) if isinstance(node.value, str) else node


def merge(base: Node, over: Node) -> Node:
    """`over` laid upon `base`: mappings merge key by key; all else, and a mapping of another `type`, replaces."""
    if isinstance(over.value, dict):
        base = long_form(base)
    elif isinstance(base.value, dict) and "type" in base.value:
        over = long_form(over)
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    old_type, new_type = base.value.get("type"), over.value.get("type")
    if old_type and new_type and old_type.value != new_type.value:
        return over
    merged = dict(base.value)
    for key, value in over.value.items():
        merged[key] = merge(merged[key], value) if key in merged else value
    return Node(merged, over.origin)


def origins(resolved: Any, written: Node | None) -> Mapping[str, Origin]:
    """The origin of every leaf of a resolved recipe; empty mappings and lists count as leaves.

    Args:
        resolved: The recipe as plain data, defaults included.
        written: The same recipe as it was written, after `extends` and `--set`.
    """
    return {dotted(path): origin for path, origin in _origins(resolved, written, ())}


def _origins(value: Any, node: Node | None, path: KeyPath) -> Iterator[tuple[KeyPath, Origin]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if not value or not isinstance(value, dict | list):
        yield path, node.origin if node is not None else DEFAULT
        return
    if node is not None and isinstance(value, dict):
        node = long_form(node)
    for key, below in items:
        yield from _origins(below, child(node, key) if node is not None else None, (*path, key))
