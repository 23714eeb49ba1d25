"""Additions to a data set: which artifacts there are, what their keys are made of, and that a run extends its base."""

from __future__ import annotations

import json

import duckdb
import pytest
from refusals import refused

from llmcf_cli.core.errors import RecipeError, StoreError
from llmcf_cli.core.place import dotted
from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.files import locator_of
from llmcf_cli.stages.look.made import run_of_folder
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.store.artifacts import ArtifactStore

FIRST = [(f"u{n % 4}", f"i{n % 7}", 1 + n % 5, n) for n in range(40)]
LATER = [("u1", "i9", 5, 50), ("new", "i2", 1, 51)]


def write(path, rows):
    path.write_text("\n".join(["user_id,item_id,rating,t", *(",".join(map(str, row)) for row in rows)]) + "\n")


@pytest.fixture
def world(tmp_path):
    write(tmp_path / "first.csv", FIRST)
    for n, row in enumerate(LATER):
        write(tmp_path / f"more{n}.csv", [row])
    return tmp_path


def context(folder, added=()):
    source = {"type": "csv", "interactions": str(folder / "first.csv"), "columns": {"time": "t", "rating": "rating"}}
    dataset = {
        "dataset.source": source, "dataset.split": {"type": "fixed_cut", "validation_from": 20, "test_from": 30},
        "dataset.added": [{"interactions": str(folder / f"more{n}.csv")} for n in added],
        "dataset.text": {"item": "", "user": ""},
        "dataset.limits": {"per_class": 0, "unjoined": 1}, "dataset.repeats": "keep", "dataset.features": None,
    }  # fmt: skip
    found = load_recipe("quickstart", [f"{key}={json.dumps(value)}" for key, value in dataset.items()])
    store = ArtifactStore(folder / "artifacts")
    return Context(recipe=found.recipe, store=store, locate=locator_of(found), models=folder)


def nodes(folder, added=()):
    return [step.node for step in plan(context(folder, added), [Ingest()])]


def test_an_addition_extends_the_artifact_that_was_there(world):
    (alone,) = nodes(world)
    chain = nodes(world, (0, 1))
    assert [node.label for node in chain] == ["ingest[base]", "ingest[base with 1 added]", "ingest"]
    assert chain[0].key == alone.key
    assert [node.material["inputs"] for node in chain] == [{}, {"base": chain[0].key}, {"base": chain[1].key}]
    assert nodes(world, (0,))[-1].key == chain[1].key
    write(world / "more1.csv", LATER)
    assert [a.key == b.key for a, b in zip(chain, nodes(world, (0, 1)), strict=True)] == [True, True, False]


def test_a_run_makes_the_chain_and_cached_bases_stay(world):
    run(context(world))
    steps = run(context(world, (0, 1)))
    assert [step.runs for step in steps] == [False, True, True]
    with duckdb.connect(str(steps[-1].node.folder / "data.duckdb"), read_only=True) as con:
        users = con.execute('SELECT user_id FROM "user" ORDER BY user_row').fetchall()
        assert con.execute("SELECT value FROM meta WHERE key = 'additions'").fetchone() == ("2",)
        assert con.execute("SELECT max(sample_id), count(*) FROM sample").fetchone() == (41, 42)
    assert users == [("u0",), ("u1",), ("u2",), ("u3",), ("new",)]


def run(found):
    steps = plan(found, [Ingest()])
    execute(steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None)
    return steps


def test_what_stands_beside_an_added_file_is_part_of_the_key(world):
    def keys():
        recipe = load_recipe("quickstart", overrides).recipe
        found = Context(recipe=recipe, store=ArtifactStore(world), locate=Names(), models=world)
        return [step.node.key for step in plan(found, [Ingest()])]

    class Names:
        def digest(self, ref):
            if ref.endswith((".item", ".user")) and ref not in beside:
                raise StoreError("is not there", code="file-missing", where=ref)
            return ref

    overrides = ["dataset.added=[{interactions: a.inter}]"]
    beside = []
    before = keys()
    beside.append("a.item")
    after = keys()
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


@pytest.mark.parametrize(
    ("added", "split", "where"),
    [
        ("{interactions: a.inter, users: b.csv}", "{type: fixed_cut, validation_from: 4, test_from: 6}",
         "dataset.added.0.users"),
        ("{interactions: a.inter}", "{type: leave_one_out}", "dataset.split"),
    ],
)  # fmt: skip
def test_what_cannot_be_extended_is_refused_with_the_recipe(added, split, where):
    with refused("rule-broken", RecipeError) as error:
        load_recipe("quickstart", [f"dataset.added=[{added}]", f"dataset.split={split}"])
    assert [dotted(one.where.path) for one in error.value.problems] == [where]


def test_audits_look_at_the_whole_and_not_at_its_bases(world):
    steps = run(context(world, (0, 1)))
    assert [made.folder for made in run_of_folder(steps[-1].node.folder).ingests] == [steps[-1].node.folder]
    assert [made.folder for made in run_of_folder(steps[0].node.folder).ingests] == [steps[0].node.folder]
