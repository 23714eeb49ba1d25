"""Recipes that come with plugins: found by name with their origin, extended, copied, and left as they are."""

from __future__ import annotations

import json

import pytest
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.plugin import Registry
from llmcf_cli.plugin.discover import DROP_IN_VARIABLE, registry
from llmcf_cli.recipe.load import library_recipes, load_recipe
from llmcf_cli.recipe.references import references_of
from llmcf_cli.stages.files import locator_of
from llmcf_cli.stages.share.own import copy_recipe, extend_recipe

PLUGIN = """\
from pathlib import Path


def register(registry):
    registry.add_recipes("wine", Path(__file__).parent / "recipes")
"""
NAME = "wine/red/shop"


@pytest.fixture
def wine(tmp_path, monkeypatch):
    """The folder of a plugin's recipes, of which one has a prompt of its own."""
    folder = tmp_path / "plugins" / "wine" / "recipes"
    (folder / "red" / "prompts").mkdir(parents=True)
    (folder / "prompts").mkdir()
    (folder / "prompts" / "none.yaml").write_text("no: recipe\n")
    (folder.parent / "__init__.py").write_text(PLUGIN)
    first = load_recipe("quickstart")
    prompt = next(one.name for one in references_of(first.root) if one.prompt is not None)
    (folder / "red" / "prompts" / "own.yaml").write_bytes(locator_of(first).path(prompt).read_bytes())
    (folder / "red" / "shop.yaml").write_text(
        "extends: quickstart\nname: shop\ndescription: Red wine.\ncot: {prompt: prompts/own.yaml}\n"
    )
    monkeypatch.setenv(DROP_IN_VARIABLE, str(tmp_path / "plugins"))
    registry.cache_clear()
    yield folder
    registry.cache_clear()


def test_they_are_listed_with_their_origin(wine):
    found = {one.name: one for one in library_recipes()}
    assert (found[NAME].description, found[NAME].path) == ("Red wine.", wine / "red" / "shop.yaml")
    assert found[NAME].origin.startswith("wine ")
    assert found["quickstart"].origin == "llmcf"
    assert not [name for name in found if "none" in name or "own" in name]
    listed = json.loads(CliRunner().invoke(app, ["recipe", "list", "--json"]).stdout)
    assert {one["name"]: one["origin"] for one in listed} == {name: one.origin for name, one in found.items()}
    assert NAME in CliRunner().invoke(app, ["recipe", "search", "red", "wine"], env={"COLUMNS": "200"}).output


def test_they_are_loaded_extended_and_copied_by_name(wine, tmp_path):
    base = load_recipe(NAME)
    before = sorted(path for path in wine.rglob("*"))
    mine = load_recipe(extend_recipe(base, tmp_path / "mine.yaml"))
    assert f"extends: {NAME}\n" in mine.path.read_text()
    assert locator_of(mine).path("prompts/own.yaml") == wine / "red" / "prompts" / "own.yaml"
    copied = copy_recipe(base, locator_of(base), tmp_path / "copy" / "shop.yaml")
    again = load_recipe(copied.recipe)
    assert copied.prompts == (tmp_path / "copy" / "prompts" / "own.yaml",)
    for other in (mine, again):
        assert other.recipe.model_dump(exclude={"name", "description"}) == base.recipe.model_dump(
            exclude={"name", "description"}
        )
    assert sorted(path for path in wine.rglob("*")) == before


def test_nothing_is_written_beside_them(wine, tmp_path):
    done = CliRunner().invoke(app, ["recipe", "lock", NAME, "--artifacts", str(tmp_path / "a")])
    assert isinstance(done.exception, StoreError)
    assert done.exception.code == "recipe-installed"
    assert not list(wine.rglob("*.lock.yaml"))


def test_names_that_cannot_be_are_refused(tmp_path):
    found = Registry()
    found.add_recipes("wine", tmp_path)
    for name, folder, code in (
        ("wine", tmp_path, "plugin-name-taken"), ("Red Wine", tmp_path, "plugin-name"),
        ("beer", tmp_path / "none", "plugin-folder"),
    ):  # fmt: skip
        with refused(code, LlmcfError):
            found.add_recipes(name, folder)
    assert [one.name for one in found.recipes()] == ["wine"]
