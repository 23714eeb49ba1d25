"""Requests as users write them to files."""

import json

import pytest

from llmcf_cli.cli.serve import _read, score
from llmcf_cli.core.errors import DataError

NAMES = ("user_id", "item_id", "history")
ROWS = [("u1", "242", ["50", "7"]), ("u2", "1", [])]


def test_a_csv_holds_histories_as_lists(tmp_path):
    file = tmp_path / "requests.csv"
    file.write_text('user_id,item_id,history\nu1,242,"[50, 7]"\nu2,1,[]\n')
    assert [tuple(row.values()) for row in _read(file).select(list(NAMES)).to_pylist()] == [
        ("u1", 242, ["50", "7"]), ("u2", 1, []),
    ]  # fmt: skip


def test_json_lines_hold_histories_as_lists(tmp_path):
    file = tmp_path / "requests.jsonl"
    file.write_text("".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS))
    assert [tuple(row.values()) for row in _read(file).to_pylist()] == ROWS


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("requests.txt", "", "cannot read .txt"), ("requests.csv", 'user_id,history\nu1,"50;7"\n', "cannot be read")],
)
def test_what_cannot_be_read_is_an_error(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=said):
        _read(tmp_path / name)
    with pytest.raises(DataError, match="no such file"):
        _read(tmp_path / "missing.csv")


def test_scores_are_written_by_the_ending_or_not_at_all(tmp_path):
    with pytest.raises(DataError, match=r"cannot write \.txt"):
        score(tmp_path, tmp_path / "requests.csv", tmp_path / "scores.txt")
