"""`llmcf refresh --level examples`: new texts for a sample of the new rows; weights and earlier texts stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import refresh_world as shop
import yaml
from examples import examples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refresh_world import bundle, chat_server, contents, invoke, killed_at, refresh
from refusals import refused

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.llm.config import HashingEncoderConfig
from llmcf_cli.llm.models.hashing import HashingEncoder
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.rec.bundle.bundle import Bundle, load_bundle
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.look.made import samples_of
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.refreshing import target_of
from llmcf_cli.stages.steps.embed import Examples, ExamplesOutput
from llmcf_cli.stages.steps.match import Match, MatchOutput
from llmcf_cli.store.open import connect_read, read_lance, read_parquet

MANY = [*shop.LATER, *((f"u{n}", "i21", 5 - n % 2 * 4, 1010 + n) for n in range(30))]
SINCE = 600_000_000
"""Where validation began: what is later is new to the examples."""


def write(folder, *words):
    return refresh(folder, "--level", "examples", *words)


def add_and_write(folder, *words):
    return write(folder, "--add", folder / "more.csv", "--items", folder / "more_items.csv", *words)


def report_of(made: Path):
    return yaml.safe_load((made.parent / "manifest.json").read_text())["report"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A shop whose model is trained."""
    folder = tmp_path_factory.mktemp("examples")
    shop.write_shop(folder)
    shop.write_events(folder / "more.csv", MANY)
    invoke("train-rec", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
    return folder


@pytest.fixture(scope="module")
def written(trained, tmp_path_factory) -> Path:
    """The same, with new examples."""
    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("written") / "shop"))
    add_and_write(folder)
    return folder


def train_rows(folder, recipe="recipe.refresh-1.yaml"):
    """Sample id → time, of the train rows."""
    database = IngestOutput(samples_of(open_context(load_recipe(folder / recipe), folder / "artifacts"))).database
    with connect_read(database) as con:
        return dict(con.sql("SELECT sample_id, time FROM sample WHERE split = 'train'").fetchall())


def new_texts(folder) -> dict[int, str]:
    """Sample id → chain of thought, of what the refresh wrote."""
    context = open_context(load_recipe(folder / "recipe.refresh-1.yaml"), folder / "artifacts")
    steps = plan(context, [target_of(context.recipe)])
    (node,) = [s.node for s in steps if s.node.stage.name == "gen-cot" and s.node.variant == "of addition 1"]
    return dict(
        zip(*read_parquet(CoTOutput(node.folder).cots, ["sample_id", "text"]).to_pydict().values(), strict=True)
    )


def test_a_share_of_the_new_rows_become_examples_and_the_others_stay(written):
    old, new = load_bundle(bundle(written, "train-rec")), load_bundle(bundle(written))
    for name, tensor in old.model.state_dict().items():
        np.testing.assert_array_equal(tensor, new.model.state_dict()[name], err_msg=name)
    before, after = old.model.resources.get("examples"), new.model.resources.get("examples")
    ids, size = after.samples.sample_id_N, len(before)
    assert ids[:size].tolist() == before.samples.sample_id_N.tolist()
    np.testing.assert_array_equal(after.cot_ET[:size], before.cot_ET)
    np.testing.assert_array_equal(after.vector_ES[:size], before.vector_ES)
    assert new.reasoning_E.to_pylist()[:size] == old.reasoning_E.to_pylist()
    fresh = [sample for sample, time in train_rows(written).items() if time >= SINCE]
    texts = new_texts(written)
    assert len(texts) == round(len(fresh) / 2) == len(ids) - size == report_of(bundle(written))["examples"]
    assert set(ids[size:].tolist()) == texts.keys() <= set(fresh)
    encoded = HashingEncoder(HashingEncoderConfig()).encode([texts[one] for one in ids[size:].tolist()])
    np.testing.assert_allclose(after.cot_ET[size:], encoded, atol=1e-6)
    assert new.reasoning_E.to_pylist()[size:] == [texts[one] for one in ids[size:].tolist()]


def test_the_recipe_says_how_and_the_same_command_does_nothing(written):
    derived = yaml.safe_load((written / "recipe.refresh-1.yaml").read_text())
    assert derived["refresh"]["level"] == "examples"
    assert derived["refresh"]["learned"][1] == {
        "additions": 1, "recut": derived["dataset"]["recut"], "examples": {}
    }  # fmt: skip
    before = contents(written)
    assert "nothing to do" in add_and_write(written)
    refresh(written)
    assert contents(written) == before


def test_a_plan_says_what_is_written_and_what_stays(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "shop"))
    before = contents(folder)
    said = add_and_write(folder, "--dry-run")
    assert "gen-cot[of addition 1]" in said
    assert "unchanged in arm ict, seed 1: weights" in said
    assert "train-rec" not in said.replace("train-rec[ict seed=1, as trained]", "")
    assert contents(folder) == before


def test_what_follows_keeps_the_new_examples(written, tmp_path):
    """`items` and `finetune` go on from the model with them; the latter under the cuts by which they were chosen."""
    folder = Path(shutil.copytree(written, tmp_path / "shop"))
    size = len(load_bundle(bundle(folder)).model.resources.get("examples"))
    refresh(folder, "--level", "finetune", "--set", "refresh.finetune.epochs=1")
    shop.write_events(folder / "later.csv", [("u4", "i20", 5, 1100), ("later", "i2", 5, 1101)])
    refresh(folder, "--add", folder / "later.csv")
    first, second, third = (yaml.safe_load((folder / f"recipe.refresh-{n}.yaml").read_text()) for n in (1, 2, 3))
    assert second["dataset"]["recut"] == first["dataset"]["recut"] == third["dataset"]["recut"]
    assert [list(one)[-1] for one in third["refresh"]["learned"][1:]] == ["examples", "finetune"]
    manifests = {m.parent: yaml.safe_load(m.read_text())["report"] for m in folder.glob("artifacts/refresh/*/*.json")}
    digest = {report["level"]: report["bundle"] for report in manifests.values()}
    assert {report["level"]: report["base"] for report in manifests.values()} == {
        "examples": load_bundle(bundle(folder, "train-rec")).digest, "finetune": digest["examples"],
        "items": digest["finetune"],
    }  # fmt: skip
    assert all(len(load_bundle(path / "bundle").model.resources.get("examples")) == size for path in manifests)
    tuned = next(report["learned"] for report in manifests.values() if report["learned"])
    assert tuned["new"] == sum(time >= SINCE for time in train_rows(folder).values())


def by_ids(folder, sample_ids, recipe) -> list[tuple]:
    """Samples by what does not depend on numbers of rows."""
    database = IngestOutput(samples_of(open_context(load_recipe(folder / recipe), folder / "artifacts"))).database
    with connect_read(database) as con:
        found = {sample: tuple(rest) for sample, *rest in con.sql(
            'SELECT sample_id, user_id, item_id, time, label FROM sample JOIN "user" USING (user_row) '
            "JOIN item USING (item_row)").fetchall()}  # fmt: skip
    return [found[one] if one >= 0 else () for one in sample_ids]


def node_of(folder, recipe, stage):
    context = open_context(load_recipe(folder / recipe), folder / "artifacts")
    return plan(context, [stage()])[-1].node


@given(st.integers(0, 10_000), st.integers(20, 60))
@settings(max_examples=examples(2), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_examples_of_base_and_addition_are_those_of_one_run_on_all_rows(tmp_path_factory, seed, count):
    """Where every train row becomes an example: rows, texts, vectors, and the matches of every sample."""
    chance = np.random.default_rng(seed)
    later = {
        (f"u{chance.integers(32)}", f"i{chance.integers(22)}"): int(chance.integers(901, 1000)) for _ in range(count)
    }
    rows = [(user, item, int(chance.integers(1, 6)), time) for (user, item), time in sorted(later.items())]
    folder = tmp_path_factory.mktemp("grown")
    shop.write_shop(folder)
    (folder / "recipe.yaml").write_text(shop.RECIPE.replace("fraction: 0.5", "fraction: 1.0"))
    shop.write_events(folder / "more.csv", rows)
    invoke("train-rec", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
    add_and_write(folder)
    derived = "recipe.refresh-1.yaml"
    cuts = yaml.safe_load((folder / derived).read_text())["dataset"]["recut"]
    whole = tmp_path_factory.mktemp("whole")
    shop.write_events(whole / "events.csv", [*shop.first_events(), *rows])
    shop.write_items(whole / "items.csv", [*(shop.item(n) for n in range(21)), shop.item(21, genre="z")])
    split = yaml.safe_dump({"type": "fixed_cut", **cuts}, default_flow_style=True, width=1000).strip()
    text = shop.RECIPE.replace("fraction: 0.5", "fraction: 1.0")
    (whole / "recipe.yaml").write_text(text.replace("{type: fixed_cut, validation_from: 600, test_from: 750}", split))
    invoke("match", whole / "recipe.yaml", "--artifacts", whole / "artifacts")

    made = load_bundle(bundle(folder))
    bank = made.model.resources.get("examples")
    table = read_lance(ExamplesOutput(node_of(whole, "recipe.yaml", Examples).folder).lance, "cot_example")
    ours = dict(zip(by_ids(folder, bank.samples.sample_id_N.tolist(), derived), bank.cot_ET, strict=True))
    theirs = dict(zip(by_ids(whole, table["sample_id"].to_pylist(), "recipe.yaml"), table["cot_vector"].to_pylist(),
                      strict=True))  # fmt: skip
    assert ours.keys() == theirs.keys()
    for key, vector in theirs.items():
        np.testing.assert_allclose(ours[key], vector, atol=1e-6)
    assert matches_of(folder, made, derived) == stored_matches(whole)


def matches_of(folder, made: Bundle, recipe):
    """What a bundle finds for each sample that is no train row, by ids."""
    from llmcf_cli.features.batch import encode_rows

    resources = made.model.resources
    database = IngestOutput(samples_of(open_context(load_recipe(folder / recipe), folder / "artifacts"))).database
    with connect_read(database) as con:
        table = con.sql("SELECT * FROM sample WHERE split <> 'train' ORDER BY sample_id").to_arrow_table()
    asked = encode_rows(table, resources.spec.history_length)
    index_NK = made.inputs["examples"].answers(resources, made.clock)(resources, asked)
    ids_NK = np.where(index_NK < 0, -1, resources.get("examples").samples.sample_id_N[index_NK])
    return found_by_ids(folder, recipe, asked.sample_id_N, ids_NK)


def stored_matches(folder):
    table = read_parquet(MatchOutput(node_of(folder, "recipe.yaml", Match).folder).matches)
    train = train_rows(folder, "recipe.yaml")
    kept = [row for row in table.to_pylist() if row["sample_id"] not in train]
    ids = [row["sample_id"] for row in kept]
    return found_by_ids(folder, "recipe.yaml", np.array(ids), np.array([row["example_sample_id"] for row in kept]))


def found_by_ids(folder, recipe, sample_N, ids_NK):
    """Sample → its examples as a set: of equally near ones, the lower number goes first, and numbers differ."""
    names = by_ids(folder, sample_N.tolist(), recipe)
    return {name: frozenset(by_ids(folder, row.tolist(), recipe)) for name, row in zip(names, ids_NK, strict=True)}


def test_new_examples_take_a_tenth_of_the_calls_of_a_full_run(tmp_path, monkeypatch):
    """As many in a hundred as rows are new; each row is asked about once, and none again."""
    monkeypatch.setenv("LLMCF_CONFIG", str(tmp_path / "config"))
    folder = tmp_path / "shop"
    folder.mkdir()
    shop.write_shop(folder)
    with chat_server() as (url, asked):
        text = shop.RECIPE.replace("engine: {type: facts}", f'engine: {{type: openai, model: m, base_url: "{url}"}}')
        text = text.replace("validation_from: 600, test_from: 750", "validation_from: 870, test_from: 885")
        (folder / "recipe.yaml").write_text(text)
        Permissions().allow_host(Host.of(url), None)
        invoke("train-rec", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
        before = len(asked)
        add_and_write(folder)
        new = asked[before:]
        invoke("gen-cot", folder / "recipe.refresh-1.yaml", "--artifacts", tmp_path / "fresh")
        full = asked[before + len(new) :]
    fresh = [time for time in train_rows(folder).values() if time >= 870_000_000]
    assert len(new) == round(len(fresh) / 2) > 0
    assert len(new) <= 0.1 * len(full)
    assert not set(new) & set(asked[:before])


def test_an_arm_without_texts_has_nothing_to_write(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "shop"))
    (folder / "recipe.yaml").write_text(shop.RECIPE.replace("augment: ict", "augment: text"))
    before = contents(folder)
    with refused("option-conflict", LlmcfError):
        add_and_write(folder)
    assert contents(folder) == before


def test_the_language_model_and_the_trained_model_must_be_there(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "shop"))
    shutil.rmtree(folder / "artifacts" / "train-rec")
    with refused("refresh-untrained", StoreError):
        add_and_write(folder)
    assert not list(folder.glob("*refresh-*"))


@pytest.mark.slow
@pytest.mark.parametrize("seen", ["gen-cot", "refresh["])
def test_a_kill_costs_nothing(written, trained, tmp_path, seen):
    folder = Path(shutil.copytree(trained, tmp_path / "killed"))
    old = contents(bundle(folder, "train-rec"))
    killed_at(folder, f"▶ {seen}", "--level", "examples")
    assert contents(bundle(folder, "train-rec")) == old
    add_and_write(folder)
    assert not list(folder.glob(".*refresh-*"))
    assert load_bundle(bundle(folder)).digest == load_bundle(bundle(written)).digest
