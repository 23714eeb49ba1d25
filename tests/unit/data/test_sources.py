"""Every format: dialects, headers, multi-valued columns, damaged files."""

from __future__ import annotations

import gzip
import json
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from refusals import refused

from llmcf_cli.core.errors import AccessError, DataError
from llmcf_cli.data.sources.config import CsvConfig, ParquetConfig, RecBoleConfig
from llmcf_cli.data.sources.recbole import RecBoleSource
from llmcf_cli.store.assets import AssetStore, Locator

EVENTS = [("u1", "a", 5, 1), ("u1", "b", 2, 2), ("u1", "c", 4, 3), ("u2", "a", 1, 2)]


def csv_section(path, **source):
    source = {
        "type": "csv",
        "interactions": str(path),
        "columns": {"rating": "rating", "time": "time"},
    } | source
    return {"source": source, "label": "rating", "split": "leave_one_out"}


def csv_text(delimiter=",", header=True, newline="\n"):
    lines = [["user_id", "item_id", "rating", "time"]] * header + [list(map(str, row)) for row in EVENTS]
    return newline.join(delimiter.join(line) for line in lines) + newline


def stored(result):
    user, item = result.ids("user"), result.ids("item")
    return sorted((user[r["user_row"]], item[r["item_row"]], r["rating"], r["time"]) for r in result["interaction"])


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "::"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_csv_dialects(run, tmp_path, delimiter, newline):
    path = tmp_path / "ratings.dat"
    path.write_bytes(csv_text(delimiter, newline=newline).encode())
    assert stored(run(csv_section(path, delimiter=delimiter))) == EVENTS


def test_csv_without_header_gzipped(run, tmp_path):
    path = tmp_path / "ratings.csv.gz"
    path.write_bytes(gzip.compress(csv_text(header=False).encode()))
    names = {"interactions": ["user_id", "item_id", "rating", "time"]}
    assert stored(run(csv_section(path, names=names))) == EVENTS
    with refused("csv-columns", DataError, names="4.*3"):
        run(csv_section(path, names={"interactions": ["user_id", "item_id", "rating"]}))


def test_csv_features(run, tmp_path):
    events, items = tmp_path / "r.csv", tmp_path / "i.csv"
    events.write_text(csv_text(), encoding="utf-8")
    items.write_bytes('id,name,kinds,text\na,"Café, ""Noir""",x|y,hello\nb,,|,\n'.encode("latin-1"))
    events.write_text(csv_text(), encoding="latin-1")
    section = csv_section(events, items=str(items), item_key="id", multi=["kinds"], encoding="latin-1")
    features = {"name": "categorical", "kinds": "multi", "text": "categorical"}
    result = run(section | {"features": {"item": features}})
    assert result["item"] == [
        {"item_row": 1, "item_id": "a", "text": 'Café, "Noir", x, y, hello', "name": 'Café, "Noir"',
         "kinds": ["x", "y"], "text_": "hello"},
        {"item_row": 2, "item_id": "b", "text": "", "name": None, "kinds": [], "text_": None},
        {"item_row": 3, "item_id": "c", "text": "", "name": None, "kinds": [], "text_": None},
    ]  # fmt: skip


def test_csv_with_byte_order_mark(run, tmp_path):
    path = tmp_path / "r.csv"
    path.write_text(csv_text(), encoding="utf-8-sig")
    assert stored(run(csv_section(path))) == EVENTS


def test_parquet_types(run, tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    for n, rows in enumerate((EVENTS[:2], EVENTS[2:])):
        user, item, rating, time = zip(*rows, strict=True)
        stamps = pa.array([t * 1_000_000_000 for t in time], pa.timestamp("ns"))
        data = {"who": pa.array([int(u[1:]) for u in user]), "what": item, "stars": rating, "at": stamps}
        pq.write_table(pa.table(data), folder / f"{n}.parquet")
    items = pa.table({"what": ["a"], "vector": pa.array([[0.5, 0.25]]), "tags": [["x", None, ""]], "price": [1.5]})
    pq.write_table(items, tmp_path / "items.parquet")
    source = {
        "type": "parquet", "interactions": str(folder), "items": str(tmp_path / "items.parquet"),
        "columns": {"user": "who", "item": "what", "rating": "stars", "time": "at"},
    }  # fmt: skip
    features = {"item": {"tags": "multi", "price": "categorical"}}
    result = run({"source": source, "label": "rating", "split": "leave_one_out", "features": features})
    assert stored(result) == [(u[1:], i, r, t) for u, i, r, t in EVENTS]
    assert result["item"][0] == {
        "item_row": 1,
        "item_id": "a",
        "text": "x, 1.5",
        "tags": ["x"],
        "price": "1.5",
    }


REVIEWS = [
    {"reviewerID": "u1", "asin": "A", "overall": 5.0, "unixReviewTime": 10, "reviewText": 'say "hi"\tthere'},
    {"reviewerID": "u1", "asin": "B", "overall": 2.0, "unixReviewTime": 20, "reviewText": "{}"},
    {"reviewerID": "u1", "asin": "C", "overall": 4.0, "unixReviewTime": 30},
]
METADATA = [
    "{'asin': 'A', 'title': \"Mum's soap\", 'brand': 'Suds', 'categories': [['Beauty', 'Bath'], ['Gifts']]}",
    json.dumps({"asin": "B", "title": "Comb &amp; brush", "categories": [["Beauty"]]}),
    "{'asin': 'C', 'title': __import__('os').getcwd()}",
    "",
    "{'asin': 'C', 'categories': []}",
]


@pytest.mark.parametrize("suffix", [".json.gz", ".json"])
def test_amazon2014(run, tmp_path, suffix):
    pack = gzip.compress if suffix.endswith("gz") else bytes
    reviews, metadata = tmp_path / f"reviews{suffix}", tmp_path / f"meta{suffix}"
    reviews.write_bytes(pack("\n".join(map(json.dumps, REVIEWS)).encode() + b"\n{broken\n"))
    metadata.write_bytes(pack("\n".join(METADATA).encode()))
    source = {"type": "amazon2014", "reviews": str(reviews), "metadata": str(metadata)}
    kinds = {"title": "categorical", "brand": "categorical", "categories": "multi", "price": "numeric"}
    section = {
        "source": source, "label": "rating", "split": "leave_one_out", "max_bad_rows": 0.3, "features": {"item": kinds}
    }  # fmt: skip
    result = run(section)
    assert stored(result) == [("u1", "A", 5.0, 10), ("u1", "B", 2.0, 20), ("u1", "C", 4.0, 30)]
    assert result["item"] == [
        {"item_row": 1, "item_id": "A", "text": "Mum's soap, Suds, Beauty > Bath, Gifts", "title": "Mum's soap",
         "brand": "Suds", "categories": ["Beauty > Bath", "Gifts"], "price": None},
        {"item_row": 2, "item_id": "B", "text": "Comb &amp; brush, Beauty", "title": "Comb &amp; brush",
         "brand": None, "categories": ["Beauty"], "price": None},
        {"item_row": 3, "item_id": "C", "text": "", "title": None, "brand": None, "categories": [],
         "price": None},
    ]  # fmt: skip
    assert "{broken" in result.step("read interactions").samples[0]
    assert "meta" in result.step("read items").samples[0]
    assert ":3: neither JSON nor a Python literal" in result.step("read items").samples[0]
    with refused("rows-unusable", DataError):
        run(section | {"max_bad_rows": 0.1})


def test_truncated_gzip(run, tmp_path):
    reviews, metadata = tmp_path / "reviews.json.gz", tmp_path / "meta.json.gz"
    whole = gzip.compress("\n".join(map(json.dumps, REVIEWS * 200)).encode())
    reviews.write_bytes(whole)
    metadata.write_bytes(gzip.compress("\n".join(METADATA * 300).encode())[:-30])
    source = {"type": "amazon2014", "reviews": str(reviews), "metadata": str(metadata)}
    with refused("file-unreadable", DataError) as caught:
        run({"source": source, "label": "rating", "split": "leave_one_out"})
    assert str(caught.value.where) == str(metadata)
    reviews.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cannot be read|unusable"):
        run({"source": source, "label": "rating", "split": "leave_one_out"})


def test_file_references_are_known_to_artifact_keys():
    from llmcf_cli.core.types import file_refs

    config = ParquetConfig(interactions="a", items="b", users="c", columns={"time": "t"})
    assert list(file_refs(config)) == ["a", "b", "c"]
    assert list(file_refs(CsvConfig(interactions="a", columns={"time": "t"}))) == ["a"]


@pytest.mark.parametrize("columns", [{}, {"time": "t", "position": "p"}])
def test_one_order(columns):
    with pytest.raises(ValidationError, match="either time or position"):
        ParquetConfig(interactions="a", columns=columns)


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ({"x.txt": "hello"}, "source-files"),
        ({"a.inter": "", "b.inter": ""}, "source-files"),
        ({"a.inter": ""}, "data-empty"),
        ({"a.inter": "user_id\titem_id\n"}, "header-invalid"),
        ({"a.inter": "user_id:token\tuser_id:token\n"}, "column-twice"),
        ({"a.inter": "user_id:token\titem_id:token\n"}, "column-missing"),
        ({"a.inter": "user_id:token\titem_id:token\ttimestamp:float\n"}, "data-empty"),
        ({"a.inter": "user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n"}, "ratings-missing"),
    ],
)
def test_bad_recbole(run, tmp_path, files, code):
    for file, content in files.items():
        (tmp_path / file).write_text(content)
    with refused(code, DataError):
        run({"source": {"type": "recbole", "path": str(tmp_path)},
             "label": "rating" if code == "ratings-missing" else "implicit", "split": "leave_one_out"})  # fmt: skip


def test_recbole_names_are_checked(run, movies):
    section = {"label": "rating", "split": "leave_one_out"}
    source = {"type": "recbole", "path": str(movies)}
    with refused("column-missing", DataError, names=r'"clas".*"class"'):
        run({"source": source | {"multi": ["clas"]}, **section})
    with refused("column-missing", DataError, names=r'"ratings".*"rating"'):
        run({"source": source | {"columns": {"rating": "ratings"}}, **section, "label": "implicit"})


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_ids_and_texts_agree_whatever_their_type(run_rows, missing):
    rows = [(float(n % 3) if n % 7 else missing, n % 4, 5.0 - n % 5, n) for n in range(40)]
    items = [{"item_id": float(n), "title": f"T{n}", "year": 1990.0 + n if n else missing} for n in range(4)]
    result = run_rows(rows, items=items, text={"item": "{{title}} ({{year}})"}, max_bad_rows=0.2)
    assert set(result.ids("user").values()) == {"0", "1", "2"}
    assert [row["text"] for row in result["item"]] == ["T0", "T1 (1991)", "T2 (1992)", "T3 (1993)"]
    assert result.step("check values").reason == "no user id: 6"
    notes = [note.message for note in result.report.notes]
    assert "34 user ids were whole floats, read as integers, e.g. 0.0 → 0" in notes
    assert "4 item ids were whole floats, read as integers, e.g. 0.0 → 0" in notes
    assert "3 values of year were whole floats, read as integers, e.g. 1991.0 → 1991" in notes


def test_times_keep_their_full_precision(run_rows):
    first = datetime(2001, 9, 9, 1, 46, 40)
    rows = [(f"u{n % 2}", f"i{n}", 5.0 - n % 5, first + timedelta(microseconds=n)) for n in range(40)]
    result = run_rows(rows)
    assert sorted(row["time"] for row in result["sample"]) == [10**15 + n for n in range(40)]
    assert sorted(row["time"] * 10**6 for row in result["interaction"]) == [10**15 + n for n in range(40)]
    assert (result.report.times.first, result.report.times.local) == ("2001-09-09 01:46:40", 40)


def test_multi_valued_columns(run, tmp_path):
    events, items = tmp_path / "r.csv", tmp_path / "i.csv"
    events.write_text(csv_text())
    kinds = ('"Drama, Comedy"', "\"['Drama', 'Comedy']\"", '"[""Drama"", 7.0, null]"')
    items.write_text("\n".join(["item_id,kinds", *map("{},{}".format, "abc", kinds)]))
    result = run(csv_section(events, items=str(items), multi=["kinds"], separator=","))
    assert [row["kinds"] for row in result["item"]] == [["Drama", "Comedy"], ["Drama", "Comedy"], ["Drama", "7"]]
    items.write_text("item_id,kinds\na,\"[{'id': 1}]\"\nb,x\nc,x\n")
    with refused("lists-unreadable", DataError, names="1.*3"):
        run(csv_section(events, items=str(items), multi=["kinds"]))
    kept = run(csv_section(events, items=str(items), multi=["kinds"]) | {"max_bad_rows": 0.5})
    assert kept["item"][0]["kinds"] == []
    assert any("1 values of kinds cannot be read as lists" in note.message for note in kept.report.notes)


def test_positions_are_whole_numbers(run_rows):
    rows = [(f"u{n % 2}", f"i{n}", 5.0 - n % 5, float(n)) for n in range(20)]
    result = run_rows(rows, order="position")
    assert sorted(row["time"] for row in result["sample"]) == list(range(20))
    assert sorted(row["time"] for row in result["interaction"]) == list(range(20))
    with refused("rows-unusable", DataError):
        run_rows([*rows[:-1], ("u0", "i9", 1.0, 0.5)], order="position")


AMAZON = {
    2018: ({"reviewerID": "u", "asin": "A", "overall": 5.0, "unixReviewTime": 10, "verified": True, "summary": "s"},
           {"asin": "A", "title": "Soap", "brand": "Suds", "category": ["Beauty", "Bath"], "main_cat": "All", "r": 1},
           {"title": "Soap", "brand": "Suds", "category": ["Beauty", "Bath"], "main_cat": "All", "price": None}),
    2023: ({"user_id": "u", "parent_asin": "A", "asin": "a", "rating": 5.0, "timestamp": 10_000, "text": "long"},
           {"parent_asin": "A", "title": "Soap", "store": "Suds", "main_category": "All", "categories": ["Bath"],
            "price": 1.5, "details": {"x": 1}},
           {"title": "Soap", "store": "Suds", "main_category": "All", "categories": ["Bath"], "price": "1.5"}),
}  # fmt: skip


@pytest.mark.parametrize("year", AMAZON)
def test_later_amazon_reviews(run, tmp_path, year):
    review, item, expected = AMAZON[year]
    user, key = ("reviewerID", "asin") if year == 2018 else ("user_id", "parent_asin")
    stars = "overall" if year == 2018 else "rating"
    (tmp_path / "r.jsonl").write_text("\n".join(
        json.dumps(review | {user: f"u{n % 2}", key: "ABC"[n % 3], stars: float(n % 5 + 1)}) for n in range(6)
    ))  # fmt: skip
    (tmp_path / "m.jsonl").write_text(json.dumps(item))
    files = {"reviews": str(tmp_path / "r.jsonl"), "metadata": str(tmp_path / "m.jsonl")}
    source = {"type": "amazon", "year": year, **files}
    features = {column: "multi" if isinstance(value, list) else "categorical" for column, value in expected.items()}
    result = run({"source": source, "label": "rating", "split": "leave_one_out", "features": {"item": features}})
    assert {row["time"] for row in result["interaction"]} == {10}
    found = {column: value for column, value in result["item"][0].items() if column not in ("item_row", "text")}
    assert found == {"item_id": "A", **expected}


def test_json_tables_lose_no_late_column_and_no_zero(run, tmp_path):
    events = [{"user_id": u, "item_id": i, "rating": r, "time": t} for u, i, r, t in EVENTS]
    (tmp_path / "r.jsonl").write_text("\n\n".join(map(json.dumps, events)), encoding="utf-8-sig")
    items = [{"item_id": "a", "n": 0}, {"item_id": "b", "n": 1.0, "tags": ["x"]}]
    items.append({"item_id": "c", "late": "2020-01-01"})
    (tmp_path / "i.json").write_text(json.dumps(items))
    source = {"type": "jsonl", "interactions": str(tmp_path / "r.jsonl"), "items": str(tmp_path / "i.json"),
              "columns": {"rating": "rating", "time": "time"}}  # fmt: skip
    features = {"n": "categorical", "tags": "multi", "late": "categorical"}
    result = run({"source": source, "label": "rating", "split": "leave_one_out", "features": {"item": features}})
    assert stored(result) == EVENTS
    assert [(row["n"], row["tags"], row["late"]) for row in result["item"]] == [
        ("0", [], None), ("1", ["x"], None), (None, [], "2020-01-01"),
    ]  # fmt: skip


def test_doubtful_times_are_told(run_rows):
    days = [20200101 + n for n in range(20)]
    rows = [(f"u{n % 2}", f"i{n}", 5.0 - n % 5, day) for n, day in enumerate(days)]
    messages = [note.message for note in run_rows(rows).report.notes]
    assert any("look like dates, e.g. 20200101" in message for message in messages)
    dated = run_rows(rows, source={"columns": {"rating": "rating", "time": "t", "time_format": "%Y%m%d"}}).report
    assert (dated.times.first, dated.times.last) == ("2020-01-01 00:00:00", "2020-01-20 00:00:00")
    assert not any("look like dates" in note.message for note in dated.notes)


def test_what_lies_beside_a_file_is_asked_for_too(tmp_path):
    """`a.inter` may be read; `a.item` beside it is a link to where the recipe may not read."""
    own, private = tmp_path / "own", tmp_path / "private"
    own.mkdir(), private.mkdir()
    (own / "a.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu\ti\t1\n")
    (private / "a.item").write_text("item_id:token\tsecret:token\ni\ts\n")
    (own / "a.item").symlink_to(private / "a.item")
    locate = Locator(own, AssetStore({}, tmp_path / "cache")).path
    source = RecBoleSource(RecBoleConfig(path="a.inter"))
    with duckdb.connect() as con, pytest.raises(AccessError):
        source.load(con, locate)
