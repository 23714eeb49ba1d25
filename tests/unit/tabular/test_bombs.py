"""Small files that stand for huge tables are refused early; so is what DuckDB would leave out without a word."""

from __future__ import annotations

import contextlib
import gzip
import time

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from resources import used

from llmcf_cli.core.errors import DataError
from llmcf_cli.serve.requests import RequestForm, read_requests
from llmcf_cli.tabular.csv import Dialect, read_csv
from llmcf_cli.tabular.parquet import MOST_ROWS
from llmcf_cli.tabular.unpack import LONGEST_LINE, MOST_FREE

MIB = 1 << 20
BOMBS = {
    "zeros.csv": b"\0" * MIB, "rows.csv": b"u,1\n" * (MIB // 4), "blank.csv": b"\n" * MIB,
    "quote.csv": b'"\n' * (MIB // 2),
    "rows.jsonl": b'{"user_id":"u","item_id":"1"}\n' * (MIB // 30), "blank.jsonl": b"\n" * MIB,
    "array.json": b"1," * (MIB // 2),
}  # fmt: skip
STARTS = {"rows.csv": b"user_id,item_id\n", "quote.csv": b"user_id,item_id\n", "array.json": b"["}


def score(file):
    return read_requests(file, RequestForm())


@pytest.mark.parametrize(("name", "packing"), [*((name, "gz") for name in BOMBS), ("rows.csv", "zst")])
def test_what_unpacks_without_end_is_refused(tmp_path, name, packing):
    file = tmp_path / f"{name}.{packing}"
    pack = {"gz": lambda: gzip.GzipFile(file, "wb", 6), "zst": lambda: pa.CompressedOutputStream(str(file), "zstd")}
    with pack[packing]() as out:
        out.write(STARTS.get(name, b""))
        for _ in range(MOST_FREE // MIB + 8):
            out.write(BOMBS[name])
    assert file.stat().st_size < MIB
    started = time.process_time()
    with pytest.raises(DataError):
        score(file)
    assert time.process_time() - started < 10  # one table of `MOST_FREE` bytes


@pytest.mark.parametrize("lines", ["", "v,2\n"])
def test_a_line_that_duckdb_would_leave_out_is_told(tmp_path, lines):
    file = tmp_path / "long.csv"
    file.write_text("user_id,item_id\n" + "a" * (2 * LONGEST_LINE + MIB * 8) + ",1\n" + lines)
    with pytest.raises(DataError, match="line of more than"):
        score(file)
    with duckdb.connect() as con, pytest.raises(DataError, match="line of more than"):
        read_csv(con, file, "t", Dialect(","))


def test_a_parquet_file_of_few_bytes_and_many_rows_is_refused(tmp_path):
    rows = pa.DictionaryArray.from_arrays(pa.array(np.zeros(MOST_ROWS + 1, "int32")), pa.array(["1"]))
    pq.write_table(pa.table({"user_id": rows, "item_id": rows}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(DataError, match="claims"):
        score(tmp_path / "a.parquet")


def test_a_parquet_file_of_few_bytes_and_long_values_is_refused(tmp_path):
    long = pa.table({"user_id": ["x" * (MOST_FREE + 1)], "item_id": ["1"]})
    pq.write_table(long, tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(DataError, match="unpacks to more"):
        score(tmp_path / "a.parquet")
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, "int32")), pa.array(["x" * MIB]))
    pq.write_table(pa.table({"user_id": repeated, "item_id": ["1"] * 20_000}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="a user_id has"):
        score(tmp_path / "b.parquet")


def deep(levels, kind):
    """Lists in lists, or objects in objects."""
    found = pa.string()
    for _ in range(levels):
        found = pa.list_(found) if kind == "lists" else pa.struct([("a", found)])
    return found


@pytest.mark.parametrize("column", ["history", "user_id", "other"])
@pytest.mark.parametrize("kind", ["lists", "objects"])
def test_deep_types_of_a_parquet_file_are_refused_or_read(tmp_path, kind, column):
    rows = {"user_id": pa.array(["u"] * 3), "item_id": pa.array(["1"] * 3)}
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(rows), file)
    score(file)
    for levels in (30, 100):
        pq.write_table(pa.table({**rows, column: pa.nulls(3, deep(levels, kind))}), file)
        with used() as found, contextlib.suppress(DataError):
            score(file)
        assert found.seconds < 2
        assert found.mebibytes < 1000


@pytest.mark.parametrize("name", ["history", "item_id", "other"])
def test_long_texts_that_stand_in_a_parquet_file_once_take_little_memory(tmp_path, name):
    """20 GB, of 1 MiB that 20,000 rows share, with no compression to tell by."""
    long = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, "int32")), pa.array(["x" * MIB]))
    rows = {"user_id": ["u"] * 20_000, "item_id": ["1"] * 20_000}
    pq.write_table(pa.table(rows).slice(0, 1), tmp_path / "small.parquet")
    score(tmp_path / "small.parquet")
    pq.write_table(pa.table({**rows, name: long}), tmp_path / "a.parquet")
    with used() as found, contextlib.suppress(DataError):
        score(tmp_path / "a.parquet")
    assert found.seconds < 2
    assert found.mebibytes < 1000
