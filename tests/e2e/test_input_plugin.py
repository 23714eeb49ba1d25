"""An input that the package does not know, from the recipe to scores: a drop-in plugin brings it and its augmenter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pyarrow.parquet as pq
import pytest

PLUGINS = Path(__file__).parents[1] / "plugins"
RECIPE = """\
extends: base.yaml
name: recent
rec:
  backbone: {type: deepfm, embedding_dim: 4, hidden: [8]}
  fit: {epochs: 2, batch_size: 128, learning_rate: 0.01}
  compare: [none, recency]
serve: {arm: recency}
"""


def llmcf(folder: Path, *words: str) -> str:
    """What a command prints with the plugin."""
    done = commands.llmcf(*words, cwd=folder, LLMCF_PLUGINS=str(PLUGINS), COLUMNS="200")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(write_ratings, tmp_path_factory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("recent")
    write_ratings(folder, users=40, items=20)
    (folder / "recipe.yaml").write_text(RECIPE)
    llmcf(folder, "run", "recipe.yaml")
    return folder


def test_only_ingest_is_read_and_no_language_model_is_tuned(folder):
    made = {path.name for path in (folder / "artifacts").iterdir() if path.name not in ("cache", "report", "runs")}
    assert made == {"ingest", "train-rec", "predict", "evaluate"}


def test_served_scores_are_those_of_the_run(folder, offline_requests):
    (evaluated,) = (folder / "artifacts" / "evaluate").glob("[!.]*")
    (ingest,) = (folder / "artifacts" / "ingest").glob("[!.]*")
    report = json.loads((evaluated / "comparison.json").read_text())
    assert [arm["arm"] for arm in report["arms"]] == ["none", "recency"]
    stored = evaluated / "predictions" / f"recency-seed{report['served']['seed']}.parquet"
    asked = offline_requests(ingest / "data.duckdb", stored)
    pq.write_table(asked.drop_columns(["logit"]), folder / "asked.parquet")
    llmcf(folder, "score", report["served"]["bundle"], "asked.parquet", "--out", "scores.parquet")
    found = pq.read_table(folder / "scores.parquet")["logit"].to_numpy()
    np.testing.assert_allclose(found, asked["logit"].to_numpy(), atol=1e-5)


def test_the_contract_tests_check_a_plugin_too():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contracts/test_inputs.py",
         "tests/contracts/test_rec_components.py", "-k", "recency and (test_inputs or deepfm)"],
        cwd=PLUGINS.parents[1], text=True, capture_output=True, env={**os.environ, "LLMCF_PLUGINS": str(PLUGINS)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split(" passed")[0].split()[-1]) > 15
