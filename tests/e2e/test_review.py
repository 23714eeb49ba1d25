"""`llmcf review` on a small planted world: verdicts are kept as they come, resumed, and decide what examples hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from refusals import refused
from scipy.stats import ttest_rel

from llmcf_cli.cli.opening import opened
from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.llm.writing.reviews import Verdict, digest_of, read_reviews
from llmcf_cli.stages.look.cot import contrasted, writing, writing_of_folder
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


def test_what_was_said_is_shown_again_and_other_keys_are_told(folder):
    said = llmcf(folder, "review", "small.yaml", "--again", "--out", "second.parquet", given="?\nK\n\nb\nn\n")
    assert said.count("1 of 24") == 2, "the text is not shown again for a key that means nothing"
    assert said.count("not one of") == 2
    assert "you: keep" in said
    (review,) = read_reviews(folder / "second.parquet").values()
    assert (review.verdict, review.note) == (Verdict.drop, ""), "the end of the input is no note"
    assert "23 texts left" in said


def test_two_writings_are_compared_on_the_samples_that_both_are_about(folder):
    """Against plain Python over the tables, and scipy's paired t-test."""
    (folder / "half.yaml").write_text("extends: small.yaml\ncot: {engine: {type: planted, truth: 0.3}}\n")
    before = set(artifact(folder, "gen-cot"))
    llmcf(folder, "gen-cot", "half.yaml")
    (half,) = set(artifact(folder, "gen-cot")) - before
    (found,) = json.loads(llmcf(folder, "cot", "diff", "small.yaml", "half.yaml", "-n", "50", "--json"))
    assert json.loads(llmcf(folder, "cot", "diff", str(before.pop()), str(half), "-n", "50", "--json")) == [
        found | {"a": found_a, "b": str(half)} for found_a in [str(artifact(folder, "gen-cot")[0])]
    ]  # fmt: skip
    sides = []
    for made in (artifact(folder, "gen-cot")[0], half):
        kept = {row["sample_id"]: row for row in read_parquet(made / "cot.parquet").to_pylist()}
        tried = read_parquet(made / "cot_candidate.parquet").to_pylist()
        best = {}
        for row in sorted(tried, key=lambda row: row["score"]):
            best[row["sample_id"]] = row
        sides.append(({**best, **kept}, set(kept)))
    (a, kept_a), (b, kept_b) = sides
    both = sorted(set(a) & set(b))
    assert (found["both"], found["first"]["kept"], found["second"]["kept"]) == (len(both), len(kept_a), len(kept_b))
    assert found["both_kept"] == len(kept_a & kept_b)
    assert found["first_kept"] + found["second_kept"] == len((kept_a ^ kept_b) & set(both))
    assert sum(found["second"]["dropped"].values()) == len(b) - len(kept_b)
    scores = next(one for one in found["scores"] if one["score"] == "score")
    first, second = ([side[sample]["score"] for sample in both] for side in (a, b))
    test = ttest_rel(second, first)
    interval = test.confidence_interval(0.95)
    assert scores["difference"] == pytest.approx(sum(second) / len(both) - sum(first) / len(both), abs=1e-6)
    assert (scores["low"], scores["high"]) == pytest.approx((interval.low, interval.high), abs=1e-6)
    gaps = [abs(pair["second_score"] - pair["first_score"]) for pair in found["most"]]
    assert gaps == sorted(gaps, reverse=True)
    assert len(gaps) == len(both)
    shown = llmcf(folder, "cot", "diff", "small.yaml", "half.yaml", "-n", "1")
    assert found["most"][0]["first"][:40] in shown.replace("\n", " ")
    (same,) = json.loads(llmcf(folder, "cot", "diff", "small.yaml", "small.yaml", "--json"))
    assert (same["same"], len(same["notes"])) == (same["both"], 1)
    llmcf(folder, "gen-cot", "half.yaml", "--set", "cot.judge.min_words=2")
    (judged,) = json.loads(
        llmcf(folder, "cot", "diff", "small.yaml", str(artifact(folder, "gen-cot")[-1]), "--json")
    )  # fmt: skip
    assert "min_words" in judged["notes"][0]


def test_writings_about_other_samples_are_no_pair(folder):
    (folder / "world.yaml").write_text("extends: small.yaml\ndataset: {source: {seed: 2}}\n")
    llmcf(folder, "gen-cot", "world.yaml")
    with refused("cot-unpaired", DataError):
        contrasted(*(writing(opened(str(folder / name), (), folder / "artifacts"))
                     for name in ("small.yaml", "world.yaml")), 3)  # fmt: skip
    with refused("artifact-unusable", StoreError, names="examples"):
        writing_of_folder(artifact(folder, "examples")[0])
