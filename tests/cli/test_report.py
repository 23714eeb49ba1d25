"""What is printed at the end of a run fits the terminal, however many arms there are."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from refusals import refused

from llmcf_cli.cli import report
from llmcf_cli.cli.console import console
from llmcf_cli.cli.findings import each_field
from llmcf_cli.cli.groups import same_run
from llmcf_cli.cli.opening import find_run
from llmcf_cli.cli.tables import GAP, fitting, text_table
from llmcf_cli.core.errors import LlmcfError, RecipeError


@pytest.mark.parametrize("total", [30, 80, 120])
def test_columns_are_dealt_into_tables_that_fit(total):
    widths = [15, 18, 16, 9, 20, 14, 6, 7, 10, 40]
    groups = fitting(widths, total)
    assert [place for group in groups for place in group] == list(range(1, len(widths)))
    for group in groups:
        assert len(group) == 1 or widths[0] + sum(widths[place] + GAP for place in group) <= total


@pytest.fixture
def terminal(monkeypatch):
    """Set the terminal's width; the one console reads it when it is made."""

    def set_width(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        console.cache_clear()

    yield set_width
    console.cache_clear()


@pytest.mark.parametrize(("columns", "tables"), [(40, 4), (60, 2), (100, 1)])
def test_no_cell_is_broken_and_no_line_is_longer_than_the_terminal(capsys, terminal, columns, tables):
    terminal(columns)
    titles = ["arm", "AUC ↑", "logloss ↓", "gAUC ↑", "parameters"]
    cells = [[f"arm number {n}", "0.7000 ± 0.0100", "0.6000 ± 0.0001", "0.7100 ± 0.0200", "1,000,000"] for n in (1, 2)]
    text_table(titles, cells, title="Test split")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    assert all(text.count(cell) == sum(row.count(cell) for row in cells) for row in cells for cell in row[1:])
    assert text.count("arm number 1") == tables


@dataclass
class Row:
    item: str
    times_taken: int
    share: float | None


@dataclass
class Report:
    positives: int
    note: str
    shares: dict[str, float]
    top: tuple[Row, ...]
    others: list[int]


@pytest.mark.parametrize("rows", [(Row("a [b]", 1234, 0.5), Row("c", 7, None)), ()])
def test_a_report_that_nobody_shows_is_its_fields_and_its_lists_of_dataclasses_as_tables(capsys, terminal, rows):
    terminal(100)
    each_field(Report(1241, "[as it is]", {"x": 0.25}, rows, [1]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[:3] == [["positives", "1,241"], ["note", "[as", "it", "is]"], ["shares", "x", "0.25"]]
    table = [["top"], ["item", "times", "taken", "share"], ["a", "[b]", "1,234", "0.5"], ["c", "7", "None"]]
    assert lines[3:] == (table if rows else [])


@pytest.mark.parametrize("stage", ["gen-cot", "train-rec[ict seed=1]"])
def test_why_a_step_failed_stands_under_its_line(capsys, terminal, stage):
    terminal(60)
    step = SimpleNamespace(node=SimpleNamespace(label=stage))
    reason = LlmcfError(
        "none of 200 chains of thought is usable: 200 [echo]", where="gen-cot", hint="llmcf cot preview"
    )
    report.failed_step(step, reason)
    report.failed_step(step, RecipeError([reason]))
    assert capsys.readouterr().out.splitlines() == [
        f"✗ {stage}",
        "  gen-cot: none of 200 chains of thought is usable: 200 [echo]",
        "    next: llmcf cot preview",
        f"✗ {stage}",
        "  1 problem in the recipe:",
        "  - gen-cot: none of 200 chains of thought is usable: 200 [echo]",
        "    next: llmcf cot preview",
    ]


def test_the_next_command_means_the_same_run():
    assert same_run("shop.yaml") == "shop.yaml"
    assert same_run("my own.yaml", ["match.k=6"], Path("made")) == "'my own.yaml' --set match.k=6 --artifacts made"


def test_the_beginning_of_several_keys_is_refused_and_names_them(tmp_path):
    for stage, key in (("evaluate", "abcdef0123456789"), ("predict", "abcdef9999999999")):
        (tmp_path / stage / key).mkdir(parents=True)
        (tmp_path / stage / key / "manifest.json").write_text("{}")
    with refused("key-ambiguous", LlmcfError) as caught:
        find_run("abcdef", (), tmp_path, None)
    assert caught.value.allowed == ("evaluate/abcdef0123456789", "predict/abcdef9999999999")
