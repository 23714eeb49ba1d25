"""Every arm of candidate retrieval from one recipe, and what those with examples and knowledge promise."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import retrieval_world
import torch

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.serve.golden import try_out
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.look.redraw import drawn_predictions
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.stages.steps.task_data import arm_model, arm_needs, task_data
from llmcf_cli.store.open import connect_read, read_lance

RECIPE = """\
name: arms
dataset:
  source:
    type: csv
    interactions: events.csv
    items: items.csv
    columns: {user: user, item: item, rating: rating, time: time}
  label: {type: rating, positive_from: 4}
  split: {type: global_time, validation: 0.15, test: 0.15}
  history: {max_length: 8}
llm:
  model: model
  mix: [{source: recommendation, share: 1}]
  count: 8
  tune: {type: lora, max_length: 256, max_steps: 1, batch_size: 4, precision: fp32}
cot: {sample: {count: 60, balance: labels}, engine: {type: facts}}
knowledge:
  user_prompt: prompts/kar_user.yaml
  item_prompt: prompts/kar_item.yaml
  users: 6
  items: 8
  engine: {type: transformers, max_new_tokens: 8, precision: fp32}
match:
  space: {type: text, encoder: {type: hashing, dim: 32}, history_weight: 1, item_weight: 0}
  query: history
rec:
  task: retrieval
  backbone: {type: sasrec, embedding_dim: 16, layers: 1}
  augment: ict
  objectives: [{type: sampled_softmax, negatives: 32}, {type: cot_reconstruction, weight: 0.1}]
  fit: {batch_size: 32, learning_rate: 0.01, weight_decay: 0, epochs: 1}
  compare: [none, text_init, text_tower, mean, ict, kar]
  variants:
    - {name: ict random, control_of: ict, set: {match.search: random}}
    - {name: ict shuffled, control_of: ict, set: {rec.cot: shuffled}}
  references: [none]
"""
CONTEXT = ["mean", "ict", "kar", "ict random", "ict shuffled"]


@pytest.fixture(scope="module")
def ran(tiny_llm, tmp_path_factory):
    """Every finished step by its label."""
    folder = tmp_path_factory.mktemp("arms")
    retrieval_world.write_events(folder, users=60)
    tiny_llm.save_tiny_model(folder / "model", context=1024)
    (folder / "recipe.yaml").write_text(RECIPE)
    context = open_context(load_recipe(folder / "recipe.yaml"), folder / "artifacts")
    steps = plan(context, [Evaluate()])
    execute(steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None)
    return {step.node.stage.label: step.node for step in steps}


@pytest.fixture(scope="module")
def arms(ran):
    """Arm → its recipe and data."""
    recipes = ran["evaluate"].context.recipe.arms

    def one(name):
        node = next(node for label, node in ran.items() if label.startswith(f"train-rec[{name} seed"))
        folders = {role: need.folder for role, need in node.needs.items()}
        return recipes[name], task_data(recipes[name], folders, arm_needs(recipes[name]))

    return {name: one(name) for name in ("none", *CONTEXT)}


def moved(model):
    torch.manual_seed(5)
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def test_every_arm_is_compared(ran):
    report = json.loads((ran["evaluate"].folder / "comparison.json").read_text())
    assert not report["failed"]
    assert [arm["arm"] for arm in report["arms"]] == ["none", "text_init", "text_tower", *CONTEXT]


@pytest.mark.parametrize("name", CONTEXT)
def test_an_arm_begins_as_none(arms, name):
    recipe, data = arms[name]
    plain, model = (arm_model(one, data, 1) for one in (arms["none"][0], recipe))
    np.testing.assert_array_equal(predict(plain, data, "test"), predict(model, data, "test"))
    losses = []
    for one in (plain, model):
        batch = one.eval().train_rows(data, "cpu").take(torch.arange(40))
        torch.manual_seed(2)
        losses.append(one.loss(one(batch), batch.targets))
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("name", ["mean", "ict", "kar"])
def test_a_gradient_reaches_every_parameter(arms, name):
    recipe, data = arms[name]
    model = moved(arm_model(recipe, data, 1)).train()
    batch = model.train_rows(data, "cpu").take(torch.arange(60))
    model.loss(model(batch), batch.targets).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().sum() > 0, parameter_name
    assert not model.embedding.table_VD.grad[:2].any(), "padding and unknown items stay as they are"


@pytest.mark.parametrize("name", ["mean", "ict", "kar"])
def test_queries_have_no_target_and_positions_their_own_context(arms, name):
    recipe, data = arms[name]
    model = moved(arm_model(recipe, data, 1)).eval()
    rows = data.batch("train", inputs=model.reads)
    every = rows.take(torch.arange(len(rows)))
    users = model.users(every)
    torch.testing.assert_close(model.users(replace(every, item_row_B=every.item_row_B.flip(0))), users)
    found = model.train_rows(data, "cpu")
    whole = found.take(torch.arange(len(found)))
    row, column = whole.target_BP.nonzero(as_tuple=True)
    sample = whole.sample_BP[row, column]
    asked = model(whole).user_MD
    model.user_gate.gate.data.zero_()
    added = users - model.users(every)
    assert (added.abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(asked - model(whole).user_MD, added[sample], rtol=1e-4, atol=1e-5)


def test_examples_are_older_and_nearest_by_history_alone(ran):
    """By plain NumPy over the tables: of each label the two older examples with the likest histories."""
    match = next(node for label, node in ran.items() if label.startswith("train-rec[ict seed")).needs["match"]
    texts = read_lance(ran["embed"].folder / "lance", "item_text").sort_by("item_row")
    vector = np.array(texts["vector"].to_pylist())
    examples = read_lance(match.needs["examples"].folder / "lance", "cot_example").to_pylist()
    stored = {row["sample_id"]: row for row in pq.read_table(match.folder / "example_match.parquet").to_pylist()}
    with connect_read(next(ran["ingest"].folder.glob("*.duckdb"))) as connection:
        rows = {row["sample_id"]: row for row in connection.sql("FROM sample").to_arrow_table().to_pylist()}

    def direction(history):
        total = vector[np.array(history[-8:], int) - 1].sum(0) if history else np.zeros(vector.shape[1])
        return total / max(np.linalg.norm(total), 1e-9)

    compared = 0
    for sample in list(rows.values())[::23]:
        scores = {}
        for example in examples:
            of = rows[example["sample_id"]]
            if of["time"] < sample["time"]:
                scores[of["sample_id"]] = float(direction(sample["history"]) @ direction(of["history"]))
        found = [one for one in stored[sample["sample_id"]]["example_sample_id"] if one >= 0]
        for label in (0, 1):
            best = sorted((s for one, s in scores.items() if rows[one]["label"] == label), reverse=True)[:2]
            mine = sorted((scores[one] for one in found if rows[one]["label"] == label), reverse=True)
            np.testing.assert_allclose(mine, best, atol=1e-5)
            compared += len(best)
    assert compared > 40


@pytest.mark.parametrize("name", CONTEXT)
def test_lists_online_are_those_offline(ran, name):
    predict_node = next(node for label, node in ran.items() if label.startswith(f"predict[{name} seed"))
    stored = pq.read_table(next(predict_node.folder.glob("*.parquet"))).slice(0, 25)
    with connect_read(next(ran["ingest"].folder.glob("*.duckdb"))) as connection:
        connection.register("stored", stored)
        asked = connection.sql(
            "WITH ids AS (SELECT list(item_id ORDER BY item_row) AS by_row FROM item) "
            "SELECT u.user_id, make_timestamptz(s.time) AS time, "
            "list_transform(s.history, lambda h: ids.by_row[h]) AS history, "
            "list_transform(p.listed, lambda h: CASE WHEN h > 0 THEN ids.by_row[h] END) AS listed "
            'FROM sample s JOIN stored p USING (sample_id) JOIN "user" u ON u.user_row = s.user_row, ids '
            "WHERE len(s.history) > 0 ORDER BY sample_id"
        ).to_arrow_table()
    trained = next(node for label, node in ran.items() if label.startswith(f"train-rec[{name} seed"))
    scorer = Scorer.load(trained.folder / "bundle")
    try_out(scorer)
    found = scorer.recommend(asked.select(["user_id", "time", "history"]), 10)["item_id"].to_pylist()
    assert [found[10 * n : 10 * n + 10] for n in range(len(asked))] == [row[:10] for row in asked["listed"].to_pylist()]


def test_new_users_get_contexts_of_their_own(ran):
    trained = next(node for label, node in ran.items() if label.startswith("train-rec[ict seed"))
    scorer = Scorer.load(trained.folder / "bundle")
    moved(scorer.model.train()).keep()
    request = {"user_id": "nobody", "history": ["i01", "i02"]}
    found = scorer.recommend([request], 5)
    ids = scorer.model.resources.catalog.items.ids.to_pylist()
    scores = scorer.score([{**request, "item_id": item} for item in ids])["score"].to_numpy()
    order = [ids[place] for place in np.argsort(-scores) if ids[place] not in request["history"]]
    assert found["item_id"].to_pylist() == order[:5]


def test_a_model_can_be_asked_with_random_examples(ran, arms):
    predict_node = next(node for label, node in ran.items() if label.startswith("predict[ict seed"))
    stored = pq.read_table(next(predict_node.folder.glob("*.parquet")))
    trained = next(node for label, node in ran.items() if label.startswith("train-rec[ict seed"))
    database = next(ran["ingest"].folder.glob("*.duckdb"))
    _, data = arms["ict"]
    drawn = drawn_predictions(trained.folder / "bundle", database, data.task, stored["sample_id"], SILENT)
    assert drawn.shape == data.task.read(stored).shape


@pytest.mark.parametrize(
    ("changes", "at"),
    [(["match.query=row"], "match.query"),
     (["match.exclude=own_item"], "match.exclude"),
     (["match.space.history_weight=0", "match.space.item_weight=1"], "match.space.history_weight"),
     (["rec.compare=[none, {type: ict, features: [text, signals]}]"], "rec.compare.1"),
     (["rec.compare=[none, readout]"], "rec.compare.1")],
)  # fmt: skip
def test_what_would_need_the_target_is_refused(tmp_path, changes, at):
    retrieval_world.write_events(tmp_path, users=1)
    (tmp_path / "model").mkdir()
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / "recipe.yaml", changes)
    assert any(at in str(problem.where) for problem in caught.value.problems)
