"""The list of forgotten users: no ingest reads them, whatever their ids look like, and nothing quotes them."""

from __future__ import annotations

import hashlib
import json

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.forgotten import Forgotten, listed_among
from llmcf_cli.data.ingest import ingest
from llmcf_cli.recipe.dataset import DatasetSection

ids = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(st.sets(ids, max_size=8), st.sets(ids, max_size=8))
def test_sql_and_python_agree_about_who_is_listed(listed, others):
    nobody = Forgotten.fresh()
    one = nobody.only(listed)
    assert one.users == {hashlib.sha256((one.salt + user).encode()).hexdigest() for user in listed}
    with duckdb.connect() as con:
        con.execute("CREATE TABLE t (id VARCHAR)")
        con.executemany("INSERT INTO t VALUES (?)", [(user,) for user in {*listed, *others}] + [(None,)])
        assert set(listed_among(con, one, "t", "id")) == one.users
        left = con.execute(f"SELECT id FROM t WHERE NOT {one.among('id')}").fetchall()
        assert {user for (user,) in left} == {*(others - listed), None}
    assert one.with_all(nobody.only(others)).without(nobody.only(others)) == nobody.only(listed - others)


def test_a_list_is_read_as_it_was_written(tmp_path):
    one = Forgotten.fresh().only(["b", "a"])
    (tmp_path / "list.json").write_text(one.written())
    assert Forgotten.read(tmp_path / "list.json") == one
    assert one.written() == Forgotten(one.salt).only(["a", "b"]).written()
    assert Forgotten.fresh().salt != one.salt
    for wrong in ({"format": 2, "salt": one.salt, "users": []}, {"format": 1, "salt": "x", "users": []}, []):
        (tmp_path / "list.json").write_text(json.dumps(wrong))
        with refused("forget-list", DataError):
            Forgotten.read(tmp_path / "list.json")
    with refused("path-missing", DataError):
        Forgotten.read(tmp_path / "none.json")


@pytest.mark.parametrize("header", ["user_id", "u"])
def test_no_row_of_theirs_is_read_counted_or_quoted(tmp_path, header):
    rows = [(f"p{n % 7}", f"i{n % 11}", n % 5 + 1, n) for n in range(120)]
    rows += [("p3", "i1", "no number", 500), ("4711.0", "i2", 3, 501), ("4711", "i3", 4, 502)]
    (tmp_path / "events.csv").write_text(
        f"{header},item_id,rating,t\n" + "".join(f"{','.join(map(str, row))}\n" for row in rows)
    )
    (tmp_path / "users.csv").write_text("user_id,age\n" + "".join(f"p{n},{20 + n}\n" for n in range(7)) + "4711,3\n")
    listed = Forgotten.fresh().only(["p3", "4711", "never"])
    (tmp_path / "list.json").write_text(listed.written())
    (tmp_path / "without.csv").write_text(
        f"{header},item_id,rating,t\n"
        + "".join(f"{','.join(map(str, row))}\n" for row in rows if row[0] not in ("p3", "4711", "4711.0"))
    )

    def made(events, **more):
        source = {"type": "csv", "interactions": events, "users": "users.csv", "user_key": "user_id"}
        section = DatasetSection.model_validate({
            "source": {**source, "columns": {"user": header, "time": "t", "rating": "rating"}},
            "label": {"type": "rating"}, "split": {"type": "global_time"}, "limits": {"per_class": 0}, **more,
        })  # fmt: skip
        out = tmp_path / f"{events}.duckdb"
        report = ingest(section, locate=lambda ref: tmp_path / ref, seed=1, out=out)
        with duckdb.connect(str(out), read_only=True) as con:
            tables = {table: con.execute(f'SELECT * FROM "{table}" ORDER BY ALL').fetchall() for table in
                      ("user", "item", "interaction", "sample", "history")}  # fmt: skip
        return report, tables

    report, tables = made("events.csv", forgotten="list.json")
    _, expected = made("without.csv")
    assert tables == expected
    assert {step.name: step.dropped for step in report.steps if step.name.startswith("forget")} == {
        "forget interactions": sum(row[0] in ("p3", "4711", "4711.0") for row in rows), "forget users": 2,
    }  # fmt: skip
    assert "p3" not in repr(report)
    assert "4711" not in repr(report)
