"""Levels of `llmcf refresh` that learn: which rows they learn from, and what they leave alone."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
import refresh_world as shop
import torch
import yaml
from refresh_world import bundle, contents, invoke, killed_at, refresh
from refusals import refused

from llmcf_cli.core.errors import DataError, LimitError
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.rec.bundle.bundle import load_bundle
from llmcf_cli.rec.bundle.warm import _grown
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


@pytest.fixture(scope="module")
def tuned(trained, tmp_path_factory) -> Path:
    """The same, tuned on what is new."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("tuned") / "shop"))
    shop.write_events(
        folder / "more.csv", [*shop.LATER, *((f"u{n}", "i21", 5 - n % 2 * 4, 1010 + n) for n in range(30))]
    )
    add_and_learn(folder, "finetune", "--set", "refresh.finetune.replay=0.5", "--set", "refresh.finetune.epochs=3")
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


@pytest.mark.parametrize(
    ("code", "kind", "rows"),
    [
        ("added-late", DataError, [("u1", "i18", 5, 700)]),
        ("data-limit", LimitError, [(f"u{n}", "i20", 5, 1000 + n) for n in range(60)]),
    ],
)
@pytest.mark.parametrize("level", ["full", "finetune"])
def test_what_nothing_can_be_learned_from_leaves_no_recipe(trained, tmp_path, level, code, kind, rows):
    folder = Path(shutil.copytree(trained, tmp_path / "shop"))
    (folder / "recipe.yaml").write_text(shop.RECIPE.replace("per_class: 0", "per_class: 1"))
    shop.write_events(folder / "bad.csv", rows)
    with refused(code, kind):
        learn(folder, level, "--add", folder / "bad.csv")
    assert not list(folder.glob("*refresh-*")) + list(folder.glob(".*refresh-*"))


def report_of(folder, stage="refresh"):
    return yaml.safe_load((bundle(folder, stage).parent / "manifest.json").read_text())["report"]


def test_a_finetuned_model_has_embeddings_for_new_values_behind_those_of_before(tuned):
    old, new = load_bundle(bundle(tuned, "train-rec")), load_bundle(bundle(tuned))
    for key, values in old.model.resources.vocab.values.items():
        assert new.model.resources.vocab.values[key].to_pylist()[: len(values)] == values.to_pylist()
    assert "i21" in new.model.resources.vocab.values["item.item_id"].to_pylist()
    assert "i21" not in old.model.resources.vocab.values["item.item_id"].to_pylist()
    assert len(new.model.resources.get("examples")) == len(old.model.resources.get("examples"))
    report = report_of(tuned)
    assert report["base"] == old.digest
    grown = new.model.vocabulary(new.model.resources.spec) - old.model.vocabulary(old.model.resources.spec)
    assert report["learned"]["values"] == grown > 0


def test_it_learns_from_new_train_rows_and_a_share_of_the_others(tuned):
    found = samples(tuned / "recipe.refresh-1.yaml", tuned / "artifacts")
    train = [row[2] for row in found.elements() if row[4] == "train"]
    learned = report_of(tuned)["learned"]
    assert learned["new"] == sum(time >= 600_000_000 for time in train)
    old = sum(time < 600_000_000 for time in train)
    assert abs(learned["replayed"] - 0.5 * old) < 4 * (0.25 * old) ** 0.5
    assert learned["epochs"] <= 3
    assert learned["after"] >= learned["before"]
    assert learned["validation"] == sum(row[4] == "validation" for row in found.elements()) > 0


def test_before_the_first_step_a_longer_vocabulary_changes_no_score(tuned):
    """Rows that the old model knew in full are scored as before by the grown one that has not learned yet."""
    base = load_bundle(bundle(tuned, "train-rec"))
    grown = _grown(base.model, load_bundle(bundle(tuned)).model.resources, base, seed=1)
    before = base.model.embedding(*(torch.tensor(rows) for rows in ([1, 2], [3, 4], [[0, 5], [6, 7]])))
    after = grown.eval().embedding(*(torch.tensor(rows) for rows in ([1, 2], [3, 4], [[0, 5], [6, 7]])))
    torch.testing.assert_close(before.fields_BFD, after.fields_BFD, rtol=0, atol=0)


def test_what_follows_begins_from_the_finetuned_model(tuned, tmp_path):
    folder = Path(shutil.copytree(tuned, tmp_path / "shop"))
    learned = load_bundle(bundle(folder)).digest
    shop.write_events(folder / "later.csv", [(f"u{n}", "i20", 5 - n % 2 * 4, 1100 + n) for n in range(40)])
    refresh(folder, "--add", folder / "later.csv")
    assert "nothing to do" not in learn(folder, "finetune", "--set", "refresh.finetune.epochs=1")
    first, second = (
        yaml.safe_load((folder / f"recipe.refresh-{n}.yaml").read_text())["refresh"]["learned"] for n in (1, 3)
    )
    assert second[:2] == first
    assert [one["additions"] for one in second] == [0, 1, 2]
    manifests = [yaml.safe_load(p.read_text()) for p in (folder / "artifacts" / "refresh").glob("*/manifest.json")]
    assert [m["report"]["base"] for m in manifests].count(learned) == 2
    before = contents(folder)
    learn(folder, "finetune")
    assert contents(folder) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("level", "seen"), [("full", "train-rec"), ("full", "match"), ("finetune", "refresh["), ("finetune", "ingest ")]
)
def test_a_kill_costs_nothing(trained, tmp_path, level, seen):
    """Killed amid a stage, at a random moment, the trained bundle is whole, and the same command ends the same."""
    folders = [Path(shutil.copytree(trained, tmp_path / name)) for name in ("killed", "whole")]
    old = bundle(folders[0], "train-rec")
    before = contents(old)
    killed_at(folders[0], f"▶ {seen}", "--level", level)
    assert contents(old) == before
    for folder in folders:
        add_and_learn(folder, level)
    assert not list(folders[0].glob(".*refresh-*"))
    stage = "train-rec" if level == "full" else "refresh"
    killed, whole = (
        {load_bundle(path).digest for path in (folder / "artifacts" / stage).glob("*/bundle")} for folder in folders
    )
    assert killed == whole
