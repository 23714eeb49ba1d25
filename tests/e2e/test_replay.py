"""`llmcf replay`: windows, arms, what they cost, and that an interruption costs nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import refresh_world as shop
from refresh_world import chat_server, contents, invoke
from refusals import refused
from sklearn.metrics import roc_auc_score

from llmcf_cli.core.errors import DataError, LlmcfError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.stages.replay.record import _mean, difference_rows, differences

WORDS = ("--window", "100s", "--from", "1970-01-01T00:10:00", "--to", "1970-01-01T00:15:00")


def command(folder):
    return ["replay", folder / "recipe.yaml", "--artifacts", folder / "artifacts", *WORDS]


@pytest.fixture(scope="module")
def replayed(tmp_path_factory) -> Path:
    """A shop whose last windows were replayed."""
    folder = tmp_path_factory.mktemp("replay")
    shop.write_shop(folder)
    text = shop.RECIPE.replace("augment: ict", "augment: text").replace("serve: {reasoning: true}\n", "")
    (folder / "recipe.yaml").write_text(text)
    invoke(*command(folder))
    return folder


def found(folder) -> Path:
    (path,) = (folder / "artifacts" / "report" / "replay").glob("shop-*")
    return path


def rows(folder):
    return pq.read_table(found(folder) / "replay.parquet").to_pylist()


def test_each_window_has_the_rows_of_its_time_and_those_before_are_the_base(replayed):
    events = shop.first_events()
    base = pq.read_table(found(replayed) / "base.parquet")["t"].cast("int64").to_numpy()
    assert sorted(base) == sorted(time for *_, time in events if time < 600)
    for number in (1, 2, 3):
        window = pq.read_table(found(replayed) / f"window-{number:03}.parquet").to_pylist()
        start = 500 + 100 * number
        expected = sorted((user, item, time) for user, item, _, time in events if start <= time < start + 100)
        assert sorted((row["user_id"], row["item_id"], int(row["t"])) for row in window) == expected


def test_a_model_is_measured_by_what_it_says_before_it_learns(replayed):
    """The stale arm by scikit-learn, from requests that a plain loop over the events makes."""
    bundles = (replayed / "artifacts" / "train-rec").glob("*/bundle")
    (bundle,) = [one for one in bundles if not json.loads((one / "recipe.json").read_text())["dataset"]["added"]]
    scorer, seen, told = Scorer.load(bundle), set(), {}
    requests, label = [], []
    for user, item, rating, time in sorted(shop.first_events(), key=lambda row: row[3]):
        if (user, item) in seen:
            continue
        seen.add((user, item))
        if 600 <= time < 700:
            before = [one for one, at in told.get(user, []) if at < time]
            requests.append({"user_id": user, "item_id": item, "history": before, "time": time})
            label.append(rating >= 3)
        if rating >= 3:
            told.setdefault(user, []).append((item, time))
    first = next(row for row in rows(replayed) if row["window"] == 1 and row["arm"] == "stale")
    assert first["samples"] == len(label)
    assert first["auc"] == pytest.approx(roc_auc_score(label, scorer.score(requests)["logit"]), abs=1e-6)


def test_arms_start_alike_and_pay_for_what_they_do(replayed):
    by = {(row["window"], row["arm"]): row for row in rows(replayed)}
    assert {arm for _, arm in by} == {"stale", "items", "finetune", "full", "popular"}
    models = ("stale", "items", "finetune", "full")
    assert len({by[1, arm]["auc"] for arm in models}) == 1
    assert all(by[1, arm]["seconds"] == 0 for arm in models)
    for window in (2, 3):
        assert by[window, "stale"]["bytes"] == by[window, "popular"]["bytes"] == 0
        assert 0 < by[window, "items"]["seconds"] < by[window, "finetune"]["seconds"]
        assert by[window, "full"]["bytes"] > by[window, "items"]["bytes"] > 0
    assert not any(row["calls"] for row in by.values())
    assert all(not row["note"] for row in by.values())


def test_users_and_items_without_an_earlier_row_are_counted(replayed):
    events = sorted({(u, i): t for u, i, _, t in sorted(shop.first_events(), key=lambda r: -r[3])}.items(),
                    key=lambda one: one[1])  # fmt: skip
    for row in rows(replayed):
        start = 500 + 100 * row["window"]
        known = {user for (user, _), time in events if time < start}
        new = sum(user not in known for (user, _), time in events if start <= time < start + 100)
        assert row["new_users_samples"] == new


def test_the_same_command_again_changes_nothing(replayed):
    before = {path: digest for path, digest in contents(replayed).items() if path.suffix != ".png"}
    invoke(*command(replayed))
    assert {path: digest for path, digest in contents(replayed).items() if path.suffix != ".png"} == before


TWO = ("--window", "100s", "--from", "1970-01-01T00:10:00", "--to", "1970-01-01T00:13:20")


def test_texts_are_counted_for_each_arm_whoever_had_them_written_first(tmp_path):
    """By an engine that writes from the data: no calls. `full` comes after `examples`, and has the more texts."""
    shop.write_shop(tmp_path)
    invoke("replay", tmp_path / "recipe.yaml", "--artifacts", tmp_path / "artifacts", *TWO, "--level", "examples",
           "--level", "full", "--level", "items")  # fmt: skip
    by = {(row["window"], row["arm"]): row for row in rows(tmp_path)}
    assert not any(row["calls"] or row["new_tokens"] for row in by.values())
    assert by[2, "items"]["texts"] == by[2, "stale"]["texts"] == 0
    assert 0 < by[2, "examples"]["texts"] <= by[2, "full"]["texts"]
    reports = [json.loads(file.read_text()) for file in tmp_path.glob("artifacts/refresh/*/manifest.json")]
    (new,) = [one["report"]["examples"] for one in reports if one["report"]["level"] == "examples"]
    assert by[2, "examples"]["texts"] == new
    assert by[2, "examples"]["seconds"] > by[2, "items"]["seconds"] > 0


KNOWLEDGE = """
knowledge:
  user_prompt: prompts/kar_user.yaml
  item_prompt: prompts/kar_item.yaml
  engine: {{type: openai, model: m, base_url: "{url}"}}
"""


def test_the_refresh_of_what_is_written_about_users_and_items_is_counted_in_calls(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCF_CONFIG", str(tmp_path / "config"))
    shop.write_shop(tmp_path)
    with chat_server() as (url, asked):
        Permissions().allow_host(Host.of(url), None)
        text = shop.RECIPE.replace("augment: ict", "augment: kar").replace("serve: {reasoning: true}\n", "")
        (tmp_path / "recipe.yaml").write_text(text + KNOWLEDGE.format(url=url))
        said = invoke("replay", tmp_path / "recipe.yaml", "--artifacts", tmp_path / "artifacts", *TWO, "--level",
                      "examples")  # fmt: skip
    by = {(row["window"], row["arm"]): row for row in rows(tmp_path)}
    new = by[2, "examples"]
    base = int(re.search(r"before the first window: [0-9,]+ texts, ([0-9,]+) calls", said)[1].replace(",", ""))
    assert base > 0
    assert 0 < new["calls"] == len(asked) - base == new["texts"]
    assert (new["prompt_tokens"], new["new_tokens"]) == (50 * new["calls"], 9 * new["calls"])
    assert not by[2, "stale"]["calls"]


def test_what_counts_say_of_users_and_items_is_counted_in_texts(tmp_path):
    """A user is written about again once there are later events to write from, as a language model would have to."""
    shop.write_shop(tmp_path)
    text = shop.RECIPE.replace("augment: ict", "augment: kar").replace("serve: {reasoning: true}\n", "")
    (tmp_path / "recipe.yaml").write_text(text + "knowledge: {engine: facts}\n")
    invoke("replay", tmp_path / "recipe.yaml", "--artifacts", tmp_path / "artifacts", *TWO, "--level", "examples")
    by = {(row["window"], row["arm"]): row for row in rows(tmp_path)}
    told = [
        {(row["entity"], row["row"], row["as_of"]) for row in pq.read_table(file).to_pylist()}
        for file in tmp_path.glob("artifacts/knowledge/*/knowledge_text.parquet")
    ]
    assert len(told) == 2
    base, later = sorted(told, key=lambda one: max(as_of for _, _, as_of in one))
    assert 0 < by[2, "examples"]["texts"] == len(later - base) < len(later)
    assert not any(row["calls"] or row["new_tokens"] for row in by.values())
    assert not by[2, "stale"]["texts"]


def test_what_a_replay_needs_stays_until_it_is_finished_and_after_where_it_is_named(replayed, tmp_path):
    folder = Path(shutil.copytree(replayed, tmp_path / "shop"))
    clean = ["clean", folder / "recipe.yaml", "--artifacts", folder / "artifacts", "--json"]

    def going(*words):
        return {one["key"] for one in json.loads(invoke(*clean, *words)) if not one["busy"]}

    made = {file.parent.name for file in folder.glob("artifacts/*/*/manifest.json")}
    assert going() == made  # the recipe itself was never run
    assert not going(found(folder))
    state = json.loads((found(folder) / "state.json").read_text())
    del state["scored"]["3"]
    (found(folder) / "state.json").write_text(json.dumps(state))
    assert not going()


@pytest.mark.slow
def test_a_kill_costs_nothing(replayed, tmp_path):
    for file in ("events.csv", "items.csv", "recipe.yaml"):
        (tmp_path / file).write_bytes((replayed / file).read_bytes())
    words = [sys.executable, "-m", "llmcf_cli", *command(tmp_path)]
    for line in ("window 2", "  refresh", "  train-rec", "window 3"):
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}) as run:
            for said in run.stdout:
                if said.startswith(line):
                    break
            run.send_signal(signal.SIGKILL)
    invoke(*command(tmp_path))
    cheap = ("seconds", "bytes")
    ours, whole = ([{k: v for k, v in row.items() if k not in cheap} for row in rows(one)]
                   for one in (tmp_path, replayed))  # fmt: skip
    assert ours == whole


def test_differences_are_those_of_a_paired_t_test():
    rng = np.random.default_rng(0)
    value = {arm: rng.normal(size=6) for arm in ("stale", "items", "popular")}
    table = [{"window": w, "arm": arm, "auc": value[arm][w]} for w in range(6) for arm in value]
    table[0]["auc"] = None
    first, last = differences(table, "auc", "popular")
    difference = value["items"][1:] - value["stale"][1:]
    assert (first.arm, first.other, first.windows, last.windows) == ("items", "stale", 5, 6)
    assert first.mean == pytest.approx(difference.mean())
    t = difference.mean() / (difference.std(ddof=1) / 5**0.5)
    half = 2.7764451052 * difference.std(ddof=1) / 5**0.5
    assert first.interval == pytest.approx((first.mean - half, first.mean + half))
    assert (first.p_value < 0.05) == (abs(t) > 2.7764451052)


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("--window", "7 days"), "option-conflict", LlmcfError),
        (("--from", "tomorrow"), "option-conflict", LlmcfError),
        (("--level", "all"), "option-conflict", LlmcfError),
        (("--arm", "other"), "option-conflict", LlmcfError),
        (("--from", "2030-01-01"), "cut-outside", DataError),
    ],
)
def test_what_cannot_be_replayed_is_refused(tmp_path, words, code, kind):
    shop.write_shop(tmp_path)
    with refused(code, kind):
        invoke("replay", tmp_path / "recipe.yaml", "--artifacts", tmp_path / "artifacts", *words)


def test_small_chances_are_shown_as_such_and_a_single_window_as_one():
    arms = {"stale": [0.7, 0.7, 0.7], "full": [0.8001, 0.8, 0.7999]}
    table = [
        {"window": window, "arm": arm, "auc": value, "new_users_auc": value if window == 1 else None}
        for arm, values in arms.items() for window, value in enumerate(values)
    ]  # fmt: skip
    _, cells = difference_rows(differences(table, "auc", "popular"))
    (found,) = (row for row in cells if row[0] == "full − stale")
    assert found[-1] == "< 0.001"
    assert _mean(table, "full", "new_users_auc") == "0.8000 (1 window)"
