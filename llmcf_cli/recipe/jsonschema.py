"""The JSON Schema of a recipe, for completion and checks in editors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from llmcf_cli.plugin import KINDS, STAGE, Component, Registry, registry
from llmcf_cli.recipe.component import COMPONENT_MARK
from llmcf_cli.recipe.schema import Recipe

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_DEFS = "#/$defs/"
_VARIANT = ".variant"
_EXTENDS = {
    "type": "string",
    "description": "The recipe this one changes: a file beside it, or a library recipe.",
}


def recipe_schema(components: Registry | None = None) -> dict[str, Any]:
    """The schema of a recipe file, one `oneOf` branch per component with its `type` as a constant.

    A recipe with `extends` is checked against copies of the definitions without required keys, as the rest comes
    from the file it extends.

    Args:
        components: The components to describe; all registered ones when None.
    """
    found = components or registry()
    by_kind: dict[str, list[Component]] = {STAGE: []}  # built-in ones have sections instead
    for component in found.configured():
        by_kind.setdefault(component.kind, []).append(component)
    configs = dict.fromkeys(component.config() for component in found.configured())
    refs, generated = models_json_schema([(Recipe, "validation"), *((config, "validation") for config in configs)])
    defs = _rewrite(generated["$defs"], _resolve_mark)
    for kind, members in by_kind.items():
        for component in members:
            config = defs[refs[component.config(), "validation"]["$ref"].removeprefix(_DEFS)]
            defs[f"{kind}.{component.name}"] = _component(component, config)
        defs[kind] = _choice("oneOf", kind, members)
    recipe = defs["Recipe"]
    recipe["properties"] = {"extends": _EXTENDS, **recipe["properties"]}
    for name, definition in list(defs.items()):
        if name not in by_kind:
            defs[name + _VARIANT] = _rewrite(definition, _relaxed)
    for kind, members in by_kind.items():
        # Without a required `type`, several branches may match.
        defs[kind + _VARIANT] = _rewrite(_choice("anyOf", kind, members), _relaxed)
    root = {
        "$schema": DIALECT, "title": "llmcf recipe", "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": f"{_DEFS}Recipe{_VARIANT}"}, "else": {"$ref": f"{_DEFS}Recipe"},
    }  # fmt: skip
    return {**root, "$defs": _reachable(root, defs)}


def schema_text(components: Registry | None = None) -> str:
    """The schema as indented JSON text."""
    return json.dumps(recipe_schema(components), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def _component(component: Component, config: Mapping[str, Any]) -> dict[str, Any]:
    properties = {**config["properties"], "type": {"const": component.name, "description": component.summary}}
    required = sorted({*config.get("required", ()), *(["type"] if component.kind in KINDS else [])})
    return {**config, "title": component.name, "properties": properties, "required": required}


def _choice(keyword: str, kind: str, members: list[Component]) -> dict[str, Any]:
    if not members:
        return {"not": {}}
    refs = [{"$ref": f"{_DEFS}{kind}.{component.name}"} for component in members]
    return {keyword: [*refs, {"enum": [component.name for component in members]}]}


def _rewrite(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """`value` with every mapping in it changed, innermost first."""
    if isinstance(value, dict):
        return change({key: _rewrite(item, change) for key, item in value.items()})
    if isinstance(value, list):
        return [_rewrite(item, change) for item in value]
    return value


def _resolve_mark(schema: dict[str, Any]) -> dict[str, Any]:
    kind = schema.pop(COMPONENT_MARK, None)
    return schema if kind is None else {**schema, "$ref": _DEFS + kind}


def _relaxed(schema: dict[str, Any]) -> dict[str, Any]:
    if isinstance(schema.get("required"), list):
        schema = {key: item for key, item in schema.items() if key != "required"}
    if isinstance(schema.get("$ref"), str):
        schema = {**schema, "$ref": schema["$ref"] + _VARIANT}
    return schema


def _reachable(root: Any, defs: Mapping[str, Any]) -> dict[str, Any]:
    """The definitions that `root` needs, directly or through others."""
    needed: dict[str, Any] = {}
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            name = str(item.get("$ref", "")).removeprefix(_DEFS)
            if name in defs and name not in needed:
                needed[name] = defs[name]
                waiting.append(defs[name])
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return needed
