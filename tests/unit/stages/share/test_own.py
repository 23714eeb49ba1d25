"""Recipes of one's own: what `recipe new` and `recipe copy` write means what the original means."""

from __future__ import annotations

import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.recipe.library import library_dir, recipe_files
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.references import references_of
from llmcf_cli.stages.files import locator_of
from llmcf_cli.stages.share.own import copy_recipe, extend_recipe

LIBRARY = sorted(recipe_files(library_dir()))


def settings(recipe):
    return recipe.recipe.model_dump(exclude={"name", "description"})


def commented_in(text):
    """The text with every commented setting taken in."""
    head, body = text.split("\n\n", 1)
    lines = [line.removeprefix("# ") for line in body.splitlines()[1:]]
    return "\n".join([head, *lines]) + "\n"


@pytest.mark.parametrize("name", LIBRARY)
def test_a_new_recipe_is_what_it_extends(tmp_path, name):
    base = load_recipe(name)
    file = extend_recipe(base, tmp_path / "deep" / "mine")
    assert file == tmp_path / "deep" / "mine.yaml"
    found = load_recipe(file)
    assert (found.recipe.name, settings(found)) == ("mine", settings(base))
    file.write_text(commented_in(file.read_text()))
    assert settings(load_recipe(file)) == settings(base)
    assert len(file.read_text().splitlines()) > 20


@pytest.mark.parametrize("name", LIBRARY)
def test_a_copy_stands_alone(tmp_path, name):
    base = load_recipe(name)
    copied = copy_recipe(base, locator_of(base), tmp_path / "mine")
    found = load_recipe(copied.recipe)
    assert (found.files, found.recipe.name, settings(found)) == ((copied.recipe,), "mine", settings(base))
    prompts = {one.name for one in references_of(base.root) if one.prompt is not None}
    assert {file.relative_to(tmp_path).as_posix() for file in copied.prompts} == prompts
    for prompt in prompts:
        assert locator_of(found).path(prompt) == tmp_path / prompt
        assert (tmp_path / prompt).read_bytes() == (library_dir() / prompt).read_bytes()
    assert copied.elsewhere == ()


@pytest.fixture
def shop(tmp_path):
    """A recipe with data and a prompt beside it, and one that extends it from another folder."""
    folder = tmp_path / "shop"
    (folder / "prompts").mkdir(parents=True)
    (folder / "prompts/own.yaml").write_bytes((library_dir() / "prompts/single.yaml").read_bytes())
    (folder / "clicks.csv").write_text("user,item,time\n")
    (folder / "base.yaml").write_text(
        "extends: quickstart\nname: shop\ncot: {prompt: prompts/own.yaml}\n"
        "dataset:\n  source: {type: csv, interactions: clicks.csv, columns: {user: user, item: item, time: time}}\n"
        "  label: {type: implicit}\n  text: {item: '', user: ''}\n"
    )
    (folder / "more.yaml").write_text("extends: base.yaml\nname: more\nmatch: {k: 6}\n")
    return folder


def test_data_beside_the_original_are_named_from_the_copy(shop, tmp_path):
    base = load_recipe(shop / "more.yaml")
    copied = copy_recipe(base, locator_of(base), tmp_path / "elsewhere" / "mine.yaml")
    found = load_recipe(copied.recipe)
    assert found.recipe.match.k == 6
    assert found.recipe.dataset.source.interactions == "../shop/clicks.csv"
    assert locator_of(found).path("../shop/clicks.csv").resolve() == shop / "clicks.csv"
    assert copied.prompts == (tmp_path / "elsewhere/prompts/own.yaml",)
    beside = copy_recipe(base, locator_of(base), shop / "mine.yaml")
    assert load_recipe(beside.recipe).recipe.dataset.source.interactions == "clicks.csv"
    assert beside.prompts == ()


def test_an_extended_file_is_found_from_the_new_one(shop, tmp_path):
    file = extend_recipe(load_recipe(shop / "more.yaml"), tmp_path / "a" / "b" / "mine.yaml")
    assert [path.resolve() for path in load_recipe(file).files][1] == shop / "more.yaml"


def test_nothing_is_overwritten(shop, tmp_path):
    base = load_recipe(shop / "more.yaml")
    before = (shop / "base.yaml").read_bytes()
    with refused("recipe-exists", StoreError):
        extend_recipe(base, shop / "base")
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts/own.yaml").write_text("mine")
    with refused("recipe-exists", StoreError):
        copy_recipe(base, locator_of(base), tmp_path / "mine.yaml")
    assert (shop / "base.yaml").read_bytes() == before
    assert not (tmp_path / "mine.yaml").exists()
    assert (tmp_path / "prompts/own.yaml").read_text() == "mine"
