"""`llmcf refresh` from a trained recipe: what it makes, what it refuses, and that a kill costs nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import refresh_world as shop
import yaml
from refresh_world import bundle, contents, invoke, killed_at, refresh
from refusals import refused

from llmcf_cli.core.errors import DataError, LlmcfError, StoreError
from llmcf_cli.llm.config import HashingEncoderConfig
from llmcf_cli.llm.models.hashing import HashingEncoder
from llmcf_cli.rec.bundle.bundle import load_bundle
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.store.locks import held


def add(folder):
    return refresh(folder, "--add", folder / "more.csv", "--items", folder / "more_items.csv")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A shop whose model is trained."""
    folder = tmp_path_factory.mktemp("shop")
    shop.write_shop(folder)
    invoke("train-rec", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
    return folder


@pytest.fixture
def here(trained, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(trained, tmp_path / "shop"))


@pytest.fixture(scope="module")
def refreshed(trained, tmp_path_factory) -> Path:
    """The same, and refreshed."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("refreshed") / "shop"))
    add(folder)
    return folder


def encoded(titles):
    return HashingEncoder(HashingEncoderConfig()).encode(titles)


def test_the_new_bundle_knows_what_came_and_keeps_its_weights(refreshed):
    old, new = load_bundle(bundle(refreshed, "train-rec")), load_bundle(bundle(refreshed))
    before, after = old.model.resources, new.model.resources
    for name, tensor in old.model.state_dict().items():
        np.testing.assert_array_equal(tensor, new.model.state_dict()[name], err_msg=name)
    assert after.spec == before.spec
    assert {key: values.to_pylist() for key, values in after.vocab.values.items()} == {
        key: values.to_pylist() for key, values in before.vocab.values.items()
    }
    items = after.catalog.items.ids.to_pylist()
    assert items == [*before.catalog.items.ids.to_pylist(), "i20", "i21"]
    assert after.catalog.users.ids.to_pylist() == [*before.catalog.users.ids.to_pylist(), "new"]
    titles = {f"i{n}": shop.item(n)[1] for n in range(22)}
    np.testing.assert_allclose(after.get("text")[1:], encoded([titles[item] for item in items]), atol=1e-6)
    assert new.reasoning_E.equals(old.reasoning_E)
    assert len(after.get("examples")) == len(before.get("examples"))


def test_histories_are_the_latest(refreshed):
    resources = load_bundle(bundle(refreshed)).model.resources
    user, item = ({one: row for row, one in enumerate(t.ids.to_pylist(), 1)}
                  for t in (resources.catalog.users, resources.catalog.items))  # fmt: skip
    rows = sorted([*shop.first_events(), *shop.LATER], key=lambda row: row[3])
    pairs, taken = set(), {}
    for who, what, rating, time in rows:
        if (who, what) not in pairs and rating >= 3:  # no pair is there twice; histories are of positives
            pairs.add((who, what))
            taken.setdefault(who, {}).setdefault(time, []).append(what)
    for who in ("u1", "u2", "new"):
        found = resources.histories.before(np.array([user[who]]), np.array([2_000_000_000]), 3)[0]
        last = [what for time in sorted(taken[who]) for what in sorted(taken[who][time])][-3:]
        assert sorted(found[found > 0]) == sorted(item[what] for what in last)


def test_scores_are_those_of_a_scorer_that_was_told_of_the_items(refreshed):
    new, told = Scorer.load(bundle(refreshed)), Scorer.load(bundle(refreshed, "train-rec"))
    rows = [shop.item(20), shop.item(21, genre="z")]
    told.add_items(
        pa.table({"item_id": [row[0] for row in rows], "genre": [row[2] for row in rows]}),
        encoded([row[1] for row in rows]),
    )
    requests = [
        {"user_id": user, "item_id": item, "history": ["i1", "i20"]}
        for user in ("u1", "u7", "nobody")
        for item in ("i5", "i20", "i21", "unheard")
    ]
    np.testing.assert_allclose(new.score(requests)["logit"], told.score(requests)["logit"], atol=1e-6)


def test_the_recipe_and_the_report_say_what_happened(refreshed):
    derived = yaml.safe_load((refreshed / "recipe.refresh-1.yaml").read_text())
    assert derived == {
        "extends": "recipe.yaml", "dataset": {"added": [{"interactions": "more.csv", "items": "more_items.csv"}]},
        "refresh": {"level": "items", "arm": "ict", "seed": 1, "learned": [{"additions": 0}]},
    }  # fmt: skip
    manifest = yaml.safe_load((bundle(refreshed).parent / "manifest.json").read_text())
    old, new = (load_bundle(bundle(refreshed, stage)).digest for stage in ("train-rec", "refresh"))
    report = manifest["report"]
    assert (report["base"], report["bundle"], report["users"], report["items"]) == (old, new, 1, 2)
    assert report["unknown"] == [{"feature": "item.genre", "rows": 1}]


def test_the_same_command_again_does_nothing(refreshed):
    before = contents(refreshed)
    add(refreshed)
    refresh(refreshed)
    assert contents(refreshed) == before


def test_cleaning_by_the_recipe_keeps_its_refreshes(refreshed):
    listed = invoke("clean", refreshed / "recipe.yaml", "--artifacts", refreshed / "artifacts")
    assert "nothing to remove" in listed
    (refreshed / "elsewhere.yaml").write_text((refreshed / "recipe.yaml").read_text())
    other = invoke("clean", refreshed / "elsewhere.yaml", "--artifacts", refreshed / "artifacts")
    assert "refresh" in other, "without the recipe of the refresh its bundle is not needed"
    (refreshed / "elsewhere.yaml").unlink()


def test_a_second_refresh_carries_the_first_on(refreshed, tmp_path):
    folder = Path(shutil.copytree(refreshed, tmp_path / "shop"))
    shop.write_events(folder / "later.csv", [("u4", "i20", 5, 1100)])
    shop.write_items(folder / "changed.csv", [shop.item(3, title="deep red other")])
    refresh(folder, "--add", folder / "later.csv", "--items", folder / "changed.csv")
    added = yaml.safe_load((folder / "recipe.refresh-2.yaml").read_text())["dataset"]["added"]
    assert [one["interactions"] for one in added] == ["more.csv", "later.csv"]
    assert len(list((folder / "artifacts" / "train-rec").glob("*/bundle"))) == 1
    first, second = sorted((folder / "artifacts" / "refresh").glob("*/bundle"), key=lambda path: path.stat().st_mtime)
    before, after = (load_bundle(path).model.resources for path in (first, second))
    changed = np.flatnonzero((before.get("text") != after.get("text")).any(1))
    assert [after.catalog.items.ids[int(row) - 1].as_py() for row in changed] == ["i3"]
    np.testing.assert_allclose(after.get("text")[changed], encoded(["deep red other"]), atol=1e-6)
    manifests = [yaml.safe_load(path.read_text()) for path in (folder / "artifacts" / "embed").glob("*/manifest.json")]
    assert sorted(m["report"]["items"] - m["report"]["copied"] for m in manifests) == [1, 2, 20]


def test_rows_that_are_there_change_nothing(here):
    shop.write_events(here / "same.csv", shop.first_events()[:5])
    before = contents(here / "artifacts" / "train-rec")
    assert "5 rows are already there" in refresh(here, "--add", here / "same.csv")
    assert not list(here.glob("*refresh-*")) + list(here.glob(".*refresh-*"))
    assert contents(here / "artifacts" / "train-rec") == before
    assert not (here / "artifacts" / "refresh").exists()


def test_what_cannot_be_added_is_refused_and_nothing_changes(here):
    shop.write_events(here / "late.csv", [("u1", "i19", 5, 10), ("u1", "i18", 5, 1000)])
    (here / "other.csv").write_text("user_id,item_id,t\nu1,i1,1000\n")
    before = contents(here)
    for file, code, kind in (
        ("late.csv", "added-late", DataError), ("other.csv", "column-missing", DataError),
        ("none.csv", "path-missing", LlmcfError),
    ):  # fmt: skip
        with refused(code, kind):
            refresh(here, "--add", here / file)
    assert contents(here) == before


def test_a_model_that_is_not_there_or_of_another_recipe_is_not_trained(here):
    with refused("refresh-untrained", StoreError):
        refresh(here, "--add", here / "more.csv", "--set", "match.k=4")
    shutil.rmtree(here / "artifacts" / "train-rec")
    with refused("refresh-untrained", StoreError):
        refresh(here, "--add", here / "more.csv")
    assert not list(here.glob("*refresh-*"))


def test_what_the_model_was_made_of_may_be_gone(here):
    for stage in ("gen-cot", "examples", "match"):
        shutil.rmtree(here / "artifacts" / stage)
    add(here)
    assert load_bundle(bundle(here)).digest
    assert not (here / "artifacts" / "gen-cot").exists()


def test_there_is_one_refresh_at_a_time(here):
    (here / "artifacts" / "cache").mkdir(exist_ok=True)
    with held(here / "artifacts" / "cache" / "refresh.shop.lock", "test"), refused("store-busy", StoreError):
        add(here)


def test_own_additions_stay_what_they_were(refreshed, tmp_path):
    folder = Path(shutil.copytree(refreshed, tmp_path / "shop"))
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("  limits:", "  added: [{interactions: other.csv}]\n  limits:"))
    shop.write_events(folder / "other.csv", [("u4", "i2", 5, 950)])
    with refused("refresh-changed", StoreError):
        refresh(folder)


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["ingest ", "embed ", "refresh["])
def test_a_kill_costs_nothing(here, refreshed, seen):
    """Killed amid a stage, at a random moment, the trained bundle is whole, and the same command goes on."""
    old = contents(bundle(here, "train-rec"))
    killed_at(here, f"▶ {seen}")
    assert contents(bundle(here, "train-rec")) == old
    add(here)
    assert not list(here.glob(".*refresh-*"))
    assert contents(bundle(here)) == contents(bundle(refreshed))
