"""Files of every kind: the same rows give the same values, and what is odd about a file is told or refused."""

from __future__ import annotations

import csv
import gzip
import json
import re
import tempfile
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import examples
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.tabular.csv import Dialect, read_csv
from llmcf_cli.tabular.jsonl import each_record, exact_json, literal_or_json, read_json
from llmcf_cli.tabular.lists import as_list, parse_lists
from llmcf_cli.tabular.parquet import read_parquet
from llmcf_cli.tabular.records import read_arrow, read_records
from llmcf_cli.tabular.sql import columns_of
from llmcf_cli.tabular.table import distinct_names, require_columns
from llmcf_cli.tabular.times import TimeFormat, with_times
from llmcf_cli.tabular.values import WHITE, as_id, as_number, as_text, is_number_text

COMMA = Dialect(",", '"', settings="dataset.source")
# Without NUL and line ends, which CSV files of other tools do not hold either, and without lone surrogates.
words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=10)
rows = st.lists(
    st.fixed_dictionaries({
        "id": st.one_of(st.none(), st.integers(-(10**15), 10**15)),
        "name": st.one_of(st.none(), words),
        "score": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        "at": st.one_of(st.none(), st.integers(0, 4_000_000_000)),
        "tags": st.lists(words.filter(lambda w: w.strip()), max_size=3),
    }),
    min_size=1, max_size=8,
)  # fmt: skip


@pytest.fixture
def con():
    with duckdb.connect() as connection:
        yield connection


def written(folder: Path, rows, ending: str) -> Path:
    file = folder / f"rows.{ending}"
    if ending == "csv":
        with file.open("w", newline="", encoding="utf-8") as handle:
            out = csv.DictWriter(handle, rows[0], quoting=csv.QUOTE_ALL)
            out.writeheader()
            out.writerows(rows)
    elif ending == "jsonl":
        file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    elif ending == "json":
        file.write_text(json.dumps(rows, ensure_ascii=False, indent=2), encoding="utf-8")
    else:
        pq.write_table(arrow(rows), file)
    return file


def arrow(rows):
    kinds = {
        "id": pa.int64(),
        "name": pa.string(),
        "score": pa.float64(),
        "at": pa.int64(),
        "tags": pa.list_(pa.string()),
    }
    return pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items())))


def meant(con, table):
    """Every column of a table by the conversion that it is for."""
    types = columns_of(con, table.relation)
    con.execute(f"CREATE OR REPLACE TABLE plain AS SELECT * FROM {table.relation}")
    parsed = None
    if types["tags"] == "VARCHAR":
        parsed = "parsed"
        parse_lists(con, "plain", "tags", parsed)
    relation = with_times(con, "plain", "at", types["at"], TimeFormat())
    return con.execute(
        f"SELECT {as_id('id', types['id'])}, {as_text('name', types['name'])}, {as_number('score', types['score'])}, "
        f"time, {as_list('tags', types['tags'], None, parsed)} FROM {relation}"
    ).fetchall()


@settings(suppress_health_check=list(HealthCheck), max_examples=examples(12))
@given(rows)
@example([{"id": None, "name": "1.0", "score": None, "at": None, "tags": ["0.", "+12.0", "-0.0", "-3.00", "1.5"]}])
def test_all_readers_agree(rows):
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as con:
        found = {}
        for ending in ("csv", "jsonl", "json", "parquet"):
            file = written(Path(folder), rows, ending)
            if ending == "csv":
                table = read_csv(con, file, "t", COMMA)
            else:
                table = read_parquet(con, file, "v") if ending == "parquet" else read_json(con, file, "t")
            assert table.bad.count == 0
            found[ending] = meant(con, table)
        found["arrow"] = meant(con, read_arrow(con, arrow(rows), "a", "rows"))
        found["records"] = meant(con, read_records(con, rows, "t", "rows"))
    expected = [
        (None if r["id"] is None else str(r["id"]), bare(r["name"]), r["score"],
         None if r["at"] is None else r["at"] * 1_000_000, [as_ids_are(tag) for tag in map(bare, r["tags"]) if tag])
        for r in rows
    ]  # fmt: skip
    for ending, values in found.items():
        assert values == expected, ending


def as_ids_are(value):
    """A text among ids: a whole number that is written as a float is whole."""
    found = re.fullmatch(r"([+-]?)([0-9]+)\.0*", value)
    sign, digits = found.groups() if found else ("", value)
    return sign + digits if sign == "-" and digits.strip("0") else digits


def bare(value):
    value = (value or "").strip(WHITE)
    return None if value in ("", "nan", "NaN") else value


@pytest.mark.parametrize("name", ["clicks[1].csv", "a*b.csv", "q?.csv", "{a,b}.csv", "it's.csv", "[[]].csv", "a b.csv"])
def test_a_path_is_that_file_alone(con, tmp_path, name):
    for decoy in ("clicks1.csv", "axb.csv", "qq.csv", "a.csv", "b.csv", "its.csv"):
        (tmp_path / decoy).write_text("x\nwrong\n")
    (tmp_path / name).write_text("x\nright\n")
    table = read_csv(con, tmp_path / name, "t", COMMA)
    assert con.execute(f"FROM {table.relation}").fetchall() == [("right",)]
    for ending, write in ((".parquet", lambda f, v: pq.write_table(pa.table({"x": [v]}), f)),
                          (".jsonl", lambda f, v: f.write_text(json.dumps({"x": v})))):  # fmt: skip
        write(tmp_path / (name + ending), "right")
        write(tmp_path / f"axb.csv{ending}", "wrong")
        read = read_parquet if ending == ".parquet" else read_json
        assert con.execute(f"FROM {read(con, tmp_path / (name + ending), 'o').relation}").fetchall() == [("right",)]
        con.execute("DROP VIEW IF EXISTS o" if ending == ".parquet" else "DROP TABLE IF EXISTS o")


def test_a_folder_of_parquet_files_is_one_table(con, tmp_path):
    folder = tmp_path / "day=[1]"
    folder.mkdir()
    pq.write_table(pa.table({"x": [1], "y": ["a"]}), folder / "1.parquet")
    pq.write_table(pa.table({"y": ["b"], "z": [2.5]}), folder / "2.parquet")
    table = read_parquet(con, tmp_path, "v")
    assert con.execute(f"SELECT x, y, z FROM {table.relation} ORDER BY y").fetchall() == [
        (1, "a", None),
        (None, "b", 2.5),
    ]
    with refused("source-files", DataError):
        read_parquet(con, Path(tempfile.mkdtemp(dir=tmp_path)), "w")


ACCENTS = "id,title\n1,Café “é”\n2,naïve\n"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [("utf-8", ACCENTS), ("cp1252", ACCENTS), ("utf-16", ACCENTS), ("utf-16-le", ACCENTS),
     ("latin-1", "id,title\n1,é\n"),
     ("cp1251", "id,title\n1,Привет\n"), ("gb18030", "id,title\n1,你好\n"), ("shift_jis", "id,title\n1,日本\n")],
)  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_encodings(con, tmp_path, encoding, text, packed):
    content = text.encode(encoding)
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(content) if packed else content)
    table = read_csv(con, path, "t", Dialect(",", '"', encoding, "dataset.source"))
    expected = [tuple(line.split(",")) for line in text.splitlines()[1:]]
    assert con.execute(f"FROM {table.relation}").fetchall() == expected
    assert list(tmp_path.iterdir()) == [path], "nothing is left behind"


@pytest.mark.parametrize(
    ("content", "encoding", "right"),
    [(ACCENTS.encode("cp1252"), "latin-1", "cp1252"), (ACCENTS.encode("utf-16"), "utf-8", "utf-16"),
     (ACCENTS.encode("utf-16"), "cp1252", "utf-16"), ("é,t\n1,a\n".encode("latin-1"), "utf-8", "cp1252")],
)  # fmt: skip
def test_the_encoding_that_a_hint_names_reads_the_file(con, tmp_path, content, encoding, right):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_csv(con, tmp_path / "t.csv", "t", Dialect(",", '"', encoding, "dataset.source"))
    assert caught.value.hint == f"set dataset.source.encoding: {right}"
    read_csv(con, tmp_path / "t.csv", "t", Dialect(",", '"', right, "dataset.source"))


def test_lines_in_another_encoding_are_counted_and_the_remedy_reads_them(con, tmp_path):
    (tmp_path / "t.csv").write_bytes(ACCENTS.encode("cp1252"))
    table = read_csv(con, tmp_path / "t.csv", "t", COMMA)
    assert (table.bad.count, table.remedy) == (2, "set dataset.source.encoding: cp1252")


@pytest.mark.parametrize(
    ("text", "columns", "notes"),
    [
        (",id,t\n0,a,b\n1,c,d\n", ["column_1", "id", "t"], 1), ("id,t,\na,b,\nc,d,\n", ["id", "t"], 2),
        ("id,title,Title\na,b,c\n", ["id", "title", "Title_2"], 1), ("\n \n\nid,t\na,b\n", ["id", "t"], 1),
        (' id , "t" \na,b\n', ["id", '"t"'], 0), ("id,,\na,,\n", ["id"], 4),
        ("id,column_3,\na,b,c\n", ["id", "column_3", "column_3_2"], 1),
        ('"a\nb",t\n1,2\n3,4\n', ["a\nb", "t"], 0), ("\ufeffid,t\na,b\n", ["id", "t"], 0),
        ("id,t\r\na,b\nc,d\r\n", ["id", "t"], 1),
    ],
)  # fmt: skip
def test_odd_first_lines(con, tmp_path, text, columns, notes):
    (tmp_path / "t.csv").write_text(text, encoding="utf-8", newline="")
    table = read_csv(con, tmp_path / "t.csv", "t", COMMA)
    assert list(columns_of(con, table.relation)) == columns
    assert len(table.notes) == notes
    assert table.bad.count == 0
    assert con.execute(f"SELECT count(*) FROM {table.relation}").fetchone()[0] > 0


def test_names_are_kept_apart():
    names, notes = distinct_names(["a", "A", "", "a_2", "column_3"])
    assert len({name.lower() for name in names}) == 5
    assert (names[0], names[3], names[4], len(notes)) == ("a", "a_2", "column_3", 2)
    with refused("column-missing", DataError, names=r'"titel".*"title"'):
        require_columns(["titel", "titel"], ["title"], "here", "")


LINES = [
    '\ufeff{"a": 12.0, "b": "2020-01-01", "n": 1e2}', "", '{"a": "7", "late": [1, [2, 3], null]}',
    '{"a": NaN, "A": true}',
    '{"a": 12345678901234567890.125}',
]  # fmt: skip


def test_json_is_kept_as_it_stands(con, tmp_path):
    (tmp_path / "t.jsonl").write_text("\n".join(LINES), encoding="utf-8")
    table = read_json(con, tmp_path / "t.jsonl", "t")
    assert columns_of(con, "t") == {
        "a": "VARCHAR",
        "b": "VARCHAR",
        "n": "VARCHAR",
        "late": "VARCHAR[]",
        "A_2": "VARCHAR",
    }
    assert con.execute("SELECT a, b, n, late, A_2 FROM t").fetchall() == [
        ("12.0", "2020-01-01", "100", None, None), ("7", None, None, ["1", "2 > 3", None], None),
        (None, None, None, None, "true"), ("12345678901234567890.125", None, None, None, None),
    ]  # fmt: skip
    assert len(table.notes) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [("{broken", "not JSON"), ("[1]", "not an object"), ("7", "not an object"), ('{"a": "\\ud800"}', "lone surrogate"),
     ("[" * 100_000, "nested too deeply"), (b'{"a": "\xff"}', "not UTF-8")],
)  # fmt: skip
def test_lines_that_are_no_objects_are_counted_with_their_number(con, tmp_path, line, said):
    content = b'{"a": 1}\n\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n" + b'{"a": 2}\n'
    (tmp_path / "t.jsonl").write_bytes(content)
    table = read_json(con, tmp_path / "t.jsonl", "t")
    assert con.execute("FROM t").fetchall() == [("1",), ("2",)]
    assert table.bad.count == 1
    assert table.bad.samples[0].startswith("t.jsonl:3: ")
    assert said in table.bad.samples[0]
    problems = {number: problem for number, _, problem in each_record(tmp_path / "t.jsonl") if problem}
    assert list(problems) == [3]
    assert said in problems[3]


def test_objects_are_named_with_their_line(con, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n\n{"a": {"b": 1}, "c": [{"d": 2}]}\n')
    table = read_json(con, tmp_path / "t.jsonl", "t")
    assert table.objects == {"a": 3, "c": 3}


@pytest.mark.parametrize("size", [1, 3, 5_000, 60_000])
def test_an_array_is_read_in_pieces(con, tmp_path, monkeypatch, size):
    monkeypatch.setattr("llmcf_cli.tabular.jsonl._CHUNK", 7 if size < 10 else 1 << 16)
    values = [{"n": n, "t": "é\n" * (n % 3), "l": [n]} for n in range(size)]
    (tmp_path / "t.json").write_text("\ufeff \n" + json.dumps(values, indent=1), encoding="utf-8")
    read_json(con, tmp_path / "t.json", "t")
    assert con.execute("SELECT count(*), max(CAST(n AS INTEGER)), sum(len(l)) FROM t").fetchone() == (
        size,
        size - 1,
        size,
    )
    found = list(each_record(tmp_path / "t.json"))
    assert [(number, value) for number, value, _ in found] == [(3 + 7 * n, value) for n, value in enumerate(values)]


@pytest.mark.parametrize("content", ['[{"a": 1}', '[{"a": 1},\n{"a" 2},\n{"a": 3}]', '[{"a": 1}, [half'])
def test_an_array_that_breaks_off_is_refused_whole(con, tmp_path, content):
    (tmp_path / "t.json").write_text(content)
    with refused("file-format", DataError):
        read_json(con, tmp_path / "t.json", "t")


@pytest.mark.parametrize("content", ["", "\n\n", "[]", "[{}", "{", "nothing"])
def test_files_without_a_record_are_refused(con, tmp_path, content):
    (tmp_path / "t.jsonl").write_text(content)
    with pytest.raises(DataError):
        read_json(con, tmp_path / "t.jsonl", "t")


def test_records_keep_what_json_says(tmp_path):
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf\n\n{"a": 0, "b": false, "c": 1.5, "d": {"e": null}}\n')
    found = {"a": 0, "b": False, "c": 1.5, "d": {"e": None}}
    assert list(each_record(tmp_path / "t.jsonl")) == [(3, found, None)]
    (tmp_path / "t.json").write_text(f"[{json.dumps(found)}]")
    assert list(each_record(tmp_path / "t.json")) == [(1, found, None)]


def test_literals_of_python_are_read_and_run_nothing():
    assert literal_or_json("{'a': (1, 2.5, None, True), 'b': \"it's\"}") == {"a": (1, 2.5, None, True), "b": "it's"}
    assert literal_or_json('{"a": 1.50}') == exact_json('{"a": 1.50}') == {"a": "1.50"}
    with pytest.raises(ValueError, match="neither"):
        literal_or_json("{'a': __import__('os')}")


def test_a_look_reads_the_beginning(con, tmp_path):
    (tmp_path / "t.csv").write_text("x\n" + "1\n" * 5_000)
    (tmp_path / "t.jsonl").write_text('{"x": 1}\n' * 5_000)
    assert con.execute(
        f"SELECT count(*) FROM {read_csv(con, tmp_path / 't.csv', 't', COMMA, rows=10).relation}"
    ).fetchone() == (10,)
    table = read_json(con, tmp_path / "t.jsonl", "u", rows=10)
    assert (con.execute("SELECT count(*) FROM u").fetchone(), table.whole) == ((10,), False)


def test_a_column_of_numbers_is_known_by_all_its_values(con):
    con.execute(
        "CREATE TABLE n AS SELECT unnest(['1995.0', NULL, ' ', 'nan', '-2.5e3']) AS a, "
        "unnest(['1', 'x', '', '', '']) AS b"
    )
    assert con.execute(
        f"SELECT bool_and({is_number_text('a')}), bool_and({is_number_text('b')}) FROM n"
    ).fetchone() == (True, False)
