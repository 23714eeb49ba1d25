"""`--set a.b=c`: one-off changes laid over a recipe before it is validated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmcf_cli.core.errors import LlmcfError, RecipeError, closest
from llmcf_cli.core.place import KeyPath, dotted
from llmcf_cli.core.tree import DEFAULT, Node, Origin, long_form, merge
from llmcf_cli.core.yamlfile import read_value
from llmcf_cli.recipe.walk import default_at, known_keys, slot_at


def apply_overrides(root: Node, overrides: Sequence[str]) -> tuple[Node, list[LlmcfError]]:
    """`root` with each `KEY=VALUE` applied in order, and a problem for each that is malformed or names no known key.

    VALUE is YAML. A key path may index lists: `llm.mix.0.share`.
    """
    problems: list[LlmcfError] = []
    for text in overrides:
        try:
            root = _apply(root, text)
        except RecipeError as error:
            problems.extend(error.problems)
        except LlmcfError as error:
            problems.append(error)
    return root, problems


def _apply(root: Node, text: str) -> Node:
    key, equals, value = text.partition("=")
    origin = Origin(override=text)
    path = key_path(key.strip())
    if not equals or not all(str(step) for step in path):
        raise LlmcfError(
            "not of the form KEY=VALUE",
            code="override-syntax",
            where=origin.place(),
            hint="e.g. --set rec.fit.epochs=3",
        )
    return _set(root, path, 0, read_value(value, origin), root)


def key_path(text: str) -> KeyPath:
    """A key path as `--set` writes it, numbers as places in lists."""
    return tuple(int(step) if _is_place(step) else step for step in text.split("."))


def _is_place(step: str) -> bool:
    return step.isascii() and step.isdecimal() and len(step) < 10


def _set(node: Node, path: KeyPath, depth: int, value: Node, root: Node) -> Node:
    """`node`, which stands at `path[:depth]`, with `value` set at the rest of the path."""
    if depth == len(path):
        return merge(node, value)
    step, origin = path[depth], value.origin
    slot = slot_at(path[:depth], _along(root, path))
    if slot is not None and slot.kind is not None:
        node = long_form(node)
    if isinstance(node.value, list):
        if not isinstance(step, int) or step >= len(node.value):
            raise _unknown(path[: depth + 1], [str(i) for i in range(len(node.value))], origin)
        items = list(node.value)
        items[step] = _set(items[step], path, depth + 1, value, root)
        return Node(items, node.origin)
    if not isinstance(node.value, dict):
        raise LlmcfError(
            f"`{dotted(path[:depth])}` is a value; it has no keys", code="override-value", where=origin.place()
        )
    known = known_keys(path[:depth], _along(root, path))
    if known and step not in known:
        raise _unknown(path[: depth + 1], known, origin)
    below = node.value.get(step)
    if below is None:
        below = value if depth + 1 == len(path) else _default(path[: depth + 1], root)
    return Node({**node.value, str(step): _set(below, path, depth + 1, value, root)}, node.origin)


def _default(path: KeyPath, root: Node) -> Node:
    """The default at `path` as nodes, so that one key of it can be changed; an empty mapping where it has none."""
    default = default_at(path, _along(root, path))
    if isinstance(default, list):
        return Node([Node(item, DEFAULT) for item in default], DEFAULT)
    return Node(default if isinstance(default, str) else {}, DEFAULT)


def _along(node: Node, path: KeyPath) -> Any:
    """What of a recipe decides which keys are known on the way to `path`: the way itself, and the scalars beside it."""
    if not isinstance(node.value, dict | list):
        return node.value
    found = {
        key: _along(below, path[1:]) if path and key == path[0] else below.value
        for key, below in (node.value.items() if isinstance(node.value, dict) else enumerate(node.value))
        if (path and key == path[0]) or not isinstance(below.value, dict | list)
    }
    return found if isinstance(node.value, dict) else [found.get(place) for place in range(len(node.value))]


def _unknown(path: KeyPath, known: list[str], origin: Origin) -> LlmcfError:
    near = closest(str(path[-1]), known)
    suggestion = f"; did you mean `{dotted((*path[:-1], near))}`?" if near else ""
    return LlmcfError(
        f"unknown key `{dotted(path)}`{suggestion}", code="key-unknown", where=origin.place(), allowed=known
    )
