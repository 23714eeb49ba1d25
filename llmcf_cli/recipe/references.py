"""The files, folders and assets that a recipe names, each with its place, whatever else is wrong with the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from llmcf_cli.core.place import KeyPath, Place
from llmcf_cli.core.tree import Node, long_form, plain
from llmcf_cli.core.types import FileRef, PromptRef, Sends
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.recipe.variants import variants_of
from llmcf_cli.recipe.walk import Slot, field_slot, model_of


@dataclass(frozen=True)
class Reference:
    """Something that a recipe names.

    Attributes:
        name: `asset:NAME`, or a path.
        where: Its file, line and key path.
        prompt: What kind of prompt file it is; None: it is no prompt.
        given: Whether the user named it, by `--set`, rather than the recipe.
    """

    name: str
    where: Place
    prompt: PromptRef | None
    given: bool = False


def references_of(root: Node) -> list[Reference]:
    """What the recipe names, in the order of the file, and what only its variants do."""
    found = list(_references(root))
    known = {(reference.name, reference.prompt) for reference in found}
    for variant in variants_of(root):
        for reference in _references(variant.root):
            if (reference.name, reference.prompt) not in known:
                found.append(replace(reference, where=variant.placed(reference.where)))
    return found


def addresses_of(root: Node) -> list[str]:
    """The servers that the recipe names, and that its variants do, each once."""
    roots = [root, *(variant.root for variant in variants_of(root))]
    return list(dict.fromkeys(node.value for one in roots for node, _, _ in _marked(one, Slot(Recipe), (), Sends)))


def _references(root: Node) -> Iterator[Reference]:
    for node, marks, path in _marked(root, Slot(Recipe), (), FileRef):
        prompt = next((mark for mark in marks if isinstance(mark, PromptRef)), None)
        yield Reference(node.value, node.origin.place(*path), prompt, bool(node.origin.override))


def _marked(
    node: Node, slot: Slot, path: KeyPath, mark: type[FileRef] | type[Sends]
) -> Iterator[tuple[Node, tuple[Any, ...], KeyPath]]:
    """Texts that stand where a field carries the mark, each with all marks of the field and its key path."""
    if isinstance(node.value, str) and any(isinstance(one, mark) for one in slot.metadata):
        if node.value:
            yield node, slot.metadata, path
        return
    if slot.kind is not None:
        node = long_form(node)
    if isinstance(node.value, list):
        items: list[tuple[str | int, Node]] = list(enumerate(node.value))
    else:
        items = list(node.value.items()) if isinstance(node.value, Mapping) else []
    model = model_of(slot, plain(node))
    for key, below in items:
        info = model.model_fields.get(str(key)) if model is not None else None
        inner = field_slot(info) if info is not None else slot.item
        if inner is not None:
            yield from _marked(below, inner, (*path, key), mark)
