"""Every YAML file under recipes/ is read by what it is for, and none is forgotten."""

import pytest

from llmcf_cli.core.types import file_refs
from llmcf_cli.core.yamlfile import dump_yaml
from llmcf_cli.recipe.library import library_dir, recipe_files
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.recipe.prompt import load_prompt
from llmcf_cli.store.assets import Locator, open_assets
from llmcf_cli.store.catalogue import load_catalogue

LIBRARY = library_dir()
RECIPES = recipe_files(LIBRARY)
PROMPTS = sorted((LIBRARY / "prompts").glob("*.yaml"))
CATALOGUES = [LIBRARY / "assets.yaml"]


def is_users_own(what: str) -> bool:
    """Whether a missing file is one that licence or size keep out of the library: `LLMCF_DATA` says where it is."""
    own = ("amazon2014_", "general_instruct/", "eval_general", "models/")
    return what.startswith(tuple(f"no such file or folder: {name}" for name in own))


def test_every_file_is_a_recipe_a_prompt_or_a_catalogue():
    known = {*RECIPES.values(), *PROMPTS, *CATALOGUES, *(LIBRARY / "accelerate").glob("*.yaml")}
    assert set(LIBRARY.rglob("*.yaml")) == known
    assert not list(LIBRARY.rglob("*.yml")), "one suffix"


def test_how_many_there_are():
    # Counted, so that a file which silently stops being found fails a test.
    assert (len(RECIPES), len(PROMPTS), len(CATALOGUES)) == (50, 5, 1)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_load_by_name(name):
    loaded = load_recipe(name)
    assert loaded.path == RECIPES[name]
    assert loaded.recipe.description, "the list shows it"


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_begin_with_the_command_that_runs_them(name):
    first = RECIPES[name].read_text().splitlines()[0]
    assert first == f"# llmcf run recipes/{name}.yaml"


@pytest.mark.parametrize("name", RECIPES)
def test_a_resolved_recipe_stands_on_its_own(name, tmp_path):
    loaded = load_recipe(name)
    alone = tmp_path / "alone.yaml"
    alone.write_text(dump_yaml(loaded.recipe.model_dump(mode="json")))
    assert load_recipe(alone).recipe == loaded.recipe


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_name_known_assets_and_existing_files(name):
    loaded = load_recipe(name)
    locate = Locator(loaded.base, open_assets(LIBRARY), loaded.roots)
    missing = [problem for problem in locate.check(file_refs(loaded.recipe)) if not is_users_own(problem.what)]
    assert [problem.what for problem in missing] == []


def test_the_published_protocol_is_kept_apart():
    published = load_recipe("amazon_beauty/published").recipe
    assert published.rec.task.type == "retrieval"
    assert not published.rec.task.filter_seen
    (loss,) = published.rec.objectives
    assert (loss.type, loss.negatives, loss.in_batch, loss.logq) == ("sampled_softmax", 128, False, False)
    assert published.match.query == "history"
    others = [load_recipe(name).recipe for name in RECIPES if name.endswith("retrieval")]
    assert len(others) == 4
    assert all(recipe.rec.task.filter_seen for recipe in others)


@pytest.mark.parametrize("path", PROMPTS, ids=lambda path: path.stem)
def test_prompts_load(path):
    assert load_prompt(path)


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.name)
def test_catalogues_load(path):
    assert load_catalogue(path)
