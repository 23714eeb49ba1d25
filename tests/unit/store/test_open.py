"""Opening stores: clear errors for what is missing, foreign or held by another process."""

import subprocess
import sys
import textwrap

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.store import tables
from llmcf_cli.store.open import (
    connect_read,
    connect_write,
    open_lance,
    read_lance,
    read_parquet,
    write_parquet,
)

ALL_TABLES = [value for value in vars(tables).values() if isinstance(value, tables.Table)] + [
    tables.item_text(4),
    tables.cot_example(4, 8),
    tables.example_match(2),
]


@pytest.mark.parametrize("table", ALL_TABLES, ids=lambda t: t.name)
def test_every_table_is_created_by_its_own_ddl(table, tmp_path):
    with connect_write(tmp_path / "x.duckdb") as connection:
        connection.execute(table.ddl())
        found = connection.sql(f'SELECT * FROM "{table.name}"').columns
    assert found == table.schema.names
    assert set(table.primary_key) <= set(found)
    assert table.meaning


def test_a_missing_database_is_an_error_and_is_not_created(tmp_path):
    with refused("store-missing", StoreError):
        connect_read(tmp_path / "none.duckdb")
    assert not (tmp_path / "none.duckdb").exists()


def test_a_file_that_is_no_database_is_an_error(tmp_path):
    (tmp_path / "junk.duckdb").write_text("hello" * 1000)
    with refused("store-unreadable", StoreError):
        connect_read(tmp_path / "junk.duckdb")


def test_a_second_writer_is_told_the_pid_of_the_first(tmp_path):
    path = tmp_path / "x.duckdb"
    script = textwrap.dedent(f"""
        import pathlib, sys
        from llmcf_cli.store.open import connect_write
        connection = connect_write(pathlib.Path({str(path)!r}))
        print("ready", flush=True)
        sys.stdin.readline()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "ready\n"
        with refused("store-busy", StoreError, names=f"{holder.pid}"):
            connect_write(path)
        holder.communicate("\n")
    connect_write(path).close()


def test_parquet_rows_must_fit_the_table(tmp_path):
    path = tmp_path / "metric.parquet"
    row = {"arm": ["none"], "seed": [1], "split": ["test"], "metric": ["auc"], "value": [0.5]}
    write_parquet(pa.table(row), tables.METRIC, path)
    assert read_parquet(path).to_pydict() == row
    with refused("store-schema", StoreError):
        write_parquet(pa.table({"arm": ["none"]}), tables.METRIC, path)
    with refused("store-missing", StoreError):
        read_parquet(tmp_path / "none.parquet")


def test_lance_tables_come_back_as_written(tmp_path):
    spec = tables.item_text(2)
    rows = pa.table({"item_row": [1, 2], "item_id": ["a", "b"], "vector": [[1.0, 0.0], [0.0, 1.0]]}).cast(spec.schema)
    open_lance(tmp_path).create_table(spec.name, rows)
    assert read_lance(tmp_path, "item_text").to_pydict() == rows.to_pydict()
    with refused("store-missing", StoreError):
        read_lance(tmp_path, "cot_example")


@pytest.mark.parametrize(
    "code", ["CREATE VIEW meta AS SELECT 'clock' AS name, content AS value FROM read_text('/etc/hostname')",
             "CREATE MACRO len(x) AS (SELECT content FROM read_text('/etc/hostname'))",
             "CREATE MACRO rows() AS TABLE FROM read_text('/etc/hostname')",
             "CREATE TABLE c (x INTEGER, y VARCHAR AS (repeat('a', x)))", "CREATE TABLE c (x INTEGER CHECK (x > 0))"],
)  # fmt: skip
def test_a_database_with_code_of_its_own_is_not_read(tmp_path, code):
    path = tmp_path / "x.duckdb"
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE a (b INTEGER)")
    connect_read(path).close()
    with duckdb.connect(str(path)) as connection:
        connection.execute(code)
    for open_ in (connect_read, connect_write):
        with refused("store-no-table", StoreError):
            open_(path)


def test_joins_of_texts_do_not_meet_a_fault_of_the_database(tmp_path):
    """DuckDB 2.0 fails in about one of these queries in ten, with an optimizer that connections switch off."""
    path, rng = tmp_path / "texts.duckdb", np.random.default_rng(0)
    with connect_write(path) as con:
        con.execute("CREATE TABLE item AS SELECT i AS item_row, 'i' || i AS item_id, 'a text ' || (i % 40) AS text "
                    "FROM range(1, 400) t(i)")  # fmt: skip
        con.execute("CREATE TABLE sample AS SELECT s AS sample_id, 1 + (s * 7919) % 399 AS item_row, "
                    "[1 + (s * h) % 399 FOR h IN range(1, 8)] AS history FROM range(2400) t(s)")  # fmt: skip
    with connect_read(path) as con:
        for _ in range(40):
            con.register("chosen", pa.table({"sample_id": rng.choice(2400, 5, replace=False)}))
            found = con.sql(
                "SELECT s.sample_id, i.text, h.texts FROM chosen JOIN sample s USING (sample_id) "
                "JOIN item i USING (item_row) LEFT JOIN (SELECT sample_id, list(item.text) AS texts FROM ("
                "SELECT sample_id, unnest(history) AS item_row FROM chosen JOIN sample USING (sample_id)) "
                "JOIN item USING (item_row) GROUP BY sample_id) h USING (sample_id)"
            ).to_arrow_table()
            assert found.num_rows == 5
            assert all(len(texts) == 7 for texts in found["texts"].to_pylist())
