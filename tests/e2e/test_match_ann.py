"""`match.search: ann` from a recipe: measured, recorded, tuned, extended with more examples; a tiny language model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.match.lance import trained_on
from llmcf_cli.store.open import open_lance

RECIPE = """\
extends: base.yaml
name: approximate
cot: {sample: {count: 200}}
match:
  search: {type: ann, index: ivf_flat, partition_rows: 16, probes: 64, time_block: 32, checked_queries: 256}
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
  augment: ict
"""


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, assets, write_ratings) -> Path:
    folder = tmp_path_factory.mktemp("ann")
    write_ratings(folder, users=40, items=60)
    (folder / "ann.yaml").write_text(RECIPE)
    return folder


def llmcf(workplace: Path, *arguments: str) -> Result:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        patch.setenv("COLUMNS", "200")
        return CliRunner().invoke(app, list(arguments))


def manifests(workplace: Path) -> list[dict]:
    found = [json.loads(path.read_text()) for path in (workplace / "artifacts" / "match").glob("*/manifest.json")]
    return sorted(found, key=lambda manifest: manifest["started"])


def test_the_manifest_records_what_the_index_finds_and_more_examples_extend_it(workplace):
    done = llmcf(workplace, "match", "ann.yaml")
    assert done.exit_code == 0, done.output
    first = manifests(workplace)[-1]["report"]
    search = first["match"]["search"]
    assert {pool["kind"] for pool in search["pools"].values()} == {"ivf_flat"}
    assert search["recall"] == 1.0
    assert 0 < search["p50_ms"] <= search["p99_ms"]
    assert search["queries"] >= 200
    assert not any(found["count"] for found in first["audit"]["violations"])
    assert "100.00% of the exact result" in done.output

    more = llmcf(workplace, "match", "ann.yaml", "--set", "cot.sample.count=320")
    assert more.exit_code == 0, more.output
    report = manifests(workplace)[-1]["report"]
    assert report["match"]["examples"] > first["match"]["examples"]
    assert not any(found["count"] for found in report["audit"]["violations"])
    for name, pool in report["match"]["search"]["pools"].items():
        assert pool["trained_on"] == search["pools"][name]["examples"] < pool["examples"], "grown, not built again"
    (folder,) = (workplace / "artifacts" / "cache" / "match").glob("*/positive")
    table = open_lance(folder).open_table("example")
    assert trained_on(table)[1] == search["pools"]["positive"]["examples"]


def test_tune_prints_the_settings_and_lines_that_a_recipe_takes(workplace):
    done = llmcf(workplace, "match", "tune", "ann.yaml", "--recall", "0.99")
    assert done.exit_code == 0, done.output
    assert "cheapest" in done.output
    lines = done.output.split("for the recipe:\n")[1]
    probes = lines.split("probes: ")[1].split(",")[0]
    (workplace / "tuned.yaml").write_text(f"extends: ann.yaml\n{lines}".replace("type: ann,", ""))
    dry = llmcf(workplace, "match", "tuned.yaml", "--dry-run")
    assert f"match.search.probes 64 → {probes}" in dry.output, dry.output


@pytest.mark.parametrize(
    ("search", "why"),
    [("exact", "20,000 examples of a label (match.search.flat_below)"), ("{type: ann, index: flat}", "is flat"),
     ("{type: ann, index: ivf_flat}", "an index of kind ivf_flat needs more")],
)  # fmt: skip
def test_where_all_examples_are_compared_there_is_nothing_to_tune(workplace, search, why):
    # 100 chains of thought: 50 a label, too few for the smallest index
    few = llmcf(workplace, "match", "tune", "ann.yaml", "--set", f"match.search={search}", "--set",
                "cot.sample.count=100")  # fmt: skip
    assert few.exit_code == 0, few.output
    said = few.output[few.output.index("the search compares all") :]
    assert said.startswith("the search compares all 50 positive and 50 negative examples, so it is exact: ")
    assert why in " ".join(said.split())  # lines are as wide as the terminal
    assert "nothing to tune at this size" in said
    assert said.endswith("next: llmcf match ann.yaml\n")
    assert "for the recipe" not in few.output
    assert "probes" not in said


def test_an_index_below_its_recall_is_refused(workplace):
    changes = ("match.search.probes=1", "match.search.min_recall=1.0", "match.search.time_block=16", "match.k=16")
    done = llmcf(workplace, "match", "ann.yaml", *(part for change in changes for part in ("--set", change)))
    assert isinstance(done.exception, LlmcfError), done.output
    assert "of the exact result, below min_recall 1.0" in str(done.exception)
    assert "llmcf match tune" in str(done.exception)
