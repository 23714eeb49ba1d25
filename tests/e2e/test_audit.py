"""`llmcf audit` and `llmcf match show` on a whole comparison: clean, leaking on purpose, and tampered with."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import refused
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.cli.console import console
from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.store.artifacts import MANIFEST, read_manifest, write_manifest
from llmcf_cli.store.integrity import file_records
from llmcf_cli.store.open import connect_read
from llmcf_cli.store.tables import example_match

RECIPE = """\
extends: base.yaml
name: audited
match:
  max_per_user: 2
  distinct_items: true
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
  augment: ict
  fit: {epochs: 1, batch_size: 256}
  compare: [none, mean, ict]
  variants:
    - {name: random ict, set: {match.search: random}}
    - {name: leaking, set: {match.exclude: reference}}
  seeds: [1]
"""


@pytest.fixture(scope="module")
def folder(assets, write_ratings, tmp_path_factory) -> Path:
    """A finished run."""
    assets.path("asset:minilm-l6-v2")
    folder = tmp_path_factory.mktemp("audited")
    write_ratings(folder, users=40, items=30)
    (folder / "recipe.yaml").write_text(RECIPE)
    done = invoke(app, "run", folder / "recipe.yaml", "--artifacts", folder / "artifacts")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture(scope="module")
def audited(folder):
    """The audit of the run and what it saved."""
    done = invoke(app, "audit", folder / "recipe.yaml", "--artifacts", folder / "artifacts", "--out", folder / "out")
    assert done.exit_code == 0, done.output
    return done.output, json.loads((folder / "out" / "audit.json").read_text())


def invoke(command, *arguments):
    console.cache_clear()  # it keeps the stream and width that it was made with
    try:
        return CliRunner().invoke(command, list(map(str, arguments)), env={"COLUMNS": "200"}, catch_exceptions=False)
    finally:
        console.cache_clear()


def show(folder, *arguments):
    return invoke(app, "match", "show", folder / "recipe.yaml", "--artifacts", folder / "artifacts", *arguments)


def match_of(folder: Path, arm: str) -> Path:
    audit = json.loads((folder / "out" / "audit.json").read_text())
    return next(Path(match["folder"]) for match in audit["matches"] if arm in match["arms"])


def test_every_distinct_match_is_audited_once_with_the_arms_that_read_it(audited):
    _, audit = audited
    assert sorted(match["arms"] for match in audit["matches"]) == [["leaking"], ["mean", "ict"], ["random ict"]]
    assert [match["broken"] for match in audit["matches"]] == [0, 0, 0]
    for match in audit["matches"]:
        kinds = {violation["kind"] for violation in match["violations"]}
        assert {"crowded_user", "repeated_item", "label_imbalance", "future"} <= kinds


def test_leaks_on_purpose_are_named_and_do_not_fail_the_audit(audited):
    output, audit = audited
    assert "LEAKS ON PURPOSE" in output
    leaking = next(match for match in audit["matches"] if match["arms"] == ["leaking"])
    assert leaking["leaks_on_purpose"]
    assert leaking["leaks"] == leaking["total"] > 0
    assert sum(match["leaks_on_purpose"] for match in audit["matches"]) == 1


def test_histograms_are_printed_and_saved(folder, audited):
    output, audit = audited
    assert output.count("similarity of samples and examples") == 2  # not of the random ones
    assert "█" * 40 in output
    for match in audit["matches"]:
        assert sum(count for _, _, count in match["histogram"]) == round(
            match["samples"] * match["k"] * (1 - match["padding_share"])
        )
    assert (folder / "out" / "similarity.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = (folder / "out" / "similarity.html").read_text()
    assert "mean, ict" in page
    assert "leaking" in page


def test_auc_moves_by_the_arm_with_random_examples_or_by_scoring_again(folder, audited):
    _, audit = audited
    effects = {effect["arm"]: effect for effect in audit["chance"]}
    assert set(effects) == {"ict", "mean", "leaking"}
    assert effects["ict"]["how"] == "trained with random examples: random ict"
    assert effects["mean"]["how"] == effects["leaking"]["how"] == "the same model, given random examples"
    (evaluated,) = (folder / "artifacts" / "evaluate").glob("[!.]*")
    for arm, other in (("ict", "random ict"), ("mean", None), ("leaking", None)):
        rows = pq.read_table(evaluated / "predictions" / f"{arm}-seed1.parquet")
        label = rows["label"].to_numpy()
        assert effects[arm]["value"] == pytest.approx(roc_auc_score(label, rows["logit"].to_numpy()))
        if other:
            logit = pq.read_table(evaluated / "predictions" / f"{other}-seed1.parquet")["logit"].to_numpy()
            assert effects[arm]["random_value"] == pytest.approx(roc_auc_score(label, logit))
        difference = effects[arm]["difference"]["difference"]
        assert difference == pytest.approx(effects[arm]["random_value"] - effects[arm]["value"])
        low, high = effects[arm]["difference"]["interval"]
        assert low <= difference <= high
    assert effects["mean"]["random_value"] != effects["mean"]["value"]


def test_folders_of_artifacts_are_runs_too(folder, audited):
    _, audit = audited
    (evaluated,) = (folder / "artifacts" / "evaluate").glob("[!.]*")
    done = invoke(app, "audit", evaluated, "--no-chance", "--out", folder / "again")
    assert done.exit_code == 0, done.output
    again = json.loads((folder / "again" / "audit.json").read_text())
    assert sorted(m["match"] for m in again["matches"]) == sorted(m["match"] for m in audit["matches"])
    done = invoke(app, "audit", match_of(folder, "ict"))
    assert done.exit_code == 0, done.output
    assert "no predictions to compare" in done.output
    assert "no violations in 1 match artifact" in done.output


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("own_row", lambda sample, examples: [sample]),
        ("duplicate", lambda sample, examples: [examples[0], examples[0]]),
        ("unknown_example", lambda sample, examples: [10**9]),
        ("repeated_item", None),
    ],
)
def test_a_planted_violation_fails_the_audit_by_its_kind(folder, audited, tmp_path, kind, plant):
    root = tmp_path / "artifacts"
    shutil.copytree(folder / "artifacts", root, ignore=shutil.ignore_patterns("train-*", "predict", "cache"))
    file = root / "match" / match_of(folder, "ict").name / "example_match.parquet"
    table = pq.read_table(file).to_pydict()
    row = int(np.argmax(table["sample_id"]))
    if plant:
        ids = plant(table["sample_id"][row], table["example_sample_id"][row])
    else:
        with connect_read(next((root / "ingest").glob("[!.]*")) / "data.duckdb") as connection:
            ids = connection.execute(
                "SELECT list(sample_id) FROM (SELECT sample_id, item_row, label FROM sample WHERE split = 'train') "
                "GROUP BY item_row HAVING count(*) > 1 LIMIT 1"
            ).fetchall()[0][0][:2]
    table["example_sample_id"][row] = ids + [-1] * (4 - len(ids))
    table["score"][row] = [0.5] * len(ids) + [0.0] * (4 - len(ids))
    pq.write_table(pa.table(table, schema=example_match(4).schema), file)
    with pytest.raises(StoreError, match=r"example_match\.parquet"):  # what was changed later is told before that
        invoke(app, "audit", file.parent, "--out", tmp_path / "out")
    made = read_manifest(file.with_name(MANIFEST))
    files = {file.name: file_records(file.parent)[file.name]}
    write_manifest(made.model_copy(update={"files": files}), file.with_name(MANIFEST))  # as a faulty search would
    done = invoke(app, "audit", file.parent, "--out", tmp_path / "out")
    assert done.exit_code == 1, done.output
    assert re.search(rf"{kind} +1 ", done.output)
    assert "violations; details" in done.output


def test_what_cannot_be_audited_is_one_message(folder, audited, tmp_path):
    with refused("artifact-unusable", LlmcfError):
        invoke(app, "audit", tmp_path)
    (ingest,) = (folder / "artifacts" / "ingest").glob("[!.]*")
    with refused("audit-nothing", LlmcfError):
        invoke(app, "audit", ingest)
    with refused("not-made", LlmcfError):
        invoke(app, "audit", folder / "recipe.yaml", "--artifacts", tmp_path)
    alone = ["rec.augment=none", "rec.compare=[]", "rec.variants=[]", "rec.references=[]"]
    with refused("not-made", LlmcfError):
        invoke(app, "audit", folder / "recipe.yaml", "--artifacts", tmp_path, *(f"--set={a}" for a in alone))


def test_show_prints_the_query_and_its_examples_with_texts_and_parts_of_scores(folder, audited):
    (database,) = (folder / "artifacts" / "ingest").glob("*/data.duckdb")
    with connect_read(database) as connection:
        sample, user, item, label = connection.execute(
            'SELECT sample_id, user_id, item_id, label FROM sample JOIN "user" USING (user_row) '
            "JOIN item USING (item_row) WHERE split = 'test' AND len(history) > 0 ORDER BY sample_id LIMIT 1"
        ).fetchall()[0]
    done = show(folder, "--user", user, "--item", item)
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"sample {sample} (test): user {user}, item {item} ")
    assert f"label {'yes (1)' if label else 'no (0)'}" in done.output
    assert "history, oldest first: " in done.output
    table = pq.read_table(match_of(folder, "ict") / "example_match.parquet").to_pydict()
    row = table["sample_id"].index(sample)
    want = [(e, s) for e, s in zip(table["example_sample_id"][row], table["score"][row], strict=True) if e != -1]
    assert re.findall(r"example \d: sample (\d+) \(train\)", done.output) == [str(e) for e, _ in want]
    parts = re.findall(r"score (\S+); likeness (\S+) = history (\S+) \+ item (\S+)", done.output)
    for (_, score), (shown, total, history, of_item) in zip(want, parts, strict=True):
        assert float(shown) == pytest.approx(score, abs=1e-4)
        assert float(total) == pytest.approx(score, abs=1e-4)
        assert float(history) + float(of_item) == pytest.approx(score, abs=2e-4)
    (cots,) = (folder / "artifacts" / "gen-cot").glob("*/cot.parquet")
    texts = dict(zip(*pq.read_table(cots, columns=["sample_id", "text"]).to_pydict().values(), strict=True))
    flat = " ".join(done.output.split())
    assert all(" ".join(texts[e].split()) in flat for e, _ in want)
    assert show(folder, "--sample", sample).output == done.output
    other = show(folder, "--sample", sample, "--arm", "random ict").output
    assert other.splitlines()[0] == done.output.splitlines()[0]
    assert other != done.output


def test_show_says_what_is_known_instead_and_which_places_are_empty(folder, audited):
    with refused("id-unknown", LlmcfError, names=r"'u1x'.*'u1'"):
        show(folder, "--user", "u1x", "--item", "i1")
    with refused("id-unknown", LlmcfError, names="'j1'"):
        show(folder, "--user", "u1", "--item", "j1")
    with refused("not-matched", LlmcfError, names="99999999"):
        show(folder, "--sample", 99999999)
    with refused("option-conflict", LlmcfError):
        show(folder, "--user", "u1")
    with refused("unknown-name", LlmcfError):
        show(folder, "--sample", 1, "--arm", "icz")
    with refused("not-made", LlmcfError):
        show(folder, "--sample", 1, "--set", "match.k=6")
    (database,) = (folder / "artifacts" / "ingest").glob("*/data.duckdb")
    with connect_read(database) as connection:
        first = connection.execute("SELECT arg_min(sample_id, time) FROM sample").fetchall()[0][0]
        lacking = connection.execute(
            'SELECT item_id FROM item ANTI JOIN (SELECT item_row FROM sample JOIN "user" USING (user_row) '
            "WHERE user_id = 'u1') USING (item_row) LIMIT 1"
        ).fetchall()[0][0]
    assert "4 of 4 places are empty" in show(folder, "--sample", first).output
    with refused("pair-unknown", LlmcfError):
        show(folder, "--user", "u1", "--item", lacking)
