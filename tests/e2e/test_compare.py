"""A whole comparison: arms, controls, baselines, a search and two seeds; a tiny language model, the real encoder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import commands
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from typer.testing import CliRunner, Result

from llmcf_cli.cli.app import app
from llmcf_cli.core.progress import SILENT
from llmcf_cli.match.reports import AuditReport
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.engine.report import from_json
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.pipeline import open_context, run_steps
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.stages.steps.match import MatchStageReport

RECIPE = """\
extends: base.yaml
name: compared
teacher:
  min_mass: 0  # a model tuned for one step answers nearly anything
  sample: {fraction: 0.4}
  precision: fp32
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
  augment: ict
  objectives: [bce, cot_reconstruction]
  fit: {epochs: 2, batch_size: 256}
  compare: [none, text, signals, mean, ict]
  variants:
    - {name: random examples, set: {match.search: random}, meaning: "control: examples by chance"}
    - {name: shuffled CoT, set: {rec.cot: shuffled}}
    - {name: labels only, set: {rec.augment.tokens: [label]}}
    - {name: reference guard, set: {match.exclude: reference}}
    - {name: KD, set: {rec.augment: none, rec.objectives: [bce, {type: distill, temperature: 2}]}}
    - {name: DIN, set: {rec.backbone: {type: din, embedding_dim: 8, hidden: [16]}, rec.augment: none}}
  baselines: [popularity, item_knn, {type: als, factors: 8}, gbm]
  seeds: [1, 2]
search:
  trials: 2
  space: {rec.fit.learning_rate: {low: 1.0e-3, high: 5.0e-2, log: true}}
"""
BASELINES = ["popularity", "item_knn", "als", "gbm"]
TRAINED = ["none", "text", "signals", "mean", "ict", "random examples", "shuffled CoT", "labels only",
           "reference guard", "KD", "DIN"]  # fmt: skip
SMALL = [
    "rec.compare=[none, ict]",
    "rec.variants=[]",
    "rec.baselines=[]",
    "rec.seeds=[1]",
    "rec.fit.epochs=4",
    "search=",
]
"""Changes that leave two arms and no search."""
BROKEN = {
    "diverging": {"rec.augment": "none", "rec.fit.learning_rate": 1.0e30},
    "without examples": {"rec.augment": "ict", "cot.judge.min_words": 1000},
}
"""Variants that cannot be trained: one by its settings, one for want of data."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Runs in this process and in others are compared to the last bit, which the number of threads decides."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(assets, write_ratings, tmp_path_factory) -> Path:
    """Recipe and data."""
    assets.path("asset:minilm-l6-v2")
    folder = tmp_path_factory.mktemp("compare")
    write_ratings(folder, users=60, items=40)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def done(folder) -> dict[str, tuple]:
    """Label → node and manifest of every step of the run."""
    return run(folder)


def planned(folder: Path, *changes: str, artifacts: str = "artifacts") -> list:
    context = open_context(load_recipe(folder / "recipe.yaml", changes), folder / artifacts)
    return plan(context, [Evaluate()])


def to_run(folder: Path, *changes: str) -> set[str]:
    return {step.node.label for step in planned(folder, *changes) if step.runs}


def run(folder: Path, *changes: str, artifacts: str = "artifacts") -> dict[str, tuple]:
    steps = planned(folder, *changes, artifacts=artifacts)
    found = {}
    run_steps(
        steps[-1].node.context, steps, SILENT, on_start=lambda step: None,
        on_end=lambda step, manifest: found.update({step.node.label: (step.node, manifest)}),
        on_failure=lambda step, error: pytest.fail(f"{step.node.label}: {error}"),
    )  # fmt: skip
    return found


def needs(done: dict[str, tuple], label: str) -> dict[str, str]:
    """Role → label of what a step read."""
    return {role: node.label for role, node in done[label][0].needs.items()}


def test_every_arm_is_in_every_form_of_the_table(done):
    node, manifest = done["evaluate"]
    arms = [*BASELINES, *TRAINED]
    assert [arm["arm"] for arm in manifest.report["arms"]] == arms
    assert json.loads((node.folder / "comparison.json").read_text()) == json.loads(json.dumps(manifest.report))
    markdown = (node.folder / "comparison.md").read_text()
    assert all(f"| {arm} | " in markdown and f"- {arm} = " in markdown for arm in arms)
    assert "random examples = control: examples by chance" in markdown
    metric = pq.read_table(node.folder / "metric.parquet").to_pylist()
    pairs = {(arm, 1) for arm in BASELINES} | {(arm, seed) for arm in TRAINED for seed in (1, 2)}
    assert {(row["arm"], row["seed"]) for row in metric} == pairs
    assert {p.name for p in (node.folder / "predictions").iterdir()} == {f"{a}-seed{s}.parquet" for a, s in pairs}
    page = (node.folder / "comparison.html").read_text()
    assert all(f'"{arm}"' in page for arm in arms)
    assert (node.folder / "comparison.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_metrics_are_those_of_scikit_learn_on_the_stored_predictions(done):
    node, _ = done["evaluate"]
    metric = pq.read_table(node.folder / "metric.parquet").to_pylist()
    value = {(row["arm"], row["seed"], row["metric"]): row["value"] for row in metric if row["split"] == "test"}
    for arm, seed in {key[:2] for key in value}:
        rows = pq.read_table(node.folder / "predictions" / f"{arm}-seed{seed}.parquet")
        label, logit = rows["label"].to_numpy(), rows["logit"].to_numpy().astype(np.float64)
        assert value[arm, seed, "auc"] == pytest.approx(roc_auc_score(label, logit), abs=1e-9)
        assert value[arm, seed, "logloss"] == pytest.approx(log_loss(label, 1 / (1 + np.exp(-logit))), abs=1e-6)


def test_arms_share_every_stage_that_they_agree_on(done):
    own, random = (needs(done, f"train-rec[{arm} seed=1]") for arm in ("ict", "random examples"))
    assert (own.pop("match"), random.pop("match")) == ("match", "match[random examples]")
    assert (own.pop("search"), random.pop("search")) == ("search[ict]", "search[random examples]")
    assert own == random == {"ingest": "ingest", "embed": "embed", "examples": "examples"}
    assert needs(done, "train-rec[shuffled CoT seed=1]")["match"] == "match"
    assert needs(done, "train-rec[KD seed=1]").keys() == {"ingest", "teacher", "search"}
    for stage, count in {"ingest": 1, "train-llm": 1, "gen-cot": 1, "embed": 1, "examples": 1, "match": 3}.items():
        assert sum(node.stage.name == stage for node, _ in done.values()) == count, stage


def test_every_arm_differs_from_the_one_it_is_a_control_of(done):
    def logits(arm: str) -> np.ndarray:
        return pq.read_table(done["evaluate"][0].folder / "predictions" / f"{arm}-seed1.parquet")["logit"].to_numpy()

    for arm in ("random examples", "shuffled CoT", "labels only", "reference guard"):
        assert not np.allclose(logits(arm), logits("ict")), arm
    for arm in ("KD", "DIN"):
        assert not np.allclose(logits(arm), logits("none")), arm


def test_every_folder_and_report_is_what_its_stage_declares(done):
    for node, manifest in done.values():
        files = node.stage.output.files().values()
        found = {Path(name).parts[0] for name in manifest.files}
        assert found <= {file.name for file in files}, node.label
        assert found >= {file.name for file in files if not file.optional}, node.label
        assert isinstance(from_json(node.stage.report, manifest.report), node.stage.report)


def audit_of(step) -> AuditReport:
    _, manifest = step
    return from_json(MatchStageReport, manifest.report).audit


def test_the_audit_counts_the_leaks_of_the_reference_guard_alone(done):
    assert audit_of(done["match"]).leaks == audit_of(done["match"]).total == 0
    assert audit_of(done["match[random examples]"]).total == 0
    leaks = audit_of(done["match[reference guard]"])
    assert leaks.leaks == leaks.total > 0
    kinds = {violation.kind: violation.count for violation in leaks.violations}
    assert kinds["own_row"] > 0
    assert kinds["future"] >= kinds["own_row"]


def test_a_searched_arm_trains_with_its_best_settings(done):
    rates = set()
    for arm in TRAINED:
        node, manifest = done[f"search[{arm}]"]
        trials = json.loads((node.folder / "trials.json").read_text())
        assert len(trials) == 2
        assert trials[0]["settings"] == {"rec.fit.learning_rate": 1e-3}  # the recipe's own
        best = max(trials, key=lambda trial: trial["value"])
        assert manifest.report["best"] == best["settings"]
        for seed in (1, 2):
            bundle = done[f"train-rec[{arm} seed={seed}]"][0].folder / "bundle"
            recipe = json.loads((bundle / "recipe.json").read_text())
            assert recipe["rec"]["fit"]["learning_rate"] == best["settings"]["rec.fit.learning_rate"]
        rates.add(best["settings"]["rec.fit.learning_rate"])
    assert len(rates) > 1


@pytest.mark.parametrize("arm", ["random examples", "labels only", "KD", "DIN", "signals"])
def test_the_scorer_replays_an_arms_offline_logits(done, offline_requests, arm):
    from llmcf_cli.serve.scorer import Scorer

    predictions = done["evaluate"][0].folder / "predictions" / f"{arm}-seed2.parquet"
    rows = offline_requests(done["ingest"][0].folder / "data.duckdb", predictions)
    scores = Scorer.load(done[f"train-rec[{arm} seed=2]"][0].folder / "bundle").score(rows.drop_columns(["logit"]))
    np.testing.assert_allclose(scores["logit"].to_numpy(), rows["logit"].to_numpy(), atol=1e-5)


def test_a_second_run_repeats_nothing(done, folder):
    assert to_run(folder) == set()
    again = run(folder)
    assert {label: m.started for label, (_, m) in again.items()} == {label: m.started for label, (_, m) in done.items()}


def test_another_arm_or_seed_adds_its_own_work_and_no_more(done, folder):
    variants = load_recipe(folder / "recipe.yaml").recipe.model_dump(mode="json")["rec"]["variants"]
    more = [*variants, {"name": "two examples", "set": {"match.k": 2}}]
    arm = {"match[two examples]", "search[two examples]"}
    arm |= {f"{stage}[two examples seed={seed}]" for stage in ("train-rec", "predict") for seed in (1, 2)}
    assert to_run(folder, f"rec.variants={json.dumps(more)}") == {*arm, "evaluate"}
    third = {f"{stage}[{arm} seed=3]" for stage in ("train-rec", "predict") for arm in TRAINED}
    assert to_run(folder, "rec.seeds=[1,2,3]") == {*third, "evaluate"}
    renamed = [{**variant, "name": variant["name"].upper()} for variant in variants]
    assert to_run(folder, f"rec.variants={json.dumps(renamed)}") == {"evaluate"}
    assert to_run(folder, f"rec.variants={json.dumps(variants[:1])}") == {"evaluate"}


KILLED = """
import sys
from contextlib import contextmanager
from pathlib import Path
from llmcf_cli.core.progress import SilentProgress
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.engine.run import execute, plan

class Loud(SilentProgress):
    @contextmanager
    def task(self, name, total, unit, done=0):
        class Task:
            def advance(self, amount=1):
                pass
            def skip(self, amount):
                pass
            def measured(self, step, values):
                pass
            def note(self, text):
                if name == "fit":
                    print("EPOCH", total, text, flush=True)
        yield Task()

folder = Path(sys.argv[1])
context = open_context(load_recipe(folder / "recipe.yaml", sys.argv[2:]), folder / "killed")
execute(plan(context, [Evaluate()]), Loud(), on_start=lambda step: print("START", step.node.label, flush=True),
        on_end=lambda step, manifest: None)
print("FINISHED")
"""


def test_a_run_killed_in_train_rec_ends_with_the_same_table(done, folder):
    """Killed in the third epoch of the last arm; what was finished, epochs included, is not done again."""
    whole = run(folder, *SMALL)
    for artifacts in (folder / "artifacts").iterdir():
        if artifacts.name not in ("train-rec", "predict", "evaluate"):
            shutil.copytree(artifacts, folder / "killed" / artifacts.name)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(folder), *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        lines, label = [], ""
        for line in process.stdout:
            lines.append(line)
            label = line.split(maxsplit=1)[1].strip() if line.startswith("START") else label
            if label == "train-rec[ict seed=1]" and "epoch 3:" in line:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "".join(lines)
    work = next((folder / "killed" / "train-rec" / ".partial").glob("*/work/last/state.json"))
    epochs = json.loads(work.read_text())["epochs"]
    assert len(epochs) >= 2
    left = {step.node.label for step in planned(folder, *SMALL, artifacts="killed") if step.runs}
    assert left == {"train-rec[ict seed=1]", "predict[none seed=1]", "predict[ict seed=1]", "evaluate"}
    resumed = run(folder, *SMALL, artifacts="killed")
    assert resumed["train-rec[ict seed=1]"][1].report["epochs"][: len(epochs)] == epochs  # timings, too: not run again
    measured = [{key: value for key, value in arm.items() if key not in ("seconds_per_epoch", "peak_megabytes")}
                for found in (whole, resumed) for arm in found["evaluate"][1].report["arms"]]  # fmt: skip
    assert measured[:2] == measured[2:]
    for arm in ("none", "ict"):
        name = Path("predictions") / f"{arm}-seed1.parquet"
        tables = [pq.read_table(found["evaluate"][0].folder / name) for found in (whole, resumed)]
        assert tables[0].equals(tables[1])


@pytest.fixture(scope="module")
def broken(done, folder) -> tuple[subprocess.CompletedProcess, Result]:
    """A comparison in which two arms fail, from the command line, then again in this process."""
    variants = [{"name": name, "set": changes} for name, changes in BROKEN.items()]
    (folder / "broken.yaml").write_text(
        "extends: recipe.yaml\nname: broken\n"
        f"rec: {{compare: [none, text], augment: text, variants: {json.dumps(variants)}, baselines: [], seeds: [1]}}\n"
    )
    command = ["run", str(folder / "broken.yaml"), "--set", "search=", "--artifacts", str(folder / "artifacts")]
    return commands.llmcf(*command, COLUMNS="200"), CliRunner().invoke(app, command)


def evaluation(folder: Path, name: str) -> tuple[Path, dict]:
    """Folder and report of a recipe's comparison."""
    for path in (folder / "artifacts" / "evaluate").glob("*/manifest.json"):
        manifest = json.loads(path.read_text())
        if manifest["recipe"] == name:
            return path.parent, manifest["report"]
    raise AssertionError(f"no comparison of {name}")


def test_arms_that_fail_are_named_with_their_reasons_and_the_others_compared(broken, folder):
    first, _ = broken
    assert first.returncode == 1, first.stdout + first.stderr
    assert "Traceback" not in first.stdout + first.stderr
    where, report = evaluation(folder, "broken")
    assert [arm["arm"] for arm in report["arms"]] == ["none", "text"]
    assert list(report["failed"]) == list(BROKEN)
    assert "loss is" in report["failed"]["diverging"]
    assert "rec.fit.learning_rate" in report["failed"]["diverging"]
    markdown = (where / "comparison.md").read_text()
    for name, why in report["failed"].items():
        assert f"{name} failed: {why}" in " ".join(first.stdout.split())
        assert f"- {name}: {why}" in markdown
    assert json.loads((where / "comparison.json").read_text())["failed"] == report["failed"]
    served = report["served"]
    assert Path(served["bundle"]).is_dir()
    assert served["validation"][served["arm"]] == max(served["validation"].values())


def test_running_again_tries_the_failed_arms_and_nothing_else(broken, folder):
    _, second = broken
    assert second.exit_code == 1
    started = [line for line in second.stdout.splitlines() if line.startswith("▶")]
    assert len(started) == 2, second.stdout
    assert started[0].startswith("▶ gen-cot ")
    assert started[1].startswith("▶ train-rec[diverging seed=1]")
    assert "every stage is cached" not in second.stdout


def test_a_mended_arm_joins_the_comparison(broken, folder):
    kept = [{"name": "diverging", "set": {"rec.augment": "none", "rec.fit.learning_rate": 1e-2}}]
    changes = ["search=", f"rec.variants={json.dumps(kept)}"]
    context = open_context(load_recipe(folder / "broken.yaml", changes), folder / "artifacts")
    steps = plan(context, [Evaluate()])
    assert {s.node.label for s in steps if s.runs} == {
        "train-rec[diverging seed=1]",
        "predict[diverging seed=1]",
        "evaluate",
    }
    run_steps(context, steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None,
              on_failure=lambda step, error: pytest.fail(str(error)))  # fmt: skip
    report = context.store.manifest("evaluate", steps[-1].node.key).report
    assert [arm["arm"] for arm in report["arms"]] == ["none", "text", "diverging"]
    assert report["failed"] == {}


def test_a_failure_before_all_arms_is_one_error(folder, tmp_path):
    """Without a usable data set there is nothing to compare."""
    command = ["run", "recipe.yaml", "--set", "dataset.label.positive_from=99"]
    done = commands.llmcf(*command, cwd=folder, LLMCF_ARTIFACTS=str(tmp_path))
    assert done.returncode == 3, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")


def test_predictions_hold_the_same_samples_for_all_arms(done):
    tables = [pq.read_table(path, columns=["sample_id", "label"])
              for path in (done["evaluate"][0].folder / "predictions").iterdir()]  # fmt: skip
    assert len(tables) == len(BASELINES) + 2 * len(TRAINED)
    assert all(isinstance(table, pa.Table) and table.equals(tables[0]) for table in tables)
