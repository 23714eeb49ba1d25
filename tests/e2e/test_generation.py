"""`gen-cot` from end to end: its cost before and after, a call that keeps failing, and a second attempt."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli import report
from llmcf_cli.cli.app import app
from llmcf_cli.cli.findings import gen_cot
from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.engines.base import Failure
from llmcf_cli.llm.engines.transformers import TransformersEngine
from llmcf_cli.llm.writing.reports import CoTReport
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.report import from_json
from llmcf_cli.stages.engine.run import execute, plan
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.steps.gen_cot import GenCoT, help_generate
from llmcf_cli.stages.steps.ingest import Ingest
from llmcf_cli.stages.steps.train_llm import TrainLLM
from llmcf_cli.store.artifacts import ArtifactStore

RECIPE = """\
extends: base.yaml
name: generation
cot:
  sample: {count: 12}
  engine: {max_batch: 4}
  price: {input_per_million: 100, output_per_million: 1000, currency: EUR}
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
"""


@pytest.fixture(scope="module")
def tuned(write_ratings, tmp_path_factory):
    """Recipe, data, and the tuned model."""
    folder = tmp_path_factory.mktemp("tuned")
    write_ratings(folder, users=20, items=25)
    (folder / "recipe.yaml").write_text(RECIPE)
    run(open_context(load_recipe(folder / "recipe.yaml"), folder / "artifacts"), TrainLLM())
    return folder


@pytest.fixture
def context(tuned, tmp_path):
    """All of it in a folder of the test's own."""
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    return open_context(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "artifacts")


def run(context, stage, force=()):
    """The manifest of a stage, after it and all it needs."""
    manifests = {}
    steps = plan(context, [stage], force)
    execute(steps, SILENT, on_start=lambda step: None,
            on_end=lambda step, manifest: manifests.update({step.node.stage.name: manifest}))  # fmt: skip
    return manifests[stage.name], steps[-1].node.folder


def costs(context, capsys):
    capsys.readouterr()
    report.costs(plan(context, [GenCoT()]))
    return capsys.readouterr().out


def poison(monkeypatch, poisoned):
    """Make calls fail whose prompt `poisoned` says; the list of all prompts asked from now on."""
    asked, plain = [], TransformersEngine.generate

    def generate(self, chats, seeds):
        asked.extend(chat[-1]["content"] for chat in chats)
        done = plain(self, chats, seeds)
        return [
            Failure("status 500", retryable=True) if poisoned(chat[-1]["content"]) else completion
            for chat, completion in zip(chats, done, strict=True)
        ]

    monkeypatch.setattr(TransformersEngine, "generate", generate)
    return asked


def test_cost_is_told_as_far_as_it_is_known(context, capsys):
    shutil.rmtree(context.store.root)
    assert "llmcf ingest with the same recipe" in costs(context, capsys)
    run(context, Ingest())
    before = costs(context, capsys)
    assert "12 (0 of 12 texts are cached)" in before
    assert "at most 96" in before
    assert "unknown until measured" in before
    assert "EUR" in before
    assert not context.generations.exists()  # looking leaves nothing behind
    manifest, _ = run(context, GenCoT())
    found = manifest.report
    assert found["estimate"]["calls"] == found["actual"]["calls"] == found["generated"] == 12
    assert found["estimate"]["prompt_tokens"] == found["actual"]["prompt_tokens"] == found["prompt_tokens"]
    assert found["estimate"]["seconds"] > 0
    assert found["actual"]["money"] == pytest.approx(found["prompt_tokens"] * 100e-6 + found["new_tokens"] * 1000e-6)
    assert costs(context, capsys) == ""  # cached: nothing to pay
    gen_cot(from_json(CoTReport, found))
    printed = capsys.readouterr().out
    assert "12 of 12 chains of thought kept" in printed
    assert "+0%" in printed


def test_a_poisoned_sample_is_set_aside_and_reported_until_it_is_forced(context, monkeypatch, capsys):
    asked = poison(monkeypatch, lambda prompt: prompt == asked[0])  # the first prompt asked is the bad one
    manifest, folder = run(context, GenCoT())
    found = manifest.report
    assert (found["wanted"], found["kept"], found["failed"]) == (12, 11, 3)
    assert found["dropped"] == {"set aside": 1}
    assert found["set_aside"] == {"status 500": 1}
    assert asked.count(asked[0]) == 3
    (dropped,) = pq.read_table(folder / "cot_dropped.parquet").to_pylist()
    kept = pq.read_table(folder / "cot.parquet")["sample_id"].to_pylist()
    assert dropped["sample_id"] not in kept
    assert dropped["detail"] == "status 500"
    gen_cot(from_json(CoTReport, found))
    assert "1 set aside: status 500" in capsys.readouterr().out
    monkeypatch.undo()
    again = poison(monkeypatch, lambda prompt: False)
    manifest, folder = run(context, GenCoT(), force=["gen-cot"])
    assert len(again) == 1
    assert manifest.report["kept"] == 12
    assert pq.read_table(folder / "cot.parquet")["sample_id"].to_pylist() == sorted([*kept, dropped["sample_id"]])


@pytest.mark.slow
def test_a_second_process_helps_and_no_call_is_made_twice(context, tmp_path):
    with refused("not-made", LlmcfError):
        help_generate(replace(context, store=ArtifactStore(tmp_path / "empty")), SILENT)
    arguments = [str(tmp_path / "recipe.yaml"), "--artifacts", str(context.store.root)]
    workers = [
        subprocess.Popen([sys.executable, "-m", "llmcf_cli", command, *arguments], stdout=subprocess.PIPE, text=True)
        for command in ("gen-cot", "work")
    ]
    printed = [worker.communicate(timeout=600)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    found = re.search(r"(\d+) texts written here", printed[1])
    helped = int(found[1]) if found else 0  # the other was faster
    manifest, folder = run(context, GenCoT())
    assert manifest.report["generated"] + helped == manifest.report["wanted"] == 12
    assert pq.read_table(folder / "cot.parquet").num_rows == manifest.report["kept"] == 12


def test_a_helper_with_nothing_to_do_says_so_and_what_comes_next(context, tmp_path):
    recipe = str(tmp_path / "recipe.yaml")

    def work(*changes):
        done = CliRunner().invoke(app, ["work", recipe, "--artifacts", str(context.store.root), *changes])
        return done.exception if done.exception else done.output

    missing = work("--artifacts", str(tmp_path / "empty"))
    assert isinstance(missing, LlmcfError)
    assert missing.code == "not-made"
    assert "next: llmcf gen-cot" in str(missing)
    run(context, GenCoT())
    said = work()
    assert said.startswith("nothing to do: gen-cot of 'generation'")
    assert said.endswith(f"is already made\nnext: llmcf run {recipe}\n")
    said = work("--set", "cot.regenerate=0")  # another table of the same texts: it is not made yet
    assert "nothing to do: all texts of gen-cot of 'generation'" in said
    assert "calls to make" not in said
    assert said.endswith(f"next: llmcf gen-cot {recipe}\n")
