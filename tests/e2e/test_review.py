"""`llmcf review` on a small planted world: verdicts are kept as they come, resumed, and decide what examples hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmcf_cli.llm.writing.reviews import Verdict, digest_of, read_reviews
from llmcf_cli.store.open import read_lance, read_parquet

RECIPE = """\
extends: planted/base
name: small
dataset: {source: {type: planted, seed: 1, users: 60, items: 80, ratings: 800}}
cot: {sample: {count: 24, fraction: null}, floor: 0.7, regenerate: 0}
"""


def llmcf(folder: Path, *arguments: str, given: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llmcf_cli", *arguments], capture_output=True, text=True, cwd=folder, input=given,
        env={**os.environ, "COLUMNS": "120"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    (folder / "small.yaml").write_text(RECIPE)
    (folder / "mine.yaml").write_text("extends: small.yaml\ncot: {review: small.reviews.parquet}\n")
    llmcf(folder, "examples", "small.yaml")
    return folder


def artifact(folder: Path, stage: str) -> list[Path]:
    return sorted((path.parent for path in (folder / "artifacts" / stage).glob("*/manifest.json")),
                  key=lambda path: path.stat().st_mtime)  # fmt: skip


def test_verdicts_decide_what_examples_hold(folder):
    cots = read_parquet(artifact(folder, "gen-cot")[-1] / "cot.parquet").sort_by("sample_id")
    texts = cots["text"].to_pylist()
    assert 3 < len(texts) < 24, "the judge keeps some, and drops some"
    said = llmcf(folder, "review", "small.yaml", "--only", "kept", given="k\nd\nn\ntoo vague\nq\n")
    assert "too vague" not in said
    file = folder / "small.reviews.parquet"
    reviews = read_reviews(file)
    assert {digest: one.verdict for digest, one in reviews.items()} == {
        digest_of(texts[0]): Verdict.keep, digest_of(texts[1]): Verdict.drop, digest_of(texts[2]): Verdict.drop,
    }  # fmt: skip
    assert reviews[digest_of(texts[2])].note == "too vague"
    again = llmcf(folder, "review", "small.yaml", "--only", "dropped", given="d\n")  # ends with the input
    assert "user " in again
    assert len(read_reviews(file)) == 4
    assert f"{len(texts) - 3} of {len(texts)} texts" in llmcf(folder, "review", "small.yaml", "--only", "kept")
    llmcf(folder, "examples", "mine.yaml")
    assert len(artifact(folder, "gen-cot")) == 1, "nothing is written anew"
    before, after = (
        set(read_lance(found / "lance", "cot_example", ["sample_id"])["sample_id"].to_pylist())
        for found in artifact(folder, "examples")
    )
    assert before == set(cots["sample_id"].to_pylist())
    assert before - after == set(cots["sample_id"].to_pylist()[1:3])
