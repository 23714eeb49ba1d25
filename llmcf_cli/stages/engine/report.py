"""Reports of stages: dataclasses in the program, JSON in a manifest."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from llmcf_cli.core.errors import StoreError

R = TypeVar("R")


def to_json(report: object) -> dict[str, Any]:
    """A report as JSON data; tuples become lists, keys strings."""
    found: dict[str, Any] = to_jsonable_python(report)
    return found


def from_json(kind: type[R], data: Mapping[str, Any], where: str = "") -> R:
    """The report that `to_json` made.

    Raises:
        StoreError: It is none of that kind: another version of llmcf or of a plugin made it.
    """
    wanted: Any = kind
    try:
        report: R = _adapter(wanted).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        what = f"its report is of another version: {field}: {first['msg']}"
        raise StoreError(what, code="artifact-unusable", where=where, hint="llmcf run RECIPE --force STAGE") from error
    return report


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
