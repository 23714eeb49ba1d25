"""Derived columns, filters and features, checked against the files before anything runs; and the page about them."""

import re
from pathlib import Path

import pytest
import yaml

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import check_recipe, load_recipe
from llmcf_cli.stages.files import file_problems
from llmcf_cli.store.assets import Locator, open_assets

RECIPE = """\
extends: quickstart
name: columns
dataset:
  source:
    type: csv
    interactions: events.csv
    items: items.csv
    columns: {user: who, time: time}
  derive:
    interactions: {who: lower(user_id)}
    items:
      cost: number(price)
  filter:
    interactions: who != "nobody"
  features:
    item:
      cost: numeric
      year: categorical
  text: {item: "{{title}} {{cost}}", user: ""}
"""
COST = "r.yaml:12: dataset.derive.items.cost: "


@pytest.fixture
def checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.csv").write_text("user_id,item_id,time\nA,x,1\n")
    (tmp_path / "items.csv").write_text("item_id,title,year,price\nx,Alien,1979,3\n")

    def check(text):
        (tmp_path / "r.yaml").write_text(text)
        recipe = check_recipe("r.yaml")
        assets = open_assets(library_dir(), recipe.base, cache=tmp_path / "none")
        found = file_problems(recipe.root, Locator(recipe.base, assets, recipe.roots))
        return [f"{problem.where!s}: {problem.what}" for problem in found.wrong]

    return check


def test_derived_columns_are_columns(checked):
    assert checked(RECIPE) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("number(price)", "number(prize)", COST + "unknown column 'prize'; did you mean 'price'?"),
        ("number(price)", "price + 1", COST + "`+` takes numbers; price is text; write number(price)"),
        ('who != "nobody"', "who > 3", "r.yaml:14: dataset.filter.interactions: who is text and 3 is a number"),
        ("      year: cat", "      yaer: cat", "r.yaml:18: dataset.features.item.yaer: unknown item column 'yaer'"),
        ("lower(user_id)", "lower(user_id)}\n    users: {x: lower(y)", "the data set has no users table"),
        ("{{cost}}", "{{price_}}", 'unknown variable "price_"; did you mean "price"?'),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_with_its_line(checked, old, new, said):
    assert old in RECIPE
    problems = checked(RECIPE.replace(old, new))
    assert len(problems) == 1
    assert said in problems[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("number(price)", "numbr(price)", r"r\.yaml:12: dataset\.derive\.items\.cost: .*did you mean 'number'"),
        ('who != "nobody"', "who !! 3", r"r\.yaml:14: dataset\.filter\.interactions"),
        ("cost: numeric", "cost: number", r"r\.yaml:17: dataset\.features\.item\.cost.*numeric"),
        ("cost: numeric", "cost: {kind: numeric, max_values: 3}", r"dataset\.features\.item\.cost\.max_values.*multi"),
    ],
)  # fmt: skip
def test_form_is_checked_without_any_file(tmp_path, monkeypatch, old, new, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError, match=said):
        load_recipe("r.yaml")


def test_null_takes_away_what_an_extended_recipe_declares(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(RECIPE)
    (tmp_path / "r.yaml").write_text("extends: base.yaml\ndataset: {features: {item: {year: null}}}\n")
    assert list(load_recipe("r.yaml").recipe.dataset.features.item) == ["cost"]
    again = load_recipe("r.yaml").recipe.with_changes({"name": "other"})
    assert again.dataset.features == load_recipe("r.yaml").recipe.dataset.features


def test_the_example_of_the_page_is_a_data_set():
    page = Path(__file__).parents[3].joinpath("docs/data.md").read_text()
    (example,) = re.findall(r"```yaml\n(dataset:.*?)```", page, re.DOTALL)
    written = yaml.safe_load(example)["dataset"]
    section = DatasetSection.model_validate({**written, "label": "implicit", "split": "leave_one_out"})
    assert section.features.item["price"].buckets == 20
