"""Trackers: what training measured is in real event files and a real MLflow store, here and nowhere else."""

from __future__ import annotations

import importlib.util

import pytest
from refusals import refused

from llmcf_cli.cli.opening import opened
from llmcf_cli.cli.stages import run_stage
from llmcf_cli.core.errors import PackageError
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.pipeline import targets
from llmcf_cli.store.artifacts import ArtifactStore

pytest.importorskip("tensorboard", reason="needs the extra `tracking`")
mlflow = pytest.importorskip("mlflow", reason="needs the extra `tracking`")

RECIPE = """\
extends: base.yaml
name: tiny
tracking: [tensorboard, mlflow]
llm: {tune: {max_steps: 3}}
rec:
  compare: [none]
  seeds: [7]
  backbone: {type: deepfm, hidden: [8]}
  fit: {batch_size: 64, epochs: 2, patience: 2}
"""


def scalars(folder):
    """Name → [(step, value)] of a folder of event files, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory, write_ratings):
    """A tuning and a training, with an environment that names a server, a run and an experiment."""
    folder = tmp_path_factory.mktemp("tracking")
    write_ratings(folder, users=20, items=24)
    (folder / "tiny.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_RUN_ID", "0" * 32)
        patch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
        for stage, force in (("train-llm", ()), ("train-rec", ()), ("train-rec", ("train-rec",))):
            run_stage(stage, str(folder / "tiny.yaml"), (), folder / "artifacts", False, force, None)
    return folder


@pytest.fixture(scope="module")
def reports(made):
    store = ArtifactStore(made / "artifacts")
    return {stage: store.manifests(stage)[0] for stage in ("train-llm", "train-rec")}


def test_event_files_have_what_the_stages_report(made, reports):
    folders = list((made / "artifacts/tracking/tensorboard/tiny").iterdir())
    assert len(folders) == 2
    by_stage = {stage: next(f for f in folders if f.name.endswith(one.key[:16])) for stage, one in reports.items()}
    tuned = scalars(by_stage["train-llm"])
    curve = [(step, pytest.approx(loss, rel=1e-5)) for step, loss in reports["train-llm"].report["tune"]["loss"]]
    assert len(curve) > 1
    assert tuned["train/loss"] == curve
    trained = scalars(by_stage["train-rec"])
    epochs = reports["train-rec"].report["epochs"]
    assert [step for step, _ in trained["train/loss"]] == [e["number"] for e in epochs]  # of the later attempt alone
    assert [value for _, value in trained["train/loss"]] == pytest.approx([e["loss"] for e in epochs], rel=1e-5)
    for name, value in epochs[-1]["validation"].items():
        assert trained[f"validation/{name}"][-1] == (epochs[-1]["number"], pytest.approx(value, rel=1e-5))


def test_the_store_has_a_run_for_each_attempt_whatever_the_environment_says(made, reports):
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{made / 'artifacts/tracking/mlflow.db'}")
    assert {one.name for one in client.search_experiments()} == {"Default", "tiny"}
    experiment = client.get_experiment_by_name("tiny").experiment_id
    runs = client.search_runs([experiment])
    assert sorted(one.info.run_name for one in runs) == ["train-llm", "train-rec[none seed=7]",
                                                         "train-rec[none seed=7]"]  # fmt: skip
    assert {one.info.status for one in runs} == {"FINISHED"}
    latest = max((one for one in runs if "rec" in one.info.run_name), key=lambda one: one.info.start_time)
    assert latest.data.tags["llmcf.key"] == reports["train-rec"].key
    assert latest.data.params["seed"] == "7"
    epochs = reports["train-rec"].report["epochs"]
    history = client.get_metric_history(latest.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(e["number"], pytest.approx(e["loss"])) for e in epochs]


def test_tracking_is_in_no_key(made):
    context = opened(str(made / "tiny.yaml"), ("tracking=[]",), made / "artifacts")
    for stage in ("train-llm", "train-rec"):
        assert not plan(context, targets(context.recipe, stage))[-1].runs


def test_a_run_that_fails_is_told_so(made):
    with pytest.raises(Exception, match="loss"):
        run_stage("train-rec", str(made / "tiny.yaml"), ("rec.fit.learning_rate=1e30", "rec.fit.epochs=9"),
                  made / "artifacts", False, (), None)  # fmt: skip
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{made / 'artifacts/tracking/mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("tiny").experiment_id], "attributes.status = 'FAILED'")
    assert len(runs) <= 1  # none where not even the first epoch ended
    assert mlflow.active_run() is None


def test_a_tracker_that_is_not_installed_is_told_before_any_work(made, tmp_path, monkeypatch):
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else there(name, *a))
    with refused("package-missing", PackageError, names="wandb"):
        run_stage("train-rec", str(made / "tiny.yaml"), ("tracking=[wandb]",), tmp_path / "artifacts", False, (), None)
    assert not list(tmp_path.rglob("manifest.json"))
