"""The generated reference: complete, and the committed files are what the code generates."""

from pathlib import Path

import pytest

from llmcf_cli.plugin import KINDS
from llmcf_cli.recipe.reference import (
    ERRORS,
    PAGE,
    SCHEMA,
    builtin_registry,
    reference_page,
    sections,
    summary,
    undocumented,
    write_reference,
)
from llmcf_cli.recipe.walk import field_slot

DOCS = Path(__file__).parents[3] / "docs"
COMPONENTS = [c for c in builtin_registry().all() if c.kind != "input"]  # no recipe names one


@pytest.mark.parametrize("name", [PAGE, ERRORS, SCHEMA])
def test_the_committed_reference_is_the_generated_one(tmp_path, name):
    write_reference(tmp_path)
    assert (DOCS / name).read_text() == (tmp_path / name).read_text(), "run: llmcf recipe reference docs"


def test_every_section_field_is_documented():
    assert undocumented(model for _, model in sections()) == []
    assert all(summary(model) for _, model in sections())


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda c: f"{c.kind}-{c.name}")
def test_every_component_field_is_documented(component):
    config = component.config()
    nested = [slot.model for slot in map(field_slot, config.model_fields.values()) if slot.model]
    assert undocumented([config, *nested]) == []


def test_the_page_names_every_section_field_and_component():
    page = reference_page()
    for path, model in sections():
        assert f"### `{path}`" in page if path else "### The recipe itself" in page
        assert all(f"| `{name}` |" in page for name in model.model_fields)
    for component in COMPONENTS:
        assert f"#### {component.kind} `{component.name}`" in page
        assert all(f"| `{name}` |" in page for name in component.config().model_fields if name != "type")


def test_types_defaults_and_bounds_read_well():
    page = reference_page()
    for row in (
        "| `seed` | whole number ≥ 0, < 2147483648 | `2024` |",
            "| `count` | whole number ≥ 1, < 2147483648 | none | Number of train",
        "| `backbone` | [backbone](#backbone) | **required** |", "| `monitor` | text | none |",
        "| `evaluation_batch_size` | whole number ≥ 1, < 2147483648, *runtime* |", "| `model` | file | **required** |",
    ):  # fmt: skip
        assert row in page


def test_every_kind_a_recipe_can_name_is_described():
    used = {component.kind for component in COMPONENTS}
    assert used <= set(KINDS)
    assert all(f"### {kind}\n" in reference_page() for kind in used)
