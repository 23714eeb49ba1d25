"""Sweep and comparison of language models from end to end, on a tiny random model and benchmarks made up here."""

from __future__ import annotations

import json
from pathlib import Path

import commands
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pages import Elements

from llmcf_cli.stages.look.made import run_of_folder
from llmcf_cli.stages.look.page.models import gather_models
from llmcf_cli.stages.look.page.render import html

RECIPE = """\
extends: quickstart
name: sweep
dataset:
  source:
    type: csv
    interactions: events.csv
    items: items.csv
    columns: {user: user, item: item, time: time, rating: rating}
  text: {item: "{{title}}", user: ""}
llm:
  model: model
  mix:
    - {source: {type: recommendation, max_history: 3}, share: 0.5}
    - {source: {type: jsonl, path: general.jsonl, input: ''}, share: 0.5}
  count: 16
  tune: {type: full, learning_rate: 1.0e-3, max_length: 400, batch_size: 4, precision: fp32}
ability: {data: benchmarks, tasks: [arc_easy, lambada_openai], limit: 12, count: 100, precision: fp32}
balance: {shares: [1.0], amounts: [0.5]}
"""


def llmcf(*arguments: str, cwd: Path, code: int = 0) -> str:
    done = commands.llmcf(*arguments, cwd=cwd, COLUMNS="250")
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, write_ratings, tiny_llm) -> Path:
    folder = tmp_path_factory.mktemp("balance")
    write_ratings(folder, users=12, items=30)
    lines = [json.dumps({"instruction": f"say {w} {n}", "output": f"{w}, {n} times"})
             for n, w in enumerate(tiny_llm.WORDS)]  # fmt: skip
    (folder / "general.jsonl").write_text("\n".join(lines))
    (folder / "benchmarks").mkdir()
    rows = 20
    pq.write_table(
        pa.table({"query": [f"Question: which river {n}?" for n in range(rows)], "gold": [n % 3 for n in range(rows)],
                  "choices": [[f"quiet {n}", "warm", f"bold story {n}"] for n in range(rows)]}),
        folder / "benchmarks" / "arc_easy.parquet",
    )  # fmt: skip
    pq.write_table(
        pa.table({"context": [f"the user liked a film about space {n} and quiet" for n in range(rows)],
                  "continuation": ["rivers"] * rows}),
        folder / "benchmarks" / "lambada_openai.parquet",
    )  # fmt: skip
    (folder / "sweep.yaml").write_text(RECIPE)
    (folder / "balance.txt").write_text(llmcf("balance", "sweep.yaml", cwd=folder))
    return folder


def report_of(workplace: Path, stage: str) -> tuple[Path, dict]:
    (path,) = (workplace / "artifacts" / stage).glob("*/manifest.json")
    return path.parent, json.loads(path.read_text())["report"]


def test_the_sweep_measures_every_point_and_the_base_model(workplace):
    folder, report = report_of(workplace, "balance")
    sizes = [(row["name"], row.get("recommendation"), row.get("general")) for row in report["rows"]]
    assert sizes == [
        ("base", None, None), ("mixed 0.5", 8, 8), ("recommendation only", 16, 0),
        ("mixed 0.5, 50 % of the data", 4, 8),
    ]  # fmt: skip
    for row in report["rows"]:
        assert set(row["measures"]) == {"auc", "logloss", "mass", "general", "arc_easy", "lambada_openai", "perplexity"}
        assert row["measures"]["auc"]["n"] == 19
        assert row["measures"]["arc_easy"]["n"] == 12
        assert all(estimate["standard_error"] is not None for estimate in row["measures"].values())
    losses = [row["measures"]["logloss"]["value"] for row in report["rows"]]
    assert len(set(losses)) == 4, "every mix makes another model"
    for name in ("ability.json", "ability.md", "ability.parquet", "balance.png", "balance.html"):
        assert (folder / name).stat().st_size > 100, name
    assert len(list((workplace / "artifacts" / "train-llm").glob("*/manifest.json"))) == 3
    text = (workplace / "balance.txt").read_text()
    assert "mixed 0.5" in text
    assert "±" in text
    assert "chosen" in text


def test_comparing_the_recipes_own_model_afterwards_asks_nothing_again(workplace):
    text = llmcf("eval-llm", "sweep.yaml", cwd=workplace)
    assert text.count("▶") == 1, "the comparison alone is new"
    folder, report = report_of(workplace, "eval-llm")
    _, sweep = report_of(workplace, "balance")
    assert [row["measures"] for row in report["rows"]] == [row["measures"] for row in sweep["rows"][:2]]
    for name in ("ability.json", "ability.md", "ability.parquet", "ability.png", "ability.html"):
        assert (folder / name).stat().st_size > 100, name
    assert "difference" in text


@pytest.mark.parametrize("stage", ["eval-llm", "balance"])
def test_the_report_says_what_was_measured(workplace, stage):
    printed = llmcf(stage, "sweep.yaml", cwd=workplace)
    folder, report = report_of(workplace, stage)
    run = run_of_folder(folder)
    file = workplace / "artifacts" / "report" / f"{run.key[:16]}.html"
    assert str(file) in printed
    assert str(workplace / "again.html") in llmcf("report", str(folder), "--out", str(workplace / "again.html"),
                                                  cwd=workplace)  # fmt: skip
    assert (workplace / "again.html").read_text() == file.read_text()
    page = gather_models(run)
    found = Elements(html(page))
    assert not {"script", "link", "img"} & {tag for tag, _ in found.tags}
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a["href"][1:] in ids for tag, a in found.tags if tag == "a")
    assert all(a.get("aria-label") for tag, a in found.tags if tag == "svg")
    text = " ".join(found.text)
    assert all(f"{100 * row['measures']['general']['value']:.1f} ±" in text for row in report["rows"])
    tones = {"better than": "good", "worse than": "bad", "not shown to differ from": "open"}
    changes = {row["name"]: row["differences"] for row in report["rows"][1:]}
    told = [s for s in page.verdict if "“base”" in s.text]
    assert told
    for statement in told:
        change = changes[statement.text.split("“")[1].split("”")[0]][
            "auc" if statement.text.startswith("Recommendation AUC") else "general"
        ]  # fmt: skip
        low, high = (change["value"] + sign * 1.96 * change["standard_error"] for sign in (-1, 1))
        expected = "good" if low > 0 else "bad" if high < 0 else "open"
        assert statement.tone == expected == next(tone for words, tone in tones.items() if words in statement.text)
    drawn = page.charts[0].rows
    assert len(drawn) == 4  # models of the sweep; of eval-llm AUC, general ability and two benchmarks
    assert [s.tone for s in page.verdict if "★" in s.text or "no point" in s.text] == (
        [] if stage == "eval-llm" else ["good" if report["chosen"] else "open"]
    )  # fmt: skip
    assert set(page.glossary) >= {"recommendation AUC", "general ability", "ARC-easy", "base"}


def test_a_model_that_was_not_tuned_on_the_question_is_named_as_such(workplace):
    general = "[{source: {type: jsonl, path: general.jsonl, input: ''}, share: 1}]"
    changed = ["--set", f"llm.mix={general}", "--set", "balance=", "--artifacts", "untuned", "--set", "ability.data="]
    text = llmcf("eval-llm", "sweep.yaml", *changed, cwd=workplace)
    note = "llm.mix has no recommendation source: the model was not tuned on the recommendation question"
    assert note in text
    assert "general ability is not measured: ability.data is not set" in text
    (table,) = (workplace / "untuned" / "eval-llm").glob("*/ability.md")
    assert note in table.read_text()
    assert note not in llmcf("eval-llm", "sweep.yaml", cwd=workplace)


def test_a_second_sweep_repeats_nothing(workplace):
    assert "▶" not in llmcf("balance", "sweep.yaml", cwd=workplace)


def test_a_point_that_fails_does_not_stop_the_others(workplace):
    """More general pairs are wanted than there are, but not where recommendation data stand alone."""
    changed = ["--set", "llm.count=100", "--set", "balance.amounts=[1.0]", "--artifacts", "lost"]
    text = llmcf("balance", "sweep.yaml", *changed, cwd=workplace, code=1)
    assert "mixed 0.5 failed: llm.count" in text
    (path,) = (workplace / "lost" / "balance").glob("*/manifest.json")
    report = json.loads(path.read_text())["report"]
    assert [row["name"] for row in report["rows"]] == ["base", "recommendation only"]
    assert list(report["failed"]) == ["mixed 0.5"]
