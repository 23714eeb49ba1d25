"""Kills at random moments, flipped bytes, several processes at once: the end is that of an undisturbed run.

LLMCF_KILLS and LLMCF_FORCED_KILLS say how many kills (`make faults` takes 50 and 20).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from damage import flipped, flips_are_found

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.run import examined, plan
from llmcf_cli.stages.pipeline import open_context, run_steps
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.store.artifacts import ArtifactStore
from llmcf_cli.store.open import connect_read

RECIPE = """\
extends: base.yaml
name: faults
rec:
  backbone: {type: deepfm, embedding_dim: 4, hidden: [8]}
  augment: none
  objectives: [bce]
  fit: {epochs: 3, batch_size: 64}
  baselines: [popularity]
  seeds: [1, 2]
"""
KILLS, FORCED_KILLS = int(os.environ.get("LLMCF_KILLS", "5")), int(os.environ.get("LLMCF_FORCED_KILLS", "5"))
FORCED = ["ingest", "train-rec", "evaluate"]


@pytest.fixture(scope="module")
def folder(write_ratings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    write_ratings(folder, users=24, items=16)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def runner(folder):
    """What runs the recipe in a fork; arguments as `forked_runs.py` says."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("forked_runs.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def run(artifacts: Path, **asked) -> dict:
            process.stdin.write(json.dumps({"folder": str(folder), "artifacts": str(artifacts), **asked}) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture(scope="module")
def whole(runner, folder):
    """Artifacts of an undisturbed run, and the seconds that it took."""
    answer = runner(folder / "whole")
    assert answer["status"] == [0]
    return folder / "whole", answer["seconds"]


def steps_of(folder: Path, artifacts: Path, *changes: str, force=()):
    context = open_context(load_recipe(folder / "recipe.yaml", changes), artifacts)
    return context, plan(context, [Evaluate()], force)


def run_here(folder: Path, artifacts: Path, *changes: str, force=()):
    context, steps = steps_of(folder, artifacts, *changes, force=force)
    return run_steps(
        context, steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None,
        on_failure=lambda step, error: None,
    )  # fmt: skip


def content(folder: Path, artifacts: Path) -> dict[str, object]:
    """All that a run gives, without times: digests of files that are the same each time, and rows of the others."""
    found: dict[str, object] = {}
    for step in steps_of(folder, artifacts)[1]:
        manifest = ArtifactStore(artifacts).manifest(step.node.stage.name, step.node.key)
        assert manifest is not None, step.node.label
        for name, record in manifest.files.items():
            if name.endswith((".parquet", ".safetensors", "vocab.json", "bundle.json")):
                found[f"{step.node.label}/{name}"] = record.sha256
        if step.node.stage.name == "ingest":
            with connect_read(step.node.folder / "data.duckdb") as connection:
                found["samples"] = connection.sql("SELECT * FROM sample ORDER BY sample_id").fetchall()
    return found


def nothing_is_half_there(folder: Path, artifacts: Path, allowed: set[str]) -> None:
    """Every artifact is whole or absent; those that are not allowed to be absent are there."""
    for step in steps_of(folder, artifacts)[1]:
        found = ArtifactStore(artifacts).examine(step.node.stage.name, step.node.key)
        assert not found.faults, (step.node.label, found.damage)
        assert found.whole or step.node.label in allowed, step.node.label


def test_kills_at_random_moments_of_a_run_change_nothing(runner, whole, folder, tmp_path):
    reference, seconds = whole
    labels, chance, landed = {step.node.label for step in steps_of(folder, reference)[1]}, random.Random(1), 0
    artifacts = tmp_path / "artifacts"
    while landed < KILLS:  # one run meets several kills, until it ends before the next; then another begins
        status = runner(artifacts, kill_after=chance.uniform(0, seconds))["status"]
        assert status in ([-9], [0])
        landed += status == [-9]
        if status == [0]:
            assert content(folder, artifacts) == content(folder, reference)
            shutil.rmtree(artifacts)
        else:
            nothing_is_half_there(folder, artifacts, allowed=labels)
    assert runner(artifacts)["status"] == [0]
    assert content(folder, artifacts) == content(folder, reference)
    assert not list(artifacts.glob("*/.partial/*/old"))


def test_kills_while_all_is_made_again_leave_the_old_or_the_new(runner, whole, folder, tmp_path):
    reference, _ = whole
    artifacts, chance, landed = tmp_path / "artifacts", random.Random(2), 0
    shutil.copytree(reference, artifacts)
    seconds = runner(artifacts, force=FORCED)["seconds"]
    for _ in range(FORCED_KILLS):
        answer = runner(artifacts, force=FORCED, kill_after=chance.uniform(0, 1.1 * seconds))
        landed += answer["status"] == [-9]
        nothing_is_half_there(folder, artifacts, allowed=set())
        assert all(not step.runs for step in examined(steps_of(folder, artifacts)[1]))
    assert landed >= FORCED_KILLS // 3
    assert content(folder, artifacts) == content(folder, reference)


def test_two_processes_at_once_end_as_one_does(runner, whole, folder, tmp_path):
    for _ in range(3):
        status = runner(tmp_path / "artifacts", together=2)["status"]
        assert set(status) <= {0, 6}  # 6: the other one is making it
        if set(status) == {0}:
            break
    nothing_is_half_there(folder, tmp_path / "artifacts", allowed={s.node.label for s in steps_of(folder, tmp_path)[1]})
    assert runner(tmp_path / "artifacts")["status"] == [0]
    assert content(folder, tmp_path / "artifacts") == content(folder, whole[0])
    assert set(runner(tmp_path / "artifacts", together=2, force=FORCED)["status"]) <= {0, 6}
    nothing_is_half_there(folder, tmp_path / "artifacts", allowed=set())
    assert content(folder, tmp_path / "artifacts") == content(folder, whole[0])


def test_flips_in_every_artifact_are_found(whole, folder, tmp_path):
    shutil.copytree(whole[0], tmp_path / "artifacts")
    store, chance = ArtifactStore(tmp_path / "artifacts"), random.Random(3)
    for step in steps_of(folder, store.root)[1]:
        flips_are_found(store, step.node.stage.name, step.node.key, chance)


def test_a_flipped_input_is_made_again_before_it_is_read(whole, folder, tmp_path):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(whole[0], artifacts)
    ingest = next(step.node for step in steps_of(folder, artifacts)[1] if step.node.stage.name == "ingest")
    flipped(ingest.folder / "data.duckdb", random.Random(4))
    shutil.rmtree(artifacts / "evaluate")
    steps = run_here(folder, artifacts)
    assert {step.node.stage.name for step in steps if step.runs} == {"ingest", "evaluate"}
    assert "data.duckdb" in next(step.reason for step in steps if step.node.stage.name == "ingest")
    assert content(folder, artifacts) == content(folder, whole[0])


def test_a_forced_comparison_that_fails_is_a_failure(whole, folder, tmp_path, monkeypatch):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(whole[0], artifacts)
    before = content(folder, artifacts)

    def fail(self, job):
        raise LlmcfError("cannot compare")

    monkeypatch.setattr(Evaluate, "run", fail)
    with pytest.raises(LlmcfError, match="cannot compare"):
        run_here(folder, artifacts, force=["evaluate"])
    assert content(folder, artifacts) == before
    shutil.rmtree(artifacts / "evaluate")
    with pytest.raises(LlmcfError, match="cannot compare"):
        run_here(folder, artifacts)


def test_verify_names_what_is_damaged(whole, folder, tmp_path):
    artifacts = tmp_path / "artifacts"
    shutil.copytree(whole[0], artifacts)

    def verify(*recipe: str) -> subprocess.CompletedProcess:
        return commands.llmcf("verify", *recipe, "--artifacts", artifacts, COLUMNS="200")

    whole_again = verify(str(folder / "recipe.yaml"))
    assert whole_again.returncode == 0, whole_again.stdout + whole_again.stderr
    flipped(next(artifacts.glob("ingest/*/data.duckdb")), random.Random(5))
    manifest = next(artifacts.glob("evaluate/*/manifest.json"))
    manifest.write_bytes(manifest.read_bytes()[:100])
    for recipe in ((), (str(folder / "recipe.yaml"),)):
        done = verify(*recipe)
        assert (done.returncode, done.stderr.count("Traceback")) == (1, 0)
        assert done.stdout.count("damaged: ") == 2
    run_here(folder, artifacts)  # what verify says to do
    assert verify(str(folder / "recipe.yaml")).returncode == 0
    assert content(folder, artifacts) == content(folder, whole[0])
