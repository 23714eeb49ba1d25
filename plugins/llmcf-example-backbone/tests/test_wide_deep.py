"""The plugin registers, its settings validate, and the backbone computes what it says."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import llmcf_example_backbone
import pytest
import torch
from llmcf_example_backbone.config import WideDeepConfig
from llmcf_example_backbone.model import WideDeep

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.plugin import Registry
from llmcf_cli.plugin.discover import ENTRY_POINT_GROUP
from llmcf_cli.rec.parts.embedding import FieldEmbeddings, FieldShape

ROOT = Path(__file__).parents[1]
B, F, D, L, C = 5, 3, 4, 2, 6


@pytest.fixture
def registry():
    found = Registry()
    found.register_from("llmcf-example-backbone 0.1.0", llmcf_example_backbone.register)
    return found


def fields():
    torch.manual_seed(0)
    mask = torch.ones(B, L, dtype=torch.bool)
    return FieldEmbeddings(torch.randn(B, F, D), torch.randn(B, D), torch.randn(B, L, D), mask, torch.randn(B))


def test_the_entry_point_names_the_function_that_registers():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][ENTRY_POINT_GROUP]
    (value,) = points.values()
    point = importlib.metadata.EntryPoint("wide_deep", value, ENTRY_POINT_GROUP)
    assert point.load() is llmcf_example_backbone.register


def test_the_registry_builds_it_from_its_settings(registry):
    component = registry.get("backbone", "wide_deep")
    assert component.origin == "llmcf-example-backbone 0.1.0"
    config = component.config()(hidden=[8])
    assert isinstance(registry.build("backbone", config, FieldShape(F, D, L), 0), WideDeep)
    with pytest.raises(LlmcfError, match="registered twice"):
        llmcf_example_backbone.register(registry)


def test_validating_a_recipe_imports_no_torch():
    code = f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import llmcf_example_backbone.config; "
    command = [sys.executable, "-c", code + "print('torch' in sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr


@pytest.mark.parametrize("context_dim", [0, C])
def test_it_adds_the_linear_part_and_the_mlp(context_dim):
    torch.manual_seed(1)
    model, x = WideDeep(WideDeepConfig(hidden=(7,)), FieldShape(F, D, L), context_dim), fields()
    context = torch.randn(B, C) if context_dim else None
    inputs = x.flat_BX if context is None else torch.cat([x.flat_BX, context], 1)
    expected = x.first_order_B + model.deep(inputs)[:, 0]
    logits = model(x, context)
    torch.testing.assert_close(logits, expected)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
