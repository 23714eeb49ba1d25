"""Requests as users write them to files, and what they hear about files that hold none."""

import json

import duckdb
import pyarrow as pa
import pytest

from llmcf_cli.core.errors import DataError
from llmcf_cli.serve.requests import read_requests

ROWS = [("u1", "242", ["50", "7"]), ("u2", "1", [])]
HEADER = "user_id,item_id,history\n"


def rows(path):
    return [tuple(row.values()) for row in read_requests(path).select(["user_id", "item_id", "history"]).to_pylist()]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_holds_histories_as_quoted_lists_and_ids_as_text(tmp_path, mark):
    file = tmp_path / "requests.csv"
    lines = [("user_id", "item_id ", "history"), (" u1 ", "007", '"[50, 7]"'), ("u2", "1", "[]"), ("", "1", "")]
    file.write_text("\n".join(mark.join(line) for line in lines) + "\n\n", encoding="utf-8-sig")
    assert rows(file) == [("u1", "007", ["50", "7"]), ("u2", "1", []), (None, "1", None)]


def test_json_and_parquet_hold_histories_as_lists(tmp_path):
    objects = [dict(zip(HEADER.strip().split(","), row, strict=True)) for row in ROWS]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(one) + "\n" for one in objects))
    (tmp_path / "r.json").write_text(json.dumps(objects))
    duckdb.register("asked", pa.Table.from_pylist(objects))
    duckdb.sql("FROM asked").write_parquet(str(tmp_path / "r.parquet"))
    for name in ("r.jsonl", "r.json", "r.parquet"):
        assert rows(tmp_path / name) == ROWS


def test_times_of_a_csv_are_numbers(tmp_path):
    (tmp_path / "r.csv").write_text("user_id,item_id,time\nu,1, 12\nu,1,\n")
    assert read_requests(tmp_path / "r.csv")["time"].to_pylist() == [12, None]


@pytest.mark.parametrize(
    ("name", "content", "where", "said"),
    [
        ("r.txt", "", "r.txt", "cannot read .txt file"),
        ("r.csv", "", "r.csv", "is empty"),
        ("r.csv", HEADER + "u,1,1 2 3\n", "r.csv, request 1", "the history '1 2 3' is no list of item ids"),
        ("r.csv", HEADER + 'u,1,[]\nu,1,a;b\nu,1,c\n', "r.csv, request 2", "'a;b' is no list of item ids (2 are not)"),
        ("r.csv", "user_id,item_id,time\nu,1,soon\n", "r.csv, request 1", "the time 'soon' is no whole number"),
        ("r.csv", HEADER + "u,1,[3, 4]\n", "r.csv", "r.csv:2: more than 3 columns: 'u,1,[3, 4]'"),
        ("r.csv", HEADER + "u,1,[]\n" * 60 + "u,1\n", "r.csv", "r.csv:62: fewer than 3 columns: 'u,1'"),
        ("r.csv", HEADER + '"u,1,[]\n', "r.csv", "r.csv:2: a quote that is not closed"),
        ("r.csv", HEADER + "u,1,[]\n" * 9 + "u,1,[]\r\n" * 9, "r.csv:11", "lines end in \\n up to here and in \\r\\n"),
        ("r.csv", (HEADER + "ü,1,[]\n").encode("latin-1"), "r.csv", "r.csv:2: not utf-8"),
        ("r.csv", (HEADER + "u,1,[]\n").encode("utf-16"), "r.csv:1", "is utf-16, not utf-8"),
        ("r.csv", "user_id,user_id,item_id\n", "r.csv:1", "names a column twice"),
        ("r.jsonl", '{"user_id": "1", "item_id": "2"}\n{"user_id"\n', "r.jsonl:2", "is no JSON (Malformed JSON"),
        ("r.json", '[{"user_id": "1"', "r.json", "is no JSON (Malformed JSON"),
        ("r.parquet", "nothing", "r.parquet", "is no Parquet file ("),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_explained(tmp_path, name, content, where, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_requests(tmp_path / name)
    assert caught.value.where == str(tmp_path / where)
    assert said in caught.value.what
    assert "Error:" not in str(caught.value), "in words of ours"


def test_a_history_is_shown_as_it_should_be(tmp_path):
    (tmp_path / "r.csv").write_text(HEADER + "u,1,1 2 3\n")
    with pytest.raises(DataError) as caught:
        read_requests(tmp_path / "r.csv")
    assert '"[1, 2, 3]"' in caught.value.hint


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_missing_columns_are_told_from_those_that_are_there(tmp_path, ending):
    content = {"csv": "user,item\n1,2\n", "jsonl": '{"user": 1, "item": 2}\n'}[ending]
    (tmp_path / f"r.{ending}").write_text(content)
    with pytest.raises(DataError, match='lack the columns "user_id" and "item_id"; found: user, item') as caught:
        read_requests(tmp_path / f"r.{ending}")
    assert caught.value.allowed[:2] == ("user_id", "item_id")
    assert caught.value.hint == "rename user to user_id, item to item_id"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_requests(tmp_path / "r.csv")
