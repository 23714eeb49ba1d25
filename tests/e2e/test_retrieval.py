"""Candidate retrieval through the stages: from events to a comparison, a bundle and lists for users."""

from __future__ import annotations

import csv
import json
import math
import shutil
from pathlib import Path

import commands
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import retrieval_world
from scipy.stats import ttest_rel

from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.look.made import run_of_folder
from llmcf_cli.stages.look.page.content import gather
from llmcf_cli.stages.look.page.render import html
from llmcf_cli.stages.pipeline import open_context, run_steps
from llmcf_cli.stages.steps.evaluate import Evaluate
from llmcf_cli.store.open import connect_read

RECIPE = """\
name: rings
dataset:
  source:
    type: csv
    interactions: events.csv
    items: items.csv
    columns: {user: user, item: item, rating: rating, time: time}
  label: {type: rating, positive_from: 4}
  split: {type: global_time, validation: 0.15, test: 0.15}
  history: {max_length: 8}
cot: {sample: {count: 10}, engine: {type: facts}}
match: {space: {type: text, encoder: {type: hashing}}}
rec:
  task: retrieval
  backbone: {type: gru4rec, embedding_dim: 16, hidden: 16}
  augment: none
  objectives: [{type: sampled_softmax, negatives: 32}]
  fit: {batch_size: 32, learning_rate: 0.01, weight_decay: 0, epochs: 3, patience: 3}
  compare: [none, text_init, text_tower]
  variants: [{name: full, set: {rec.objectives: [softmax]}}]
  baselines: [top_popular, top_recent, item_neighbours, ease, text_neighbours]
  references: [none]
  seeds: [1, 2]
"""
BASELINES = ["top_popular", "top_recent", "item_neighbours", "ease", "text_neighbours"]
ARMS = ["none", "text_init", "text_tower", "full"]


def run(folder: Path, *changes: str):
    """The steps of a run and where the comparison is; what failed is told by it."""
    context = open_context(load_recipe(folder / "recipe.yaml", changes), folder / "artifacts")
    steps = run_steps(
        context, plan(context, [Evaluate()]), SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None,
        on_failure=lambda step, error: None,
    )  # fmt: skip
    return steps, json.loads((steps[-1].node.folder / "comparison.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rings")
    retrieval_world.write_events(folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


@pytest.fixture(scope="module")
def ran(folder):
    return run(folder)


def predictions(ran, arm, seed) -> pa.Table:
    return pq.read_table(ran[0][-1].node.folder / "predictions" / f"{arm}-seed{seed}.parquet")


def per_user(table, value) -> list[float]:
    found: dict[int, list[float]] = {}
    for row in table.select(["user_row", "rank"]).to_pylist():
        found.setdefault(row["user_row"], []).append(value(row["rank"]))
    return [sum(found[user]) / len(found[user]) for user in sorted(found)]


def ndcg(rank):
    return 1 / math.log2(1 + rank) if 1 <= rank <= 10 else 0.0


def test_the_comparison_is_of_what_is_stored(ran):
    _, report = ran
    assert [arm["arm"] for arm in report["arms"]] == [*BASELINES, *ARMS]
    assert not report["failed"]
    assert "hr@10" in {measure["name"] for measure in report["measures"]} <= set(report["arms"][0]["measures"])
    assert report["protocol"]
    for arm in report["arms"]:
        seeds = [1] if arm["arm"] in BASELINES else [1, 2]
        tables = [predictions(ran, arm["arm"], seed) for seed in seeds]
        for name, value in (("ndcg@10", ndcg), ("hr@5", lambda rank: float(1 <= rank <= 5)),
                            ("mrr@50", lambda rank: 1 / rank if 1 <= rank <= 50 else 0.0)):  # fmt: skip
            expected = np.mean([np.mean(per_user(table, value)) for table in tables])
            assert arm["measures"][name]["mean"] == pytest.approx(expected)
        for table in tables:
            for row in table.select(["rank", "listed", "target", "item_row"]).to_pylist():
                assert row["target"] == row["item_row"]
                assert (row["target"] in row["listed"]) == (1 <= row["rank"] <= 50)
                assert not 1 <= row["rank"] <= 50 or row["listed"][row["rank"] - 1] == row["target"]


def test_differences_are_tested_over_users(ran):
    found = next(d for d in ran[1]["differences"] if d["arm"] == "text_tower")
    first, second = (
        np.mean([per_user(predictions(ran, arm, seed), ndcg) for seed in (1, 2)], axis=0)
        for arm in ("none", "text_tower")
    )
    assert found["p_value"] == pytest.approx(ttest_rel(second, first).pvalue)
    assert found["difference"] == pytest.approx(np.mean(second) - np.mean(first))


def test_the_report_tells_of_single_queries(ran):
    """Gains from the stored ranks, ranks as means over the seeds, lists as stored."""
    page = gather(run_of_folder(ran[0][-1].node.folder))
    cases = page.cases
    stored = {arm: [predictions(ran, arm, seed) for seed in (1, 2)] for arm in ARMS}
    ids = stored["none"][0]["sample_id"].to_pylist()
    with connect_read(
        next(step.node.folder for step in ran[0] if step.node.stage.name == "ingest") / "data.duckdb"
    ) as con:
        texts = dict(con.execute("SELECT item_row, text FROM item").fetchall())
    assert {case.kind for case in cases.cases} >= {"random"}
    for case in cases.cases:
        at = ids.index(case.shown.query.sample_id)
        ranks = {arm: [table["rank"][at].as_py() for table in tables] for arm, tables in stored.items()}
        assert case.scores == pytest.approx({arm: np.mean(of) for arm, of in ranks.items()})
        value = {arm: np.mean([ndcg(rank) for rank in of]) for arm, of in ranks.items()}
        assert case.gain == pytest.approx(value[cases.arm] - value[cases.reference])
        for arm, tables in stored.items():
            assert case.listed[arm] == [texts[row] for row in tables[0]["listed"][at].as_py()[:5]]
        assert case.owed is None
    text = html(page)
    assert "target&#39;s rank" in text
    assert cases.measure == "NDCG@10"


def test_lists_online_are_those_offline(folder, ran):
    served = ran[1]["served"]
    stored = predictions(ran, served["arm"], served["seed"]).slice(0, 40)
    (database,) = (folder / "artifacts" / "ingest").glob("[!.]*/data.duckdb")
    with connect_read(database) as connection:
        connection.register("stored", stored)
        asked = connection.sql(
            "WITH ids AS (SELECT list(item_id ORDER BY item_row) AS by_row FROM item) "
            "SELECT p.user_id, make_timestamptz(s.time) AS time, "
            "list_transform(s.history, lambda h: ids.by_row[h]) AS history, "
            "list_transform(p.listed, lambda h: CASE WHEN h > 0 THEN ids.by_row[h] END) AS listed "
            "FROM sample s JOIN stored p USING (sample_id), ids ORDER BY sample_id"
        ).to_arrow_table()
    scorer, compared = Scorer.load(served["bundle"]), 0
    for row in asked.to_pylist():
        if not row["history"]:
            continue  # refused online
        request = {name: row[name] for name in ("user_id", "time", "history")}
        found = scorer.recommend(pa.Table.from_pylist([request]), 20)["item_id"].to_pylist()
        assert found == row["listed"][:20]
        compared += 1
    assert compared > 20


def test_a_second_run_repeats_nothing(folder, ran):
    steps, _ = run(folder)
    assert not any(step.runs for step in steps)


def test_sequences_are_learned(ran):
    by_arm = {arm["arm"]: arm["measures"]["ndcg@10"]["mean"] for arm in ran[1]["arms"]}
    assert by_arm["item_neighbours"] > 2 * by_arm["top_popular"]
    assert max(by_arm[arm] for arm in ARMS) > 1.5 * by_arm["top_popular"]


def test_seen_items_stay_where_the_recipe_says_so(folder, ran):
    steps, report = run(folder, "rec.task={type: retrieval, filter_seen: false}", "rec.compare=[none]",
                        "rec.variants=[]", "rec.baselines=[top_popular]", "rec.seeds=[1]")  # fmt: skip
    assert report["protocol"] != ran[1]["protocol"]
    listed = [
        pq.read_table(found / "predictions" / "top_popular-seed1.parquet")["listed"].to_pylist()
        for found in (steps[-1].node.folder, ran[0][-1].node.folder)
    ]
    assert len({tuple(row) for row in listed[0]}) == 1
    assert len({tuple(row) for row in listed[1]}) > 1


def test_a_bundle_without_histories_is_measured_as_any_other(folder, ran):
    _, report = run(folder, "serve.histories=false", "rec.compare=[none]", "rec.variants=[]", "rec.baselines=[]",
                    "rec.seeds=[1]", "rec.references=[]")  # fmt: skip
    assert not report["failed"]
    (arm,) = report["arms"]
    stored = predictions(ran, "none", 1)
    assert arm["measures"]["ndcg@10"]["mean"] == pytest.approx(np.mean(per_user(stored, ndcg)))
    assert not len(Scorer.load(report["served"]["bundle"]).model.resources.get("events").taken.item_E)


def test_a_baseline_that_needs_a_clock_fails_alone(tmp_path):
    retrieval_world.write_events(tmp_path)
    text = RECIPE.replace("time: time}", "position: time}").replace(
        "{type: global_time, validation: 0.15, test: 0.15}", "{type: leave_one_out}"
    )
    (tmp_path / "recipe.yaml").write_text(text)
    _, report = run(tmp_path, "rec.compare=[none]", "rec.variants=[]", "rec.seeds=[1]", "rec.fit.epochs=1",
                    "rec.baselines=[top_popular, top_recent]")  # fmt: skip
    assert list(report["failed"]) == ["top_recent"]
    assert [arm["arm"] for arm in report["arms"]] == ["top_popular", "none"]


def llmcf(folder: Path, *words: str, code: int = 0) -> str:
    done = commands.llmcf(*words, cwd=folder, COLUMNS="200")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_command_lists_items(folder, ran):
    bundle = ran[1]["served"]["bundle"]
    told = llmcf(folder, "recommend", bundle, "--user", "u0", "-k", "3", "--deny", "i01")
    assert [line.split()[0] for line in told.splitlines()[3:6]] == ["1", "2", "3"]
    assert "i01" not in "".join(told.splitlines()[3:6])
    assert "i99" in llmcf(folder, "recommend", bundle, "--user", "new", "--history", "i01, i99")
    assert "list-too-short" in llmcf(folder, "recommend", bundle, "--user", "u0", "-k", "60", code=3)
    assert "history-missing" in llmcf(folder, "recommend", bundle, "--user", "new", code=3)
    same = [
        llmcf(folder, "recommend", bundle, "--user", "new", "--history", one) for one in ("i01,i02", '["i01", "i02"]')
    ]
    assert same[0] == same[1]
    assert "'a,b'" in llmcf(folder, "recommend", bundle, "--user", "u0", "--deny", '["a,b"]', code=3)
    assert "json-invalid" in llmcf(folder, "recommend", bundle, "--user", "u0", "--deny", "[1", code=3)


def test_the_command_shows_texts_and_the_last_events_where_the_run_is_beside_the_bundle(folder, ran, tmp_path):
    bundle = Path(ran[1]["served"]["bundle"])
    words = "--user", "new", "--history", "i01,i02,i03,i04"
    with (folder / "items.csv").open(newline="") as file:
        titles = {row["item"]: row["title"] for row in csv.DictReader(file)}
    lines = llmcf(folder, "recommend", str(bundle), *words, "-k", "3").splitlines()
    for line in lines[3:6]:
        _, item, _, text = line.split(maxsplit=3)
        assert text.startswith(titles[item])
    (last,) = (line for line in lines if line.startswith("took last: "))
    assert [last.find(titles[item]) > 0 for item in ("i01", "i02", "i03", "i04")] == [False, True, True, True]
    assert last.find(titles["i04"]) < last.find(titles["i03"]) < last.find(titles["i02"])
    shutil.copytree(bundle, tmp_path / "moved")
    told = llmcf(folder, "recommend", str(tmp_path / "moved"), *words, "-k", "3")
    assert "took last: i04; i03; i02" in told
    assert "text" not in told.splitlines()[2]


@pytest.mark.parametrize(
    ("change", "at"),
    [("rec.fit.monitor=auc", "rec.fit.monitor"), ("rec.backbone=deepfm", "rec.backbone"),
     ("rec.objectives=[bce]", "rec.objectives.0"), ("rec.baselines=[popularity]", "rec.baselines.0"),
     ("rec.compare=[none, readout]", "rec.compare.1"),
     ("rec.compare=[none, ict]", "match.query"), ("rec.augment=text", "rec.augment"),
     ("rec.task=ranking", "rec.backbone")],
)  # fmt: skip
def test_parts_of_another_task_are_refused(folder, change, at):
    assert at in llmcf(folder, "recipe", "validate", "recipe.yaml", "--set", change, code=2)
