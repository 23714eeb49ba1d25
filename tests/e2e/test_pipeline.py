"""The whole pipeline on a slice of MovieLens-100K with the real encoder and the real language model, at toy length."""

import json
import random
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from damage import flips_are_found

from llmcf_cli.store.artifacts import ArtifactStore, read_manifest
from llmcf_cli.store.open import connect_read

USERS = 120

RECIPE = """\
extends: quickstart
name: slice
dataset:
  source: {{type: recbole, path: {data}, multi: [class]}}
llm:
  count: 12
  tune: {{type: full, max_length: 128, batch_size: 2, max_steps: 2}}
cot:
  sample: {{count: 24, balance: labels}}
  engine: {{type: transformers, max_new_tokens: 12, temperature: 0.6}}
rec:
  fit: {{epochs: 2, batch_size: 256}}
"""


def llmcf(*arguments: str, cwd: Path) -> str:
    done = commands.llmcf(*arguments, cwd=cwd, COLUMNS="200")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_slice(source: Path, target: Path) -> None:
    """The first users of MovieLens-100K, as RecBole files."""
    target.mkdir()
    for kind in ("inter", "item", "user"):
        lines = (source / f"ml-100k.{kind}").read_text().splitlines(keepends=True)
        if kind != "item":
            lines = [lines[0], *(line for line in lines[1:] if int(line.split("\t")[0]) <= USERS)]
        (target / f"slice.{kind}").write_text("".join(lines))


@pytest.fixture(scope="module")
def workplace(assets, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    for name in ("smollm2-135m-instruct", "minilm-l6-v2"):
        assets.path(f"asset:{name}")
    write_slice(assets.path("asset:movielens-100k"), folder / "data")
    (folder / "slice.yaml").write_text(RECIPE.format(data="data"))
    (folder / "run.txt").write_text(llmcf("run", "slice.yaml", cwd=folder))
    return folder


def artifact(workplace: Path, stage: str, variant: str = "") -> tuple[Path, dict]:
    for path in sorted((workplace / "artifacts" / stage).glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        if manifest["variant"].startswith(variant):
            return path.parent, manifest
    raise AssertionError(f"no artifact of {stage} {variant}")


def test_a_run_ends_with_the_comparison_and_the_next_command(workplace):
    text = (workplace / "run.txt").read_text()
    for word in ("none", "text", "ict", "AUC", "logloss", "gAUC", "s/epoch", "next: llmcf"):
        assert word in text


def test_the_printed_metrics_are_those_of_the_stored_predictions(workplace):
    from sklearn.metrics import log_loss, roc_auc_score

    folder, manifest = artifact(workplace, "evaluate")
    for arm in manifest["report"]["arms"]:
        rows = pq.read_table(folder / "predictions" / f"{arm['arm']}-seed2024.parquet")
        label, logit = rows["label"].to_numpy(), rows["logit"].to_numpy().astype(np.float64)
        assert set(rows["split"].to_pylist()) == {"test"}
        assert arm["measures"]["auc"]["mean"] == pytest.approx(roc_auc_score(label, logit), abs=1e-9)
        assert arm["measures"]["logloss"]["mean"] == pytest.approx(log_loss(label, 1 / (1 + np.exp(-logit))), abs=1e-6)


def test_tables_and_plots_are_saved(workplace):
    folder, _ = artifact(workplace, "evaluate")
    for name in ("comparison.md", "comparison.json", "comparison.png", "comparison.html", "metric.parquet"):
        assert (folder / name).stat().st_size > 100, name


def test_flips_in_every_kind_of_artifact_are_found(workplace):
    store, chance = ArtifactStore(workplace / "artifacts"), random.Random(6)
    made = {found.stage: found.key for found in map(read_manifest, store.root.glob("*/*/manifest.json"))}
    assert {"ingest", "train-llm", "gen-cot", "embed", "examples", "match", "train-rec", "predict"} <= set(made)
    for stage, key in made.items():
        flips_are_found(store, stage, key, chance)


def test_a_second_run_repeats_nothing(workplace):
    command = [sys.executable, "-m", "llmcf_cli", "run", "slice.yaml"]  # a process with other hashes of texts
    done = subprocess.run(command, capture_output=True, text=True, cwd=workplace, check=True)
    assert "every stage is cached" in done.stdout
    assert "to run" not in llmcf("status", "slice.yaml", cwd=workplace)


def test_a_changed_k_reruns_matching_and_what_reads_it(workplace):
    plan = llmcf("run", "slice.yaml", "--set", "match.k=2", "--dry-run", cwd=workplace)
    reasons = {line.split()[0]: line for line in plan.splitlines()}
    assert "match.k 4 → 2" in reasons["match"]
    for stage in ("ingest", "train-llm", "gen-cot", "embed", "train-rec[none", "train-rec[text"):
        assert "cached" in reasons[stage], plan


def test_matches_pass_the_audit(workplace):
    _, manifest = artifact(workplace, "match")
    assert manifest["report"]["audit"]["violations"] is not None
    assert sum(kind["count"] for kind in manifest["report"]["audit"]["violations"]) == 0


def test_only_train_samples_have_a_chain_of_thought(workplace):
    ingest, _ = artifact(workplace, "ingest")
    cot, _ = artifact(workplace, "gen-cot")
    with connect_read(ingest / "data.duckdb") as connection:
        splits = connection.execute(
            "SELECT DISTINCT split FROM sample JOIN read_parquet(?) USING (sample_id)", [str(cot / "cot.parquet")]
        ).fetchall()
    assert splits == [("train",)]


@pytest.mark.parametrize("arm", ["none", "text", "ict"])
def test_the_scorer_replays_offline_logits(workplace, arm):
    """Serving from the bundle alone gives what evaluation computed, on 100 test rows."""
    from llmcf_cli.serve.scorer import Scorer

    ingest, _ = artifact(workplace, "ingest")
    bundle, _ = artifact(workplace, "train-rec", arm)
    evaluation, _ = artifact(workplace, "evaluate")
    offline = evaluation / "predictions" / f"{arm}-seed2024.parquet"
    with connect_read(ingest / "data.duckdb") as connection:
        rows = connection.sql(
            """
            WITH ids AS (SELECT list(item_id ORDER BY item_row) AS by_row FROM item)
            SELECT u.user_id, i.item_id, make_timestamptz(s.time) AS time, p.logit,
                   list_transform(s.history, lambda h: ids.by_row[h]) AS history
            FROM sample s JOIN "user" u USING (user_row) JOIN item i USING (item_row)
                 JOIN read_parquet(?) p ON p.sample_id = s.sample_id, ids
            ORDER BY hash(s.sample_id) LIMIT 100
            """,
            params=[str(offline)],
        ).to_arrow_table()
    assert rows.num_rows == 100
    scores = Scorer.load(bundle / "bundle").score(rows.drop_columns(["logit"]))
    np.testing.assert_allclose(scores["logit"].to_numpy(), rows["logit"].to_numpy(), atol=1e-5)


def test_the_lock_names_contents_and_keys(workplace):
    llmcf("recipe", "lock", "slice.yaml", cwd=workplace)
    lock = yaml.safe_load((workplace / "slice.lock.yaml").read_text())
    assert {"asset:smollm2-135m-instruct", "asset:minilm-l6-v2", "data"} <= set(lock["contents"])
    _, manifest = artifact(workplace, "evaluate")
    assert lock["stages"]["evaluate"] == manifest["key"]
    assert "within its tolerance" in llmcf("recipe", "verify", "slice.lock.yaml", cwd=workplace)


def test_scoring_from_the_command_line(workplace):
    bundle, _ = artifact(workplace, "train-rec", "ict")
    requests = workplace / "requests.jsonl"
    rows = [{"user_id": "1", "item_id": "50", "history": ["1", "7"]}, {"user_id": "new", "item_id": "1"}]
    requests.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = llmcf("score", str(bundle / "bundle"), str(requests), "--out", "scores.parquet", cwd=workplace)
    assert "probability" in text
    assert "1 of 2 requests have users that the bundle does not know (1 different, e.g. 'new')" in text
    found = pq.read_table(workplace / "scores.parquet")
    assert found["user_id"].to_pylist() == ["1", "new"]
    assert all(0 < p < 1 for p in found["probability"].to_pylist())
