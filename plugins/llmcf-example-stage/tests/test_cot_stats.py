"""The plugin as a user has it, installed: its stage runs, shows, is cached; its command reads the result."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import commands
import llmcf_example_stage
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from llmcf_example_stage.commands import show_stats
from llmcf_example_stage.config import CotStatsConfig
from llmcf_example_stage.stage import CotStats, CotStatsOutput, CotStatsReport

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.plugin import builtin_registry
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.base import Context, Job
from llmcf_cli.stages.engine.report import from_json, to_json
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.store.artifacts import ArtifactStore

ROOT = Path(__file__).parents[1]
TEXTS = ["One two  three.", "The user\nlikes it", " five words are written here "]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the plugin is installed, as pip leaves it."""
    info = tmp_path / "site" / "llmcf_example_stage-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llmcf-example-stage\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[llmcf.plugins]\ncot_stats = llmcf_example_stage:register\n")
    return tmp_path


def llmcf(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "site"), str(ROOT / "src")])
    return commands.llmcf(*words, cwd=folder, PYTHONPATH=path, COLUMNS="160")


def run_alone(folder: Path, texts: list[str], settings: CotStatsConfig | None = None) -> CotStatsReport:
    """The stage on chains of thought, without those before it."""
    inputs = CoTOutput(folder / "gen-cot")
    for name in ("gen-cot", "out"):
        (folder / name).mkdir()
    table = pa.table({"sample_id": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts, pa.string())})
    pq.write_table(table, inputs.cots)
    recipe = load_recipe("quickstart").recipe
    if settings is not None:
        recipe = recipe.model_copy(update={"stages": {settings.type: settings}})
    context = Context(recipe=recipe, store=ArtifactStore(folder), locate=None, models=folder)
    return CotStats().run(Job(context, folder / "out", folder, {"gen-cot": inputs.folder}, {}, SILENT))


def test_words_are_counted_as_python_splits_them(tmp_path, capsys):
    report = run_alone(tmp_path, TEXTS)
    counts = [len(text.split()) for text in TEXTS]
    assert report == CotStatsReport(3, sum(counts), min(counts), sorted(counts)[1], max(counts))
    assert pq.read_table(CotStatsOutput(tmp_path / "out").lengths)["words"].to_pylist() == counts
    assert from_json(CotStatsReport, json.loads(json.dumps(to_json(report)))) == report
    show_stats(report)
    assert "12 words in 3 chains of thought: 3 to 5, median 4" in capsys.readouterr().out


def test_without_chains_of_thought_there_is_no_spread(tmp_path):
    assert run_alone(tmp_path, []) == CotStatsReport(0, 0, None, None, None)


def test_a_recipe_says_which_words_count(tmp_path):
    report = run_alone(tmp_path, TEXTS, CotStatsConfig(min_letters=5))
    counts = [sum(len(word) >= 5 for word in text.split()) for text in TEXTS]
    assert pq.read_table(CotStatsOutput(tmp_path / "out").lengths)["words"].to_pylist() == counts
    assert report.words == sum(counts) < 12


@pytest.mark.parametrize(
    ("settings", "status", "named"),
    [("{cot-stats: {min_letters: 3}}", 0, "ok: mine.yaml"), ("{cot-stats: {min_letters: 0}}", 2, "min_letters"),
     ("{cot-stats: {letters: 3}}", 2, "letters"), ("{cot-stats: {type: other}}", 2, "other"),
     ("{cot-stat: {}}", 2, "cot-stats"), ("{ingest: {}}", 2, "ingest"), ("[1]", 2, "stages")],
)  # fmt: skip
def test_its_settings_are_checked_with_the_recipe(folder, settings, status, named):
    (folder / "mine.yaml").write_text(f"extends: quickstart\nname: mine\nstages: {settings}\n")
    done = llmcf(folder, "recipe", "validate", "mine.yaml")
    assert done.returncode == status, done.stderr
    assert named in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_its_settings_are_in_its_key_alone_and_in_the_schema_of_recipes(folder):
    (folder / "mine.yaml").write_text("extends: quickstart\nname: mine\n")
    plans = []
    for letters in (1, 3):
        words = ("cot-stats", "mine.yaml", "--dry-run", "--set", f"stages.cot-stats.min_letters={letters}")
        done = llmcf(folder, *words)
        assert done.returncode == 0, done.stderr
        plans.append(done.stdout.splitlines())
    differing = [line for line, other in zip(*plans, strict=True) if line != other]
    assert [line.split()[0] for line in differing] == ["cot-stats"]
    assert "min_letters" in llmcf(folder, "recipe", "schema").stdout
    assert (
        "min_letters: 3"
        in llmcf(folder, "recipe", "show", "mine.yaml", "--set", "stages.cot-stats.min_letters=3").stdout
    )


def test_it_comes_after_gen_cot_and_its_version_is_in_the_key(tmp_path, monkeypatch):
    class Names:
        def digest(self, ref: str) -> str:
            return ref

    context = Context(load_recipe("quickstart").recipe, ArtifactStore(tmp_path), Names(), tmp_path)
    keys = []
    for version in ("0.1.0", "0.2.0"):
        registry = builtin_registry()
        registry.register_from(f"llmcf-example-stage {version}", llmcf_example_stage.register)
        monkeypatch.setattr("llmcf_cli.stages.engine.origins.registry", lambda registry=registry: registry)
        steps = plan(context, [CotStats()])
        assert [step.node.label for step in steps][-2:] == ["gen-cot", "cot-stats"]
        keys.append([step.node.key for step in steps])
    assert keys[0][:-1] == keys[1][:-1]
    assert keys[0][-1] != keys[1][-1]


def test_help_lists_both_and_says_what_they_do(folder):
    shown = llmcf(folder, "--help").stdout
    assert "Measure how long the chains of thought are." in shown
    assert "Print the longest chains of thought." in shown
    assert shown.index(" evaluate ") < shown.index(" cot-stats ")
    assert "Print the longest chains of thought." in llmcf(folder, "cot-longest", "--help").stdout
    assert "llmcf-example-stage 0.1.0" in llmcf(folder, "plugins").stdout


def test_a_dry_run_plans_it_and_the_command_says_what_to_run_first(folder):
    done = llmcf(folder, "cot-stats", "quickstart", "--dry-run", "--artifacts", "made")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("cot-stats") or "cot-stats" in done.stdout
    done = llmcf(folder, "cot-longest", "quickstart", "--artifacts", "made")
    assert done.returncode == 6
    assert "  next: llmcf cot-stats quickstart --artifacts made" in done.stderr.splitlines()
    assert "Traceback" not in done.stderr


def test_it_is_refused_where_a_name_is_taken():
    registry = builtin_registry()
    registry.add("command", "cot-stats", target="json:dumps", summary="Another.")
    with pytest.raises(LlmcfError, match="a command has the same name"):
        registry.register_from("llmcf-example-stage 0.1.0", llmcf_example_stage.register)
