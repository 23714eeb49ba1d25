"""The JSON Schema for editors: sound, complete, and in agreement with the loader."""

import json

import pytest

from llmcf_cli.core.tree import plain
from llmcf_cli.core.yamlfile import read_yaml
from llmcf_cli.plugin import builtin_registry
from llmcf_cli.recipe.jsonschema import recipe_schema
from llmcf_cli.recipe.library import library_dir, recipe_files

SCHEMA = recipe_schema(builtin_registry())
DEFS = SCHEMA["$defs"]


COMPONENTS = [c for c in builtin_registry().all() if c.kind != "input"]  # no recipe names one


def refs(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for below in value.values():
            yield from refs(below)
    elif isinstance(value, list):
        for below in value:
            yield from refs(below)


def test_every_reference_resolves_and_no_mark_is_left():
    assert {ref.removeprefix("#/$defs/") for ref in refs(SCHEMA)} == set(DEFS)
    assert "x-component" not in json.dumps(SCHEMA)


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: f"{c.kind}-{c.name}")
def test_every_component_is_a_branch_with_its_type_as_constant(component):
    branch = DEFS[f"{component.kind}.{component.name}"]
    assert branch["properties"]["type"]["const"] == component.name
    assert "type" in branch["required"]
    assert branch["additionalProperties"] is False
    assert set(branch["properties"]) == set(component.config().model_fields)
    assert all(field.get("description") for field in branch["properties"].values())
    assert {"$ref": f"#/$defs/{component.kind}.{component.name}"} in DEFS[component.kind]["oneOf"]


def test_a_variant_needs_nothing():
    assert "required" in DEFS["Recipe"]
    assert not [name for name, schema in DEFS.items() if name.endswith(".variant") and "required" in schema]


@pytest.fixture
def errors():
    """What the reference validator finds wrong with a recipe."""
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return lambda data: [error.message for error in validator.iter_errors(data)]


@pytest.mark.parametrize("path", recipe_files(library_dir()).values(), ids=lambda path: path.stem)
def test_every_library_recipe_conforms(errors, path):
    assert errors(plain(read_yaml(path))) == []


@pytest.mark.parametrize(
    ("change", "good"),
    [
        ({}, True), ({"rec": {"backbone": "din"}}, True), ({"rec": {"backbone": "dinn"}}, False), ({"rek": 1}, False),
        ({"rec": {"backbone": "din", "fit": {"lerning_rate": 1}}}, False),
        ({"rec": {"backbone": {"hidden": [1]}}}, False),
    ],
)  # fmt: skip
def test_it_agrees_with_the_loader(errors, write, change, good):
    assert (not errors({**plain(read_yaml(write())), **change})) is good


@pytest.mark.parametrize(
    ("variant", "good"),
    [({"extends": "tiny"}, True),
     ({"extends": "tiny", "rec": {"backbone": {"hidden": [1]}, "fit": {"epochs": 1}}}, True),
     ({"extends": "tiny", "rec": {"fit": {"epocs": 1}}}, False), ({"name": "x"}, False)],
)  # fmt: skip
def test_variants(errors, variant, good):
    assert (not errors(variant)) is good
