"""A shop's own tables through the real command line: what is told again, and judged again, of what is cached."""

import re
from functools import partial

import commands
import pytest

RECIPE = """\
extends: quickstart
name: mine
dataset:
  source:
    type: csv
    interactions: orders.csv
    items: items.csv
    columns: {user: customer, item: code, time: day}
  label: {type: implicit, negatives: popularity, per_positive: 1}
  split: {type: leave_one_out}
  k_core: {user: 1, item: 1}
  text: {item: "{{title}}", user: ""}
  limits: {empty_histories: 1, per_class: 0}
rec: {augment: text, compare: [none, text]}
"""


llmcf = partial(commands.llmcf, COLUMNS="200")


@pytest.fixture
def shop(tmp_path):
    """Twelve customers, each with two orders of two items at one time: every event is tied."""
    days = [f"u{u},i{(u + k) % 8},2025-01-{1 + u + k // 2:02}" for u in range(12) for k in range(4)]
    (tmp_path / "orders.csv").write_text("\n".join(["customer,code,day", *days]) + "\n")
    titles = [f"i{i},{'' if i < 4 else f'title {i}'}" for i in range(8)]
    (tmp_path / "items.csv").write_text("\n".join(["code,title", *titles]) + "\n")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    return tmp_path


def test_cached_data_are_told_and_judged_again(shop):
    first, again = (llmcf("ingest", "mine.yaml", cwd=shop) for _ in range(2))
    assert (first.returncode, again.returncode) == (0, 0), first.stderr
    assert "cached" in again.stdout
    told = [line for line in first.stdout.splitlines() if line.startswith(("!", "train", "k-core", "AUC"))]
    assert len(told) > 4
    assert set(told) <= set(again.stdout.splitlines()), "the stored report is printed"
    for command in (["run"], ["run", "--dry-run"]):
        done = llmcf(*command, "mine.yaml", "--set", "dataset.limits.tied_events=0.5", cwd=shop)
        assert done.returncode == 3, command
    enough = re.search(r"set dataset\.limits\.tied_events: ([\d.]+)", done.stderr)[1]
    assert llmcf("ingest", "mine.yaml", "--set", f"dataset.limits.tied_events={enough}", cwd=shop).returncode == 0
