"""Chains of thought in steps, from events to vectors and the command line; a tiny language model, the real encoder."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from refusals import refused
from typer.testing import CliRunner, Result

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.store.open import read_lance
from llmcf_cli.store.tables import COT, COT_PART, cot_example

RECIPE = """\
extends: base.yaml
name: steps
dataset: {label: {positive_from: 3}}
cot:
  prompt: decomposed.yaml
  sample: {count: null, fraction: 0.3, balance: none, stratify: [user, label]}
  engine: {max_new_tokens: 20}
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
"""


def llmcf(folder: Path, *arguments: str) -> Result:
    """A command on the recipe; an error of llmcf is raised."""
    recipe, artifacts = str(folder / "recipe.yaml"), str(folder / "artifacts")
    at = 2 if arguments[0] == "cot" else 1
    command = [*arguments[:at], recipe, *arguments[at:], "--artifacts", artifacts]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "300"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def report(folder: Path, stage: str) -> tuple[Path, dict]:
    """The one artifact of a stage, and its report."""
    (manifest,) = (folder / "artifacts" / stage).glob("*/manifest.json")
    return manifest.parent, json.loads(manifest.read_text())["report"]


@pytest.fixture(scope="module")
def folder(assets, write_ratings, tmp_path_factory) -> Path:
    """Recipe, data, and the examples made of them."""
    from llmcf_cli.recipe.library import library_dir

    assets.path("asset:minilm-l6-v2")
    folder = tmp_path_factory.mktemp("steps")
    write_ratings(folder, users=12, items=20)
    prompt = (library_dir() / "prompts" / "decomposed.yaml").read_text()
    (folder / "decomposed.yaml").write_text(prompt.replace("block: 20", "block: 2"))
    (folder / "recipe.yaml").write_text(RECIPE)
    with refused("not-made", StoreError):
        llmcf(folder, "cot", "show")
    assert "description, item" in llmcf(folder, "cot", "preview", "-n", "2").output
    assert not (folder / "artifacts" / "train-llm").exists(), "a preview needs no tuned model"
    llmcf(folder, "examples")
    return folder


def test_generates_what_the_plan_counts_and_the_second_time_nothing(folder: Path) -> None:
    out, first = report(folder, "gen-cot")
    assert first["kept"] > 10
    steps = first["steps"]
    assert 0 < steps["profile"]["generated"] < steps["match"]["generated"] == first["wanted"]
    assert 0 < steps["description"]["generated"] <= 20
    assert steps["match"]["new_tokens"] <= 4 * steps["match"]["generated"], "a fifth of the engine's 20"
    assert "profile" in llmcf(folder, "cot", "preview").output
    before = pq.read_table(out / "cot.parquet")
    llmcf(folder, "gen-cot", "--force", "gen-cot")
    out, second = report(folder, "gen-cot")
    assert second["generated"] == second["new_tokens"] == 0
    assert pq.read_table(out / "cot.parquet").equals(before)


def test_parts_make_the_text_and_are_shared(folder: Path) -> None:
    out, _ = report(folder, "gen-cot")
    data = report(folder, "ingest")[0] / "data.duckdb"
    assert pq.read_schema(out / "cot.parquet").equals(COT.schema)
    assert pq.read_schema(out / "cot_part.parquet").equals(COT_PART.schema)
    with duckdb.connect(str(data), read_only=True) as connection:
        rows = connection.execute(
            "SELECT any_value(c.text), string_agg(p.text, chr(10) || chr(10) ORDER BY place) "
            "FROM read_parquet(?) c JOIN read_parquet(?) p USING (sample_id) GROUP BY sample_id",
            [str(out / "cot.parquet"), str(out / "cot_part.parquet")],
        ).fetchall()
        assert rows
        assert all(text == joined for text, joined in rows)
        # One description per item, whatever the user.
        texts = connection.execute(
            "SELECT count(DISTINCT p.text) FROM read_parquet(?) p JOIN sample USING (sample_id) "
            "WHERE step = 'description' GROUP BY item_row",
            [str(out / "cot_part.parquet")],
        ).fetchall()
        assert {count for (count,) in texts} == {1}


def test_examples_have_a_vector_of_each_part(folder: Path) -> None:
    out, found = report(folder, "examples")
    assert found["parts"] == ["profile", "description", "match"]
    table = read_lance(out / "lance", "cot_example")
    dim = found["dim"]
    assert table.schema.names == cot_example(dim, 2 * dim, found["parts"]).schema.names
    written = pq.read_table(report(folder, "gen-cot")[0] / "cot_part.parquet").to_pylist()
    for step in found["parts"]:
        having = {row["sample_id"] for row in written if row["step"] == step and row["text"].strip()}
        norm_E = np.linalg.norm(np.array(table[f"{step}_vector"].to_pylist()), axis=1)
        expected = np.array([sample in having for sample in table["sample_id"].to_pylist()], float)
        np.testing.assert_allclose(norm_E, expected, atol=1e-5)


def test_show_prints_parts_and_scores(folder: Path) -> None:
    rows = pq.read_table(report(folder, "gen-cot")[0] / "cot.parquet").to_pylist()
    ranked = sorted(rows, key=lambda row: (-row["score"], row["sample_id"]))
    best, worst = (llmcf(folder, "cot", "show", f"--{which}", "1").output for which in ("best", "worst"))
    assert best.startswith(f"sample {ranked[0]['sample_id']}:")
    assert f"score {ranked[-1]['score']:.2f}" in worst
    assert "description: " in best
    one = llmcf(folder, "cot", "show", "--sample", str(rows[0]["sample_id"])).output
    assert one.count("sample ") == 1
    user = one.split("user ")[1].split()[0]
    assert f"user {user} " in llmcf(folder, "cot", "show", "--user", user).output
    with refused("cot-missing", LlmcfError, names="999999"):
        llmcf(folder, "cot", "show", "--sample", "999999")
    with refused("option-conflict", LlmcfError):
        llmcf(folder, "cot", "show", "--best", "1", "--worst", "1")


def test_exports_hold_everything(folder: Path, tmp_path: Path) -> None:
    kept = pq.read_table(report(folder, "gen-cot")[0] / "cot.parquet").to_pylist()
    for form in ("jsonl", "parquet"):
        llmcf(folder, "cot", "export", "--format", form, "--out", str(tmp_path / f"it's.{form}"))
    lines = [json.loads(line) for line in (tmp_path / "it's.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "it's.parquet").to_pylist()
    assert [row["sample_id"] for row in lines] == [row["sample_id"] for row in kept]
    assert [row["text"] for row in lines] == [row["text"] for row in table] == [row["text"] for row in kept]
    assert [part["step"] for part in table[-1]["parts"]][-1] == "match"
    assert lines[0]["prompt"] == kept[0]["prompt"]
    assert len(list(tmp_path.iterdir())) == 2, "no partial file is left"
    with refused("store-unwritable", StoreError):
        llmcf(folder, "cot", "export", "--out", str(tmp_path / "absent" / "x.jsonl"))


def test_a_prompt_of_one_step_has_no_vectors_of_parts(folder: Path) -> None:
    """Last, as it adds artifacts."""
    llmcf(folder, "examples", "--set", "cot.prompt=prompts/single.yaml", "--set", "cot.sample.fraction=0.1")
    newest = max((folder / "artifacts" / "examples").glob("*/manifest.json"), key=lambda file: file.stat().st_mtime)
    found = json.loads(newest.read_text())["report"]
    table = read_lance(newest.parent / "lance", "cot_example")
    assert found["parts"] == []
    assert table.schema.names == cot_example(found["dim"], 2 * found["dim"]).schema.names
    assert table.num_rows == found["examples"] > 0
