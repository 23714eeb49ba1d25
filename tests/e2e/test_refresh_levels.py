"""Levels of `llmcf refresh` that learn: which rows they learn from, and what they leave alone."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import refresh_world as shop
import yaml
from refresh_world import bundle, contents, invoke, refresh
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.rec.bundle.bundle import load_bundle
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.look.made import samples_of
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.store.open import connect_read


def learn(folder, level, *words):
    return refresh(folder, "--level", level, *words)


def add_and_learn(folder, level, *words):
    return learn(folder, level, "--add", folder / "more.csv", "--items", folder / "more_items.csv", *words)


def samples(recipe, artifacts):
    """The samples of a recipe by ids, whatever their numbers, with time, label, split and history."""
    database = IngestOutput(samples_of(open_context(load_recipe(recipe), artifacts))).database
    with connect_read(database) as con:
        items = dict(con.sql("SELECT item_row, item_id FROM item").fetchall())
        rows = con.sql('SELECT user_id, item_id, time, label, split, history FROM sample JOIN "user" USING (user_row) '
                       "JOIN item USING (item_row)").fetchall()  # fmt: skip
    return Counter((*row, tuple(items[one] for one in history)) for *row, history in rows)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A shop whose model is trained."""
    folder = tmp_path_factory.mktemp("levels")
    shop.write_shop(folder)
    invoke("train-rec", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
    return folder


@pytest.fixture(scope="module")
def full(trained, tmp_path_factory) -> Path:
    """The same, trained again on all rows."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("full") / "shop"))
    add_and_learn(folder, "full")
    return folder


def test_the_newest_rows_are_test_and_those_that_no_model_knew_are_learned_from(full):
    derived = yaml.safe_load((full / "recipe.refresh-1.yaml").read_text())
    cuts = derived["dataset"]["recut"]
    assert derived["refresh"]["learned"] == [{"additions": 1, "recut": cuts}]
    found = samples(full / "recipe.refresh-1.yaml", full / "artifacts")
    unlearned = sorted(row[2] for row in found.elements() if row[2] >= 600_000_000)
    shares = Counter(row[4] for row in found.elements() if row[2] >= 600_000_000)
    assert {row[4] for row in found if row[2] < 600_000_000} == {"train"}
    for split, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert abs(shares[split] - share * len(unlearned)) <= 2
    assert {row[4] for row in found if row[1] in ("i20", "i21")} == {"test"}


def test_the_samples_are_those_of_one_ingest_of_all_rows_under_these_cuts(full, tmp_path):
    folder = tmp_path / "whole"
    folder.mkdir()
    shop.write_events(folder / "events.csv", [*shop.first_events(), *shop.LATER])
    shop.write_items(folder / "items.csv", [*(shop.item(n) for n in range(21)), shop.item(21, genre="z")])
    cuts = yaml.safe_load((full / "recipe.refresh-1.yaml").read_text())["dataset"]["recut"]
    split = yaml.safe_dump({"type": "fixed_cut", **cuts}, default_flow_style=True, width=1000)
    text = shop.RECIPE.replace("{type: fixed_cut, validation_from: 600, test_from: 750}", split.strip())
    (folder / "recipe.yaml").write_text(text)
    invoke("ingest", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
    whole = samples(folder / "recipe.yaml", folder / "artifacts")
    assert samples(full / "recipe.refresh-1.yaml", full / "artifacts") == whole


def test_full_is_a_fresh_run_of_its_recipe(full, tmp_path):
    invoke("train-rec", full / "recipe.refresh-1.yaml", "--artifacts", tmp_path)
    (fresh,), (old, new) = tmp_path.glob("train-rec/*/bundle"), sorted(
        (full / "artifacts" / "train-rec").glob("*/bundle"), key=lambda path: path.stat().st_mtime
    )  # fmt: skip
    assert load_bundle(fresh).digest == load_bundle(new).digest != load_bundle(old).digest
    assert load_bundle(new).model.resources.vocab.values["user.user_id"]


def test_a_level_that_learned_all_there_is_does_nothing(full):
    before = contents(full)
    add_and_learn(full, "full")
    assert "nothing to do" in learn(full, "full")
    refresh(full)
    assert contents(full) == before


def test_a_plan_says_what_is_made_and_changes_nothing(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "shop"))
    before = contents(folder)
    said = add_and_learn(folder, "full", "--dry-run")
    assert "train-rec" in said
    assert "gen-cot" in said
    assert contents(folder) == before


def test_later_items_follow_the_model_that_learned_last(full, tmp_path):
    folder = Path(shutil.copytree(full, tmp_path / "shop"))
    shop.write_events(folder / "later.csv", [("u4", "i20", 5, 1100), ("later", "i2", 5, 1101)])
    refresh(folder, "--add", folder / "later.csv")
    derived = yaml.safe_load((folder / "recipe.refresh-2.yaml").read_text())
    first = yaml.safe_load((folder / "recipe.refresh-1.yaml").read_text())
    assert derived["refresh"]["level"] == "items"
    assert derived["refresh"]["learned"] == first["refresh"]["learned"]
    report = yaml.safe_load((bundle(folder).parent / "manifest.json").read_text())["report"]
    learned = [load_bundle(path).digest for path in (full / "artifacts" / "train-rec").glob("*/bundle")]
    assert report["base"] in learned
    assert report["users"] == 1
    assert {"u4", "later"} <= set(load_bundle(bundle(folder)).model.resources.catalog.users.ids.to_pylist())


def test_too_few_rows_to_learn_from_are_refused_and_nothing_changes(full, tmp_path):
    folder = Path(shutil.copytree(full, tmp_path / "shop"))
    before = {path for path in folder.glob("*") if path.is_file()}
    with refused("added-late", DataError):
        shop.write_events(folder / "late.csv", [("u1", "i18", 5, 700)])
        learn(folder, "full", "--add", folder / "late.csv")
    (folder / "late.csv").unlink()
    assert {path for path in folder.glob("*") if path.is_file()} == before
