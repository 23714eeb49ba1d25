"""`llmcf train-llm --launch`: two processes on the CPU tune a tiny model; the rest does not notice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import pytest

RECIPE = """\
name: launched
seed: 1
dataset:
  source: {type: csv, interactions: events.csv, items: items.csv,
           columns: {user: user, item: item, rating: rating, time: time}}
  label: {type: rating, positive_from: 4}
  split: {type: global_time, validation: 0.1, test: 0.1}
llm:
  model: model
  mix: [{source: recommendation, share: 1}]
  count: 40
  tune: {type: full, max_length: 512, batch_size: 4, gradient_accumulation: 2, learning_rate: 0.001, precision: fp32}
cot: {prompt: prompts/single.yaml, sample: {count: 4}, engine: transformers}
match: {space: {type: text, encoder: "asset:minilm-l6-v2"}}
rec: {backbone: deepfm}
"""


def llmcf(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(sys.path)  # for the processes that it starts
    return commands.llmcf(*arguments, cwd=cwd, COLUMNS="200", PYTHONPATH=path)


@pytest.fixture
def folder(tmp_path: Path, write_ratings) -> Path:
    write_ratings(tmp_path, users=12, items=20)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.slow
def test_two_processes_tune_as_one_does(folder: Path) -> None:
    reports = []
    for artifacts, launch in (("one", []), ("two", ["--launch", "cpu"])):
        done = llmcf("train-llm", "recipe.yaml", "--artifacts", artifacts, *launch, cwd=folder)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "million parameters" in done.stdout
        assert "GB free" in done.stdout
        (manifest,) = (folder / artifacts / "train-llm").glob("*/manifest.json")
        reports.append((manifest.parent.name, json.loads(manifest.read_text())["report"]["tune"]))
    (key, one), (same_key, two) = reports
    assert key == same_key, "how a model is tuned is no part of what it is"
    assert (one["processes"], two["processes"]) == (1, 2)
    assert [loss for _, loss in two["loss"]] == pytest.approx([loss for _, loss in one["loss"]], rel=1e-4)


def test_wrong_configurations_are_one_message(folder: Path) -> None:
    done = llmcf("train-llm", "recipe.yaml", "--launch", "dpp", cwd=folder)
    assert done.returncode == 2
    assert 'did you mean "ddp"?' in done.stderr
    (folder / "other.yaml").write_text("a: 1")
    done = llmcf("train-llm", "recipe.yaml", "--launch", "other.yaml", cwd=folder)
    assert done.returncode == 1
    assert "not a configuration of accelerate" in done.stderr
    assert "Traceback" not in done.stderr
