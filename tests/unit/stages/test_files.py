"""What a recipe names, checked before anything runs and beside whatever else is wrong."""

import pytest

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import check_recipe, load_recipe
from llmcf_cli.stages.files import file_problems
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.store.assets import Locator, open_assets

RECIPE = """\
extends: quickstart
name: files
dataset:
  source:
    type: csv
    interactions: events.csv
    items: items.csv
    users: users.csv
    columns: {time: time}
  text:
    item: "{{title}} {{year}}"
    user: |
      {{age}}
      {{#job}}a {{job}}{{/job}}
cot: {prompt: mine.yaml}
"""
PROMPT = "name: mine\nvariables: [item]\nmessages:\n  - {role: user, content: 'Hi {{item}}'}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.csv").write_text("user_id,item_id,time\na,x,1\n")
    (tmp_path / "items.csv").write_text("item_id,title,year\nx,Alien,1979\n")
    (tmp_path / "users.csv").write_text("user_id,age,job\na,34,clerk\n")
    (tmp_path / "mine.yaml").write_text(PROMPT)
    return tmp_path


def checked(folder, text, cache=None):
    (folder / "r.yaml").write_text(text)
    recipe = check_recipe("r.yaml")
    assets = open_assets(library_dir(), recipe.base, cache=cache or folder / "no_cache")
    return file_problems(recipe.root, Locator(recipe.base, assets, recipe.roots))


def shown(problems):
    return [f"{problem.where!s}: {problem.what}" for problem in problems]


def test_all_is_well(folder):
    found = checked(folder, RECIPE)
    assert (found.wrong, found.missing, found.unchecked) == ([], [], [])


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("{{title}}", "{{titel}}", 'r.yaml:11: dataset.text.item: unknown variable "titel"; did you mean "title"?'),
        ("a {{job}}", "a {{jop}}", 'r.yaml:14: dataset.text.user: unknown variable "jop"; did you mean "job"?'),
        ("    users: users.csv\n", "", 'r.yaml:12: dataset.text.user: unknown variable "age"'),
    ],
)
def test_texts_know_the_columns_of_the_data_set(folder, old, new, problem):
    found = shown(checked(folder, RECIPE.replace(old, new)).wrong)
    assert problem in found[0]


def test_columns_of_data_that_are_not_fetched_are_not_checked_and_it_says_so(folder):
    text = "extends: quickstart\nname: q\ndataset: {text: {item: '{{movie_titel}}'}}\n"
    found = checked(folder, text)
    assert found.wrong == []
    assert shown(found.unchecked) == [
        "r.yaml:3: dataset: its columns are not checked: asset:movielens-100k has not been fetched yet"
    ]
    assert found.unchecked[0].hint == "llmcf assets fetch movielens-100k"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("{time: time}", "{time: tiem}", 'events.csv: no column "tiem" (did you mean "time"?)'),
        ("{time: time}", "{time: time, rating: stars}", 'events.csv: no column "stars"'),
        ("    columns:", "    multi: [jobs]\n    columns:", 'no column "jobs" (did you mean "job"?)'),
        ("    columns:", "    item_key: id\n    columns:", 'items.csv: no column "id"'),
    ],
)
def test_tables_have_the_columns_that_the_recipe_names(folder, old, new, problem):
    (found,) = shown(checked(folder, RECIPE.replace(old, new)).wrong)
    assert found.endswith(problem)


def test_data_that_cannot_be_read_are_told(folder):
    (folder / "items.csv").write_text("")
    assert [problem.code for problem in checked(folder, RECIPE).wrong] == ["data-empty"]


def test_everything_is_told_beside_a_recipe_that_is_wrong(folder):
    (folder / "mine.yaml").write_text(PROMPT.replace("{{item}}", "{{itme}}"))
    text = RECIPE.replace("{{title}}", "{{titel}}") + (
        "llm:\n  count: many\n  model: asset:smollm\n  mix: [{source: {type: jsonl, path: gone.jsonl}, share: 1}]\n"
    )
    found = checked(folder, text)
    assert [line.split(": ")[0] for line in shown(found.wrong)] == [
        "r.yaml:18",
        "mine.yaml:2",
        "mine.yaml:4",
        "r.yaml:11",
    ]
    assert 'r.yaml:18: llm.model: unknown asset "smollm"' in shown(found.wrong)[0]
    assert "r.yaml:19: llm.mix.0.source.path: no such file or folder: gone.jsonl" in shown(found.missing)[0]


def test_prompts_about_users_know_no_item(folder):
    prompts = "{user_prompt: mine.yaml, item_prompt: prompts/decomposed.yaml}"
    found = shown(checked(folder, RECIPE + f"knowledge: {prompts}\n").wrong)
    assert found == [
        "r.yaml:16: knowledge.user_prompt: must not depend on item",
        "r.yaml:16: knowledge.item_prompt: must have a single step, but has several",
    ]
    assert not checked(
        folder, RECIPE + "knowledge: {user_prompt: prompts/kar_user.yaml, item_prompt: mine.yaml}\n"
    ).wrong


def test_every_place_of_a_wrong_name_is_told_and_a_wrong_prompt_once(folder):
    (folder / "mine.yaml").write_text(PROMPT.replace("{{item}}", "{{itme}}").replace("[item]", "[]"))
    text = RECIPE + "knowledge: {user_prompt: mine.yaml, item_prompt: mine.yaml}\n"
    text += "llm: {model: asset:smollm}\nmatch: {space: {encoder: asset:smollm}}\n"
    assert sorted(line.partition(": unknown")[0] for line in shown(checked(folder, text).wrong)) == [
        "mine.yaml:4: messages.0.content", "r.yaml:17: llm.model", "r.yaml:18: match.space.encoder"
    ]  # fmt: skip


def test_what_a_variant_names_is_placed_at_the_variant(folder):
    text = RECIPE + "rec:\n  variants:\n    - {name: told, set: {cot.prompt: their.yaml, llm.model: 'asset:smol'}}\n"
    found = checked(folder, text)
    assert "r.yaml:18: arm 'told': cot.prompt: no such file or folder: their.yaml" in shown(found.missing)[0]
    assert "r.yaml:18: arm 'told': llm.model: unknown asset" in shown(found.wrong)[0]


def test_a_run_refuses_all_of_it_at_once(folder):
    text = RECIPE.replace("{{title}}", "{{titel}}").replace("mine.yaml", "gone.yaml")
    (folder / "r.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        open_context(load_recipe("r.yaml"), folder / "artifacts")
    assert [str(problem.where) for problem in caught.value.problems] == [
        "r.yaml:11: dataset.text.item", "r.yaml:15: cot.prompt"
    ]  # fmt: skip
