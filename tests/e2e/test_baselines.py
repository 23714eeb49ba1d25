"""KAR, distillation and the mean ablation through the stages: a tiny random language model, the real encoder."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.stages.steps.task_data import task_data
from llmcf_cli.store.open import connect_read, read_lance

RECIPE = """\
extends: base.yaml
name: baselines
cot: {sample: {count: 30}}
knowledge:
  user_prompt: prompts/kar_user.yaml
  item_prompt: prompts/kar_item.yaml
  users: 12
  items: 20
  engine: {type: transformers, max_new_tokens: 8, precision: fp32}
teacher:
  min_mass: 0  # a model tuned for one step answers nearly anything
  sample: {fraction: 0.4}
  precision: fp32
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
  augment: kar
  objectives: [bce, {type: distill, temperature: 2, weight: 0.5}, cot_reconstruction]
  fit: {epochs: 2, batch_size: 64}
  compare: [none, mean]
"""


@pytest.fixture(scope="module")
def steps(assets, write_ratings, tmp_path_factory):
    """Every step of the run, finished."""
    assets.path("asset:minilm-l6-v2")
    folder = tmp_path_factory.mktemp("baselines")
    write_ratings(folder, users=20, items=25)
    (folder / "recipe.yaml").write_text(RECIPE)
    context = open_context(load_recipe(folder / "recipe.yaml"), folder / "artifacts")
    steps = plan(context, [Evaluate()])
    manifests = {}
    execute(steps, SILENT, on_start=lambda step: None,
            on_end=lambda step, manifest: manifests.update({step.node.stage.label: manifest}))  # fmt: skip
    return {step.node.stage.label: (step.node, manifests[step.node.stage.label]) for step in steps}


def folders(steps):
    return {label: node.folder for label, (node, _) in steps.items()}


def arm(steps, name):
    return next(node for label, (node, _) in steps.items() if label.startswith(f"train-rec[{name} "))


def test_an_arm_reads_what_it_needs_and_no_more(steps):
    needs = {name: set(arm(steps, name).needs) for name in ("none", "mean", "kar")}
    assert needs == {
        "none": {"ingest", "teacher"},
        "mean": {"ingest", "teacher", "embed", "examples", "match"},
        "kar": {"ingest", "teacher", "knowledge"},
    }


def test_every_arm_is_measured(steps):
    report = steps["evaluate"][1].report
    assert {entry["arm"] for entry in report["arms"]} == {"none", "mean", "kar"}
    assert all(0 < entry["measures"]["auc"]["mean"] < 1 for entry in report["arms"])


def test_the_teacher_scored_its_share_of_the_train_samples(steps):
    node, manifest = steps["teacher"]
    scores = pq.read_table(node.folder / "teacher_score.parquet")
    with connect_read(folders(steps)["ingest"] / "data.duckdb") as connection:
        splits = connection.execute(
            "SELECT split, count(*) FROM sample JOIN read_parquet(?) USING (sample_id) GROUP BY 1",
            [str(node.folder / "teacher_score.parquet")],
        ).fetchall()
        total = connection.execute("SELECT count(*) FROM sample WHERE split = 'train'").fetchone()[0]
    assert splits == [("train", scores.num_rows)]
    assert scores.num_rows == manifest.report["wanted"] == round(0.4 * total)


def test_knowledge_reaches_later_samples_of_its_users(steps):
    node, manifest = steps["knowledge"]
    table = read_lance(node.folder / "lance", "knowledge")
    assert table.num_rows == manifest.report["users"] + manifest.report["items"] > 0
    reach = manifest.report["reach"]
    data = task_data(node.context.recipe, folders(steps), frozenset({"knowledge"}))
    users = data.resources.get("knowledge").users
    for split, samples in data.splits.items():
        slot_N = users.slot_R[samples.user_row_N]
        known_N = (slot_N > 0) & (samples.time_N > users.as_of_N[slot_N])
        assert known_N.mean() == pytest.approx(reach[split]["user"])
    assert 0 < reach["train"]["user"] < reach["test"]["user"]
    np.testing.assert_allclose(np.linalg.norm(users.vector_NT[1:], axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("name", ["none", "mean", "kar"])
def test_the_scorer_replays_offline_logits(steps, offline_requests, name):
    from llmcf_cli.serve.scorer import Scorer

    node = arm(steps, name)
    predictions = folders(steps)["evaluate"] / "predictions" / f"{name}-seed2024.parquet"
    rows = offline_requests(folders(steps)["ingest"] / "data.duckdb", predictions)
    assert rows.num_rows > 20
    scores = Scorer.load(node.folder / "bundle").score(rows.drop_columns(["logit"]))
    np.testing.assert_allclose(scores["logit"].to_numpy(), rows["logit"].to_numpy(), atol=1e-5)


def test_a_setting_of_theirs_changes_what_reads_it(steps):
    context = arm(steps, "kar").context
    trained = {name for name in steps if name.startswith(("train-rec", "predict"))}
    for change, stages in (
        ("knowledge.users=3", {"knowledge", "train-rec[kar seed=2024]", "predict[kar seed=2024]", "evaluate"}),
        ("teacher.sample.fraction=0.2", {"teacher", "evaluate", *trained}),
        ("teacher.max_batch=3", set()),
    ):
        changed = open_context(load_recipe(context.store.root.parent / "recipe.yaml", [change]), context.store.root)
        assert {s.node.stage.label for s in plan(changed, [Evaluate()]) if s.runs} == stages
