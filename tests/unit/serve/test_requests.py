"""Requests as users write them to files, and what they hear about files that hold none."""

import json
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.serve.requests import RequestForm, read_requests, to_requests
from llmcf_cli.tabular.csv import MAX_HEADER
from llmcf_cli.tabular.times import TimeFormat

ROWS = [("u1", "242", ["50", "7"]), ("u2", "1", [])]
HEADER = "user_id,item_id,history\n"


FORM = RequestForm()


def rows(path):
    return [
        tuple(row.values()) for row in read_requests(path, FORM).select(["user_id", "item_id", "history"]).to_pylist()
    ]


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


MIDNIGHT = datetime(2017, 8, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("form", "written"),
    [
        (TimeFormat(), "2017-08-01 00:00:00"), (TimeFormat(), "2017-08-01T02:00+02:00"), (TimeFormat(), 1501545600),
        (TimeFormat(), "1501545600.0"), (TimeFormat("milliseconds"), 1501545600000),
        (TimeFormat("day_first", "Europe/Berlin"), "1.8.2017 2:00"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["csv", "jsonl", "json", "parquet"])
def test_times_are_written_as_in_the_data(tmp_path, ending, form, written):
    asked = [{"user_id": "u", "item_id": "1", "time": value} for value in (written, None)]
    found = read_requests(written_to(tmp_path / f"r.{ending}", asked), RequestForm("global", form))
    assert found["time"].to_pylist() == [MIDNIGHT, None]
    assert to_requests(asked, RequestForm("global", form)).equals(found)
    assert to_requests(found, RequestForm("global", form)).equals(found), "what is read stays what it is"


def written_to(file, asked):
    if file.suffix == ".csv":
        rows = [",".join(asked[0]), *(",".join("" if v is None else f'"{v}"' for v in row.values()) for row in asked)]
        file.write_text("\n".join(rows))
    elif file.suffix == ".jsonl":
        file.write_text("\n\n".join(map(json.dumps, asked)), encoding="utf-8-sig")
    elif file.suffix == ".json":
        file.write_text(json.dumps(asked, indent=1))
    else:
        pq.write_table(pa.Table.from_pylist(asked), file)
    return file


def test_positions_are_whole_numbers():
    form = RequestForm("per_user")
    asked = [{"user_id": "u", "item_id": "1", "time": time} for time in (7, "8", 9.0, None)]
    assert to_requests(asked, form)["time"].to_pylist() == [7, 8, 9, None]
    with refused("request-value", DataError, names=r"'7\.5'"):
        to_requests([{"user_id": "u", "item_id": "1", "time": 7.5}], form)


GUID = "5BC8FBBC-BDE5-4099-8164-D8399F767C45"


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv"])
@pytest.mark.parametrize("identifier", [GUID, "00007", "2020-01-01", "1e5", "true", " x ", 7, "12.0", "x,y"])
def test_ids_are_text(tmp_path, ending, identifier):
    asked = [{"user_id": identifier, "item_id": identifier}]
    expected = {" x ": "x", 7: "7", "12.0": "12"}.get(identifier, identifier)
    found = read_requests(written_to(tmp_path / f"r.{ending}", asked), FORM)
    assert [found[column][0].as_py() for column in ("user_id", "item_id")] == [expected] * 2


def test_ids_of_several_kinds_and_a_late_history_are_read(tmp_path):
    asked = [{"user_id": "g", "item_id": 7}, {"user_id": "g", "item_id": "00007"}] * 20_000
    asked.append({"user_id": "g", "item_id": 12.0, "history": [1, "00001", None, " 7 "]})
    found = read_requests(written_to(tmp_path / "r.jsonl", asked), FORM)
    assert found["item_id"].to_pylist()[-3:] == ["7", "00007", "12"]
    assert found["history"].to_pylist()[-2:] == [None, ["1", "00001", "7"]]


@pytest.mark.parametrize(
    "asked",
    [{"user_id": {"id": 1}, "item_id": "1"}, {"user_id": "1", "item_id": "1", "history": [{"item_id": "1"}]},
     {"user_id": "1", "item_id": ["1"]}, {"user_id": "1", "item_id": "1", "history": "50"}],
)  # fmt: skip
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_what_is_no_id_and_no_list_is_one_error(tmp_path, asked, ending):
    with pytest.raises(DataError):
        read_requests(
            written_to(tmp_path / f"r.{ending}", [{"user_id": "1", "item_id": "1"}, asked][ending == "parquet" :]), FORM
        )


def test_an_object_is_named_with_its_line(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"user_id": 1, "item_id": 1}\n\n{"user_id": 1, "item_id": {"id": 1}}\n')
    with refused("value-object", DataError) as caught:
        read_requests(tmp_path / "r.jsonl", FORM)
    assert str(caught.value.where) == f"{tmp_path / 'r.jsonl'}:3"


@pytest.mark.parametrize("history", ["['50', '7']", '["50","7"]', "[50, 7]", "[50.0, 7.0]", "[u50, u7]"])
def test_histories_of_a_csv_are_in_json_or_python_notation(tmp_path, history):
    quoted = history.replace('"', '""')
    (tmp_path / "r[1]*.csv").write_text(HEADER + f'u,1,"{quoted}"\n')
    (tmp_path / "r1x.csv").write_text(HEADER + "other,1,[]\n")
    assert [ids[-1].removeprefix("u") for _, _, ids in rows(tmp_path / "r[1]*.csv")] == ["7"]


@pytest.mark.parametrize(
    ("name", "content", "where", "said"),
    [
        ("r.txt", "", "r.txt", "cannot read .txt file"),
        ("r.csv", "", "r.csv", "is empty"),
        ("r.csv", HEADER + "u,1,1 2 3\n", "r.csv, request 1", "the history '1 2 3' is not a list of item ids"),
        ("r.csv", HEADER + 'u,1,[]\nu,1,a;b\nu,1,c\n', "r.csv, request 2", "'a;b' is not a list of item ids (2 are"),
        ("r.csv", "user_id,item_id,time\nu,1,soon\n", "r.csv, request 1", "the time 'soon' is not in the format"),
        ("r.csv", HEADER + "u,1,[3, 4]\n", "r.csv", "r.csv:2: more than 3 columns: 'u,1,[3, 4]'"),
        ("r.csv", HEADER + "u,1,[]\n" * 60 + "u,1\n", "r.csv", "r.csv:62: fewer than 3 columns: 'u,1'"),
        ("r.csv", HEADER + '"u,1,[]\n', "r.csv", "r.csv:2: a quote that is not closed"),
        ("r.csv", (HEADER + "ü,1,[]\n").encode("latin-1"), "r.csv", "r.csv:2: not utf-8"),
        ("r.csv", (HEADER + "u,1,[]\n").encode("utf-16"), "r.csv:1", "is utf-16, not utf-8"),
        ("r.csv", "user_id,user_id,item_id\n", "r.csv:1", "duplicate column 'user_id'"),
        ("r.jsonl", '{"user_id": "1", "item_id": "2"}\n{"user_id"\n', "r.jsonl", "r.jsonl:2: not JSON (Expecting ':'"),
        ("r.json", '[{"user_id": "1"', "r.json:1", "JSON array but is not one: Expecting ',' delimiter"),
        ("r.csv", f"user_id,item_id,{'x' * MAX_HEADER}\nu,1,2\n", "r.csv:1", "the first line is longer than"),
        ("r.parquet", "nothing", "r.parquet", "cannot be read"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_explained(tmp_path, name, content, where, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        read_requests(tmp_path / name, FORM)
    assert str(caught.value.where) == str(tmp_path / where)
    assert said in caught.value.what
    assert "Error:" not in str(caught.value), "in words of ours"


def test_a_history_is_shown_as_it_should_be(tmp_path):
    (tmp_path / "r.csv").write_text(HEADER + "u,1,1 2 3\n")
    with pytest.raises(DataError) as caught:
        read_requests(tmp_path / "r.csv", FORM)
    assert '["1", "2", "3"]' in caught.value.hint


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_missing_columns_are_told_from_those_that_are_there(tmp_path, ending):
    content = {"csv": "user,item\n1,2\n", "jsonl": '{"user": 1, "item": 2}\n'}[ending]
    (tmp_path / f"r.{ending}").write_text(content)
    with refused("column-missing", DataError, names='"user_id".*"item_id"') as caught:
        read_requests(tmp_path / f"r.{ending}", FORM)
    assert caught.value.allowed[:2] == ("user_id", "item_id")
    assert caught.value.hint == "rename user to user_id, item to item_id"


def test_a_missing_file_is_named(tmp_path):
    with refused("path-missing", DataError):
        read_requests(tmp_path / "r.csv", FORM)
