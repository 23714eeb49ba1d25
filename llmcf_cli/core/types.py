"""The base of every configuration class, and the marker for settings that cannot change a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo


class Config(BaseModel):
    """Base of all configuration: frozen, no unknown keys, each field documented by the docstring under it."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        defer_build=True,  # most classes of a module are not used by one command
    )


class ComponentConfig(Config):
    """Base of a pluggable component's own settings; `type` is the name it is registered under."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Inputs beyond a sample's own features that the component reads.

    `text` vectors, `collaborative` vectors, matching `signals` (which are of both), retrieved `examples`, `knowledge`
    about users and items, for objectives a `teacher`'s scores, for engines the tuned language `model`.
    """

    type: str
    """Registered name of the component."""


@dataclass(frozen=True)
class Runtime:
    """Annotation for a field that changes how work is done, never its result: `Annotated[int, Runtime()]`.

    Such fields stay out of artifact keys, so changing them reuses what exists.
    """


@dataclass(frozen=True)
class FileRef:
    """Annotation for a field that names a file, a folder or `asset:NAME`; write `FilePath` for the common case.

    Where it lies is no part of an artifact's key, what it holds is.
    """


FilePath = Annotated[str, FileRef()]


def key_view(value: Any, digest_of: Callable[[str], str]) -> Any:
    """`value` as plain JSON data for hashing: defaults included, `Runtime` fields out, `FileRef` fields as digests.

    Args:
        value: A `Config`, or mappings, sequences and scalars holding them.
        digest_of: Content digest of what a `FileRef` field names.
    """
    if isinstance(value, BaseModel):
        view: dict[str, Any] = {}
        for name, info in type(value).model_fields.items():
            item = getattr(value, name)
            if is_marked(info, Runtime):
                continue
            view[name] = _digests(item, digest_of) if is_marked(info, FileRef) else key_view(item, digest_of)
        return view
    if isinstance(value, Mapping):
        return {str(k): key_view(v, digest_of) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [key_view(v, digest_of) for v in value]
    return value


def file_refs(value: Any) -> Iterator[str]:
    """Every file, folder or asset that a `Config` names in its `FileRef` fields, at any depth."""
    if isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            item = getattr(value, name)
            if is_marked(info, FileRef):
                yield from _texts(item)
            else:
                yield from file_refs(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from file_refs(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from file_refs(item)


def is_marked(info: FieldInfo, mark: type[Runtime] | type[FileRef]) -> bool:
    """Whether a field carries an annotation, itself or inside its type (`FilePath | None`, `tuple[FilePath, ...]`)."""
    return any(isinstance(found, mark) for found in (*info.metadata, *_inner_marks(info.annotation)))


def _inner_marks(annotation: Any) -> Iterator[Any]:
    for part in get_args(annotation):
        yield from getattr(part, "__metadata__", ())
        yield from _inner_marks(part)


def _digests(item: Any, digest_of: Callable[[str], str]) -> Any:
    if isinstance(item, str):
        return digest_of(item) if item else item
    if isinstance(item, Mapping):
        return {str(key): _digests(below, digest_of) for key, below in item.items()}
    return [_digests(below, digest_of) for below in item] if isinstance(item, Sequence) else item


def _texts(item: Any) -> Iterator[str]:
    if isinstance(item, str):
        yield from [item] if item else []
    elif isinstance(item, Mapping | Sequence):
        for below in item.values() if isinstance(item, Mapping) else item:
            yield from _texts(below)
