"""Rules between fields, checked as far as they can be where other fields of a recipe are wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic_core import ErrorDetails

from llmcf_cli.core.errors import closest
from llmcf_cli.core.place import KeyPath
from llmcf_cli.core.types import refusal, rules_of
from llmcf_cli.recipe.walk import Slot, field_slot, known_keys, model_of, slot_at


def hidden_errors(model: type[BaseModel], data: Any, errors: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """What pydantic does not say as it stops at the fields: the broken rules that read no field which is itself wrong.

    Args:
        model: What the data were validated as.
        data: As written.
        errors: What pydantic says about them.
    """
    return _Sound(errors, data).broken(Slot(model), data, ())


class _Sound:
    """Which places of the data are wrong, which are unsure for that, and the rules about all others."""

    def __init__(self, errors: Sequence[ErrorDetails], data: Any) -> None:
        self._wrong = {tuple(item["loc"]) for item in errors}
        self._unsure = {path for item in errors if (path := _meant(item, data)) is not None}

    def broken(self, slot: Slot, value: Any, at: KeyPath) -> list[ErrorDetails]:
        """Broken rules at and below a place that holds something wrong."""
        model, found = model_of(slot, value), list[ErrorDetails]()
        if isinstance(value, Mapping):
            fields = model.model_fields if model is not None else {}
            slots = {key: field_slot(fields[key]) if key in fields else slot.item for key in value}
            items: list[tuple[str | int, Any]] = list(value.items())
        else:
            slots = {}
            items = list(enumerate(value)) if isinstance(value, Sequence) and not isinstance(value, str) else []
        for key, below in items:
            inner = slots.get(key, slot.item)
            here = (*at, key)
            if inner is not None and _touches(self._wrong, here) and not _covers(self._unsure, here):
                found += self.broken(inner, below, here)
        if model is not None and rules_of(model):
            found += self._of(model, value, at)
        return found

    def _of(self, model: type[BaseModel], value: Any, at: KeyPath) -> Iterator[ErrorDetails]:
        rules = [
            check for reads, check in rules_of(model)
            if not any(_touches(self._unsure, (*at, *path)) for path in reads)
        ]  # fmt: skip
        if not rules:
            return
        partial = self._partial(model, value, at)
        found = [broken for check in rules for broken in check(partial)]
        if found:
            for item in refusal(model.__name__, found, value).errors():
                yield {**item, "loc": (*at, *item["loc"])}

    def _partial(self, model: type[BaseModel], value: Any, at: KeyPath) -> BaseModel:
        """The model with the fields that are right; others are left out, or hold what is right of them."""
        given = value if isinstance(value, Mapping) else {"type": value}
        sound: dict[str, Any] = {}
        for name, info in model.model_fields.items():
            here = (*at, name)
            inner = model_of(field_slot(info), given.get(name))
            if not _touches(self._wrong, here):
                default = info.get_default(call_default_factory=True, validated_data={})
                sound[name] = _field(model, name).validate_python(given.get(name, default))
            elif inner is not None and not _covers(self._unsure, here):
                sound[name] = self._partial(inner, given[name], here)
        return model.model_construct(**sound)


@cache
def _field(model: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """What validates a field alone."""
    return TypeAdapter(model.model_fields[name].rebuild_annotation())


def _covers(places: Collection[KeyPath], path: KeyPath) -> bool:
    """Whether one of the places is, or holds, what is at `path`."""
    return any(path[: len(place)] == place for place in places)


def _touches(places: Collection[KeyPath], path: KeyPath) -> bool:
    """Whether one of the places is, holds or is held by what is at `path`."""
    return _covers(places, path) or any(place[: len(path)] == path for place in places)


def _meant(item: ErrorDetails, data: Any) -> KeyPath | None:
    """The place that an error makes unsure; None: no known one. An unknown key may have been meant for a known one."""
    path: KeyPath = tuple(item["loc"])
    if item["type"] != "extra_forbidden":
        return path
    near = closest(str(path[-1]), known_keys(path[:-1], data))
    if near:
        return (*path[:-1], near)
    slots = [slot_at(path[:length], data) for length in range(len(path))]
    return None if all(slot is not None and slot.item is None for slot in slots) else path[:-1]
