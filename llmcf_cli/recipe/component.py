"""`type: NAME` in a recipe → the configuration class registered under that name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from llmcf_cli.core.errors import UnknownNameError
from llmcf_cli.core.types import ComponentConfig, TaskConfig
from llmcf_cli.plugin import registry

UNKNOWN_TYPE = "unknown_type"
COMPONENT_MARK = "x-component"


class ComponentOf:
    """Field annotation: `Annotated[SerializeAsAny[ComponentConfig], ComponentOf("backbone")]`.

    Accepts a mapping with `type:` (or just the name as a string) and validates it with the class registered for that
    kind and name. The error of an unknown name carries `closest` and the known names in its context.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_before_validator_function(self._by_name, handler(source))

    def _by_name(self, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, ComponentConfig):
            return value
        if isinstance(value, str):
            value = {"type": value}
        if not isinstance(value, Mapping):
            raise PydanticCustomError("component_shape", "write `type: NAME` and its settings, or just the NAME")
        name = value.get("type")
        known = {found.name: found for found in registry().of_kind(self.kind) if found.config_target}
        if not isinstance(name, str):
            raise PydanticCustomError("missing_type", "has no `type:`; known: {known}", {"known": ", ".join(known)})
        component = known.get(name)
        if component is None:
            error = UnknownNameError(self.kind, name, known)
            raise PydanticCustomError(
                UNKNOWN_TYPE,
                "{message}",
                {"message": error.what, "known": error.allowed, "closest": error.closest or ""},
            )
        return component.config().model_validate(dict(value), context=info.context)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        # A mark; `recipe.jsonschema` puts the registered components there.
        return {COMPONENT_MARK: self.kind}


class FileOr(ComponentOf):
    """The same where a text names a file: `Annotated[str | SerializeAsAny[ComponentConfig], FileRef(), FileOr(…)]`."""

    def _by_name(self, value: Any, info: ValidationInfo) -> Any:
        return value if isinstance(value, str) else super()._by_name(value, info)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, {COMPONENT_MARK: self.kind}]}


def names_for(kind: str, task: TaskConfig) -> tuple[str, ...]:
    """Names of the components of a kind that a task takes with their default settings."""
    configs = {name: registry().get(kind, name).config().model_validate({"type": name})
               for name in registry().names(kind)}  # fmt: skip
    return tuple(name for name, config in configs.items() if task.takes(config))


def gives(name: str, task: TaskConfig) -> bool:
    """Whether an input has values for the queries of a task; of one that is not registered others tell."""
    return name not in registry().names("input") or task.form in registry().get("input", name).config().forms
