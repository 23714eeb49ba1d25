"""What the schema says about a key path: which fields are known there, of which kind, with which default."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.meanings import meaning
from llmcf_cli.core.place import KeyPath
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.component import ComponentOf
from llmcf_cli.recipe.schema import Recipe


@dataclass(frozen=True)
class Slot:
    """What may stand somewhere in a recipe.

    Attributes:
        annotation: The bare type, without `Annotated` and without `| None`.
        metadata: What `Annotated` and `Field` say about it: bounds, `Runtime`, `FileRef`.
        kind: Component kind, when a component stands here.
        optional: Whether null is allowed.
        item: What a list holds, or what the values of a free mapping are.
    """

    annotation: Any
    metadata: tuple[Any, ...] = field(default=())
    kind: str | None = None
    optional: bool = False
    item: Slot | None = None

    @property
    def model(self) -> type[BaseModel] | None:
        """The section's class, when a section stands here."""
        is_model = isinstance(self.annotation, type) and issubclass(self.annotation, BaseModel)
        return self.annotation if is_model and self.kind is None else None


def slot_of(annotation: Any, metadata: Sequence[Any] = ()) -> Slot:
    """Read a type annotation: unwrap `Annotated`, `| None`, lists and mappings; find `ComponentOf`."""
    marks, optional = tuple(metadata), False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation, *more = get_args(annotation)
            marks = (*more, *marks)
        elif origin in (Union, types.UnionType) and type(None) in get_args(annotation):
            optional = True
            rest = [arm for arm in get_args(annotation) if arm is not type(None)]
            annotation = rest[0] if len(rest) == 1 else Union[tuple(rest)]  # noqa: UP007
        else:
            break
    # `Field(ge=1)` inside a type carries its bounds one level down.
    marks = tuple(m for mark in marks for m in (mark.metadata if isinstance(mark, FieldInfo) else [mark]))
    kind = next((mark.kind for mark in marks if isinstance(mark, ComponentOf)), None)
    arguments, item = get_args(annotation), None
    if isinstance(origin, type) and arguments:
        if issubclass(origin, Mapping):
            item = slot_of(arguments[1])
        elif issubclass(origin, Sequence):
            item = slot_of(arguments[0])
    return Slot(annotation, marks, kind, optional, item)


def field_slot(info: FieldInfo) -> Slot:
    """The slot of a model's field."""
    return slot_of(info.annotation, info.metadata)


def slot_at(path: KeyPath, data: Any) -> Slot | None:
    """What may stand at `path`; None when the schema knows no such place.

    Args:
        data: The recipe as written; says which `type` the components on the way have.
    """
    slot: Slot | None = Slot(Recipe)
    for key in path:
        model = model_of(slot, data) if slot is not None else None
        if model is not None:
            info = model.model_fields.get(str(key))
            slot = field_slot(info) if info is not None else None
        else:
            slot = slot.item if slot is not None else None
        if slot is None:
            return None
        data = _below(data, key)
    return slot


def model_of(slot: Slot, data: Any) -> type[BaseModel] | None:
    """The class whose fields are the keys of the mapping `data` that stands in `slot`."""
    if slot.kind is None:
        return slot.model
    name = data.get("type") if isinstance(data, Mapping) else data
    try:
        return registry().get(slot.kind, str(name)).config()
    except LlmcfError:
        return None


def model_at(path: KeyPath, data: Any) -> type[BaseModel] | None:
    """The class whose fields are the keys at `path`; None where any key is allowed, or none."""
    slot = slot_at(path, data)
    return model_of(slot, value_at(path, data)) if slot is not None else None


def value_at(path: KeyPath, data: Any) -> Any:
    """What stands at `path`; None where nothing does."""
    for key in path:
        data = _below(data, key)
    return data


def known_keys(path: KeyPath, data: Any) -> list[str]:
    """The keys allowed at `path`; empty where any key is, or none."""
    model = model_at(path, data)
    return list(model.model_fields) if model is not None else []


def meaning_at(path: KeyPath, data: Any) -> str:
    """The one-line meaning of the field at `path`; empty when the schema knows no such place."""
    return meaning(model_at(path[:-1], data), str(path[-1]))


def default_at(path: KeyPath, data: Any) -> Any:
    """The default at `path` as a recipe would write it; None where there is none."""
    model = model_at(path[:-1], data)
    info = model.model_fields.get(str(path[-1])) if model is not None else None
    if info is None or info.is_required():
        return None
    default = info.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        return default.model_dump(mode="json")
    return list(default) if isinstance(default, tuple) else default


def _below(data: Any, key: str | int) -> Any:
    if isinstance(data, Mapping):
        return data.get(key)
    if isinstance(data, Sequence) and not isinstance(data, str) and isinstance(key, int):
        return data[key] if 0 <= key < len(data) else None
    return None
