"""A task that the package does not know: a drop-in plugin predicts ratings, from ingest to comparison and serving."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import mean_absolute_error, mean_squared_error

from llmcf_cli.store.open import connect_read

PLUGINS = Path(__file__).parents[1] / "plugins"
RECIPE = """\
extends: base.yaml
name: rated
rec:
  task: rating
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
  augment: ict
  objectives: [squared_error, cot_reconstruction]
  fit: {epochs: 3, batch_size: 128, learning_rate: 0.01}
  compare: [none, text, ict]
  variants: [{name: random examples, set: {match.search: random}}]
  baselines: [item_mean]
  seeds: [1, 2]
search:
  trials: 2
  space: {rec.fit.learning_rate: {low: 1.0e-3, high: 5.0e-2, log: true}}
"""
ARMS = ["item_mean", "none", "text", "ict", "random examples"]


def llmcf(folder: Path, *words: str, code: int = 0) -> str:
    """What a command prints with the plugin."""
    done = commands.llmcf(*words, cwd=folder, LLMCF_PLUGINS=str(PLUGINS), COLUMNS="200")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(assets, write_ratings, tmp_path_factory) -> Path:
    """Recipe and data."""
    assets.path("asset:minilm-l6-v2")
    folder = tmp_path_factory.mktemp("rated")
    write_ratings(folder, users=60, items=30)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def printed(folder) -> str:
    """What the run prints."""
    return llmcf(folder, "run", "recipe.yaml")


@pytest.fixture(scope="module")
def evaluated(folder, printed) -> Path:
    """Folder of the comparison."""
    (found,) = (folder / "artifacts" / "evaluate").glob("[!.]*")
    return found


def errors(evaluated: Path, arm: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rows = pq.read_table(evaluated / "predictions" / f"{arm}-seed{seed}.parquet")
    return rows["rating"].to_numpy(), rows["predicted"].to_numpy()


def test_the_comparison_is_of_the_tasks_own_measures(printed, evaluated):
    report = json.loads((evaluated / "comparison.json").read_text())
    assert [arm["arm"] for arm in report["arms"]] == ARMS
    assert [measure["name"] for measure in report["measures"]] == ["rmse", "mae"]
    for arm in report["arms"]:
        found = [errors(evaluated, arm["arm"], seed) for seed in ([1] if arm["arm"] == "item_mean" else [1, 2])]
        rmse = np.mean([np.sqrt(mean_squared_error(*pair)) for pair in found])
        assert arm["measures"]["rmse"]["mean"] == pytest.approx(rmse)
        assert arm["measures"]["mae"]["mean"] == pytest.approx(np.mean([mean_absolute_error(*pair) for pair in found]))
        assert arm["relative_improvement"] is None  # there is no chance level
    assert "of 3: validation RMSE" in printed
    shown = (evaluated / "comparison.md").read_text() + printed.partition("▶ evaluate")[2]
    assert "RMSE (stars) ↓" in shown
    assert "AUC" not in shown


def test_differences_are_tested_by_the_measures_paired_test(evaluated):
    report = json.loads((evaluated / "comparison.json").read_text())
    found = next(d for d in report["differences"] if (d["reference"], d["arm"]) == ("none", "ict"))
    rating, _ = errors(evaluated, "none", 1)
    pooled = [np.mean([errors(evaluated, arm, seed)[1] for seed in (1, 2)], axis=0) for arm in ("none", "ict")]
    first, second = (np.square(one.astype(np.float64) - rating) for one in pooled)
    assert found["difference"] == pytest.approx(np.sqrt(second.mean()) - np.sqrt(first.mean()))
    other = bootstrap(
        (first, second), lambda a, b, axis: np.sqrt(b.mean(axis)) - np.sqrt(a.mean(axis)), paired=True,
        vectorized=True, n_resamples=4000, method="percentile", rng=np.random.default_rng(0),
    )  # fmt: skip
    assert found["standard_error"] == pytest.approx(other.standard_error, rel=0.1)
    assert found["interval"] == pytest.approx(list(other.confidence_interval), abs=0.3 * other.standard_error)


def test_the_target_is_the_rating_of_the_interaction(folder, evaluated):
    (database,) = (folder / "artifacts" / "ingest").glob("[!.]*/data.duckdb")
    stored = pq.read_table(evaluated / "predictions" / "none-seed1.parquet")
    with connect_read(database) as connection:
        connection.register("stored", stored.select(["user_id", "item_id", "rating"]))
        ((wrong,),) = connection.sql(
            'SELECT count(*) FROM stored p JOIN "user" u USING (user_id) JOIN item i USING (item_id) '
            "JOIN interaction x USING (user_row, item_row) WHERE x.rating <> p.rating"
        ).fetchall()
    assert wrong == 0
    assert len(set(stored["rating"].to_pylist())) == 5


def test_less_is_better_in_training_search_and_choice(folder, evaluated):
    report = json.loads((evaluated / "comparison.json").read_text())
    validation = {arm["arm"]: arm["validation"]["mean"] for arm in report["arms"] if arm["arm"] != "item_mean"}
    assert report["served"]["arm"] == min(validation, key=validation.get)
    for manifest in (folder / "artifacts" / "train-rec").glob("[!.]*/manifest.json"):
        found = json.loads(manifest.read_text())["report"]
        values = [epoch["validation"]["rmse"] for epoch in found["epochs"]]
        assert found["best"]["rmse"] == min(values)
    for trials in (folder / "artifacts" / "search").glob("[!.]*/trials.json"):
        best = json.loads((trials.parent / "best.json").read_text())
        assert best == min(json.loads(trials.read_text()), key=lambda trial: trial["value"])["settings"]


def test_audit_and_serving_answer_in_the_tasks_terms(folder, evaluated):
    told = llmcf(folder, "audit", "recipe.yaml")
    assert "Test RMSE with random examples" in told
    served = json.loads((evaluated / "comparison.json").read_text())["served"]
    stored = pq.read_table(evaluated / "predictions" / f"{served['arm']}-seed{served['seed']}.parquet")
    asked = pa.table({"user_id": stored["user_id"], "item_id": stored["item_id"]}).slice(0, 5)
    pyarrow.csv.write_csv(asked, folder / "asked.csv")
    llmcf(folder, "score", served["bundle"], "asked.csv", "--out", "scores.parquet")
    scores = pq.read_table(folder / "scores.parquet")
    assert scores.column_names == ["user_id", "item_id", "predicted"]
    assert np.isfinite(scores["predicted"].to_numpy()).all()


@pytest.mark.parametrize(
    ("change", "at"),
    [("rec.objectives=[bce]", "rec.objectives.0"), ("rec.baselines=[gbm]", "rec.baselines.0"),
     ("rec.fit.monitor=auc", "rec.fit.monitor")],
)  # fmt: skip
def test_what_is_for_another_target_is_refused(folder, change, at):
    told = llmcf(folder, "recipe", "validate", "recipe.yaml", "--set", change, code=2)
    assert at in told


def test_arms_of_a_comparison_have_one_task(folder):
    variant = "rec.variants=[{name: other, set: {rec.task: ranking, rec.objectives: [bce], rec.baselines: []}}]"
    told = llmcf(folder, "recipe", "validate", "recipe.yaml", "--set", variant, code=2)
    assert "the same task" in told
