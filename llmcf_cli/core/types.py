"""The base of every configuration class, and the marker for settings that cannot change a result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """Base of all configuration: frozen, no unknown keys, each field documented by the docstring under it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class ComponentConfig(Config):
    """Base of a pluggable component's own settings; `type` is the name it is registered under."""

    needs: ClassVar[frozenset[str]] = frozenset()
    """Inputs beyond a sample's own features that the component reads: `text` vectors, retrieved `examples`."""

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
            if any(isinstance(mark, Runtime) for mark in info.metadata):
                continue
            if isinstance(item, str) and item and any(isinstance(mark, FileRef) for mark in info.metadata):
                view[name] = digest_of(item)
            else:
                view[name] = key_view(item, digest_of)
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
            if isinstance(item, str) and item and any(isinstance(mark, FileRef) for mark in info.metadata):
                yield item
            else:
                yield from file_refs(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from file_refs(item)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            yield from file_refs(item)
