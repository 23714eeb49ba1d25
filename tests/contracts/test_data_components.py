"""Every built-in source, label, negatives and split runs here; one without a case fails."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmcf_cli.data.entities import cast_entity
from llmcf_cli.data.ingest import ingest
from llmcf_cli.data.preview import look
from llmcf_cli.data.report import SPLITS
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.dataset import DatasetSection
from llmcf_cli.store.open import connect_read, connect_write
from llmcf_cli.store.tables import FEATURE, INGEST_STEP, INTERACTION, ITEM, META, SAMPLE, USER, sql_type

USERS, ITEMS = 6, 9
EVENTS = [
    (f"u{u}", f"i{(u * 2 + n) % ITEMS}", float(1 + (u + n) % 5), 10 * n + u) for u in range(USERS) for n in range(5)
]
CATALOGUE = [(f"i{n}", f"Item {n}", [f"kind{n % 2}", "all"]) for n in range(ITEMS)]


def recbole(folder: Path) -> dict:
    rows = [
        "user_id:token\titem_id:token\trating:float\ttimestamp:float",
        *("\t".join(map(str, e)) for e in EVENTS),
    ]
    (folder / "d.inter").write_text("\n".join(rows))
    rows = ["item_id:token\ttitle:token_seq\tcategories:token_seq"]
    rows += [f"{i}\t{title}\t{' '.join(kinds)}" for i, title, kinds in CATALOGUE]
    (folder / "d.item").write_text("\n".join(rows))
    return {"path": str(folder), "multi": ["categories"]}


def table_settings(folder: Path, suffix: str) -> dict:
    return {
        "interactions": str(folder / f"inter.{suffix}"), "items": str(folder / f"item.{suffix}"),
        "multi": ["categories"],
        "columns": {"user": "u", "item": "i", "rating": "r", "time": "t"}, "item_key": "id",
    }  # fmt: skip


def parquet(folder: Path) -> dict:
    pq.write_table(pa.table(dict(zip("uirt", zip(*EVENTS, strict=True), strict=True))), folder / "inter.parquet")
    columns = zip(("id", "title", "categories"), zip(*CATALOGUE, strict=True), strict=True)
    pq.write_table(pa.table(dict(columns)), folder / "item.parquet")
    return table_settings(folder, "parquet")


def csv(folder: Path) -> dict:
    (folder / "inter.csv").write_text("\n".join(["u,i,r,t", *(",".join(map(str, e)) for e in EVENTS)]))
    rows = [f'{i},"{title}",{"|".join(kinds)}' for i, title, kinds in CATALOGUE]
    (folder / "item.csv").write_text("\n".join(["id,title,categories", *rows]))
    return table_settings(folder, "csv")


def amazon2014(folder: Path) -> dict:
    names = ("reviewerID", "asin", "overall", "unixReviewTime")
    (folder / "r.json").write_text("\n".join(json.dumps(dict(zip(names, e, strict=True))) for e in EVENTS))
    items = [{"asin": i, "title": title, "categories": [[k] for k in kinds]} for i, title, kinds in CATALOGUE]
    (folder / "m.json").write_text("\n".join(map(str, items)))
    return {"reviews": str(folder / "r.json"), "metadata": str(folder / "m.json")}


def jsonl(folder: Path) -> dict:
    rows = [json.dumps(dict(zip("uirt", event, strict=True))) for event in EVENTS]
    (folder / "inter.jsonl").write_text("\n".join(rows))
    rows = [json.dumps(dict(zip(("id", "title", "categories"), item, strict=True))) for item in CATALOGUE]
    (folder / "item.jsonl").write_text("\n".join(rows))
    return table_settings(folder, "jsonl")


def amazon(folder: Path) -> dict:
    names = ("user_id", "parent_asin", "rating", "timestamp")
    events = [(u, i, r, t * 1000) for u, i, r, t in EVENTS]
    (folder / "r.json").write_text("\n".join(json.dumps(dict(zip(names, e, strict=True))) for e in events))
    items = [{"parent_asin": i, "title": title, "categories": kinds} for i, title, kinds in CATALOGUE]
    (folder / "m.json").write_text("\n".join(map(json.dumps, items)))
    return {"year": 2023, "reviews": str(folder / "r.json"), "metadata": str(folder / "m.json")}


def tables(folder: Path) -> dict:
    csv(folder)
    return jsonl(folder) | {"interactions": str(folder / "inter.csv")}


SOURCES = {
    "tables": tables,
    "recbole": recbole,
    "jsonl": jsonl,
    "amazon": amazon,
    "parquet": parquet,
    "csv": csv,
    "amazon2014": amazon2014,
}
GENERATED = {"planted"}
"""Sources that make data up instead of reading any; their own tests look at these."""
LABELS = {"rating": {"positive_from": 3}, "implicit": {"per_positive": 2}}
NEGATIVES: dict[str, dict] = {"uniform": {}, "popularity": {"exponent": 0.75}}
SPLITTERS: dict[str, dict] = {
    "global_time": {"validation": 0.2, "test": 0.2}, "leave_one_out": {},
    "fixed_cut": {"validation_from": "1970-01-01T01:00:30+01:00", "test_from": 45},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "cases"),
    [("source", SOURCES), ("label", LABELS), ("negatives", NEGATIVES), ("split", SPLITTERS)],
)  # fmt: skip
def test_every_built_in_has_a_case(kind, cases):
    built_in = {c.name for c in registry().all() if c.kind == kind and c.origin == "built-in"}
    assert built_in - GENERATED == set(cases)


def run(folder: Path, source: str = "recbole", label: dict | str = "rating", split: dict | str = "leave_one_out"):
    section = DatasetSection.model_validate(
        {
            "source": {"type": source, **SOURCES[source](folder)},
            "label": label,
            "split": split,
            "limits": {"per_class": 0},
            "features": {"item": {"title": "categorical", "categories": "multi"}},
        }
    )
    out = folder / "out.duckdb"
    report = ingest(section, locate=Path, seed=1, out=out)
    return report, connect_read(out)


@pytest.mark.parametrize("source", SOURCES)
def test_sources_agree(tmp_path, source):
    report, con = run(tmp_path, source)
    assert (report.users, report.items, report.interactions) == (USERS, ITEMS, len(EVENTS))
    user = con.execute('SELECT user_id FROM "user" ORDER BY user_row').fetchall()
    assert user == [(f"u{n}",) for n in range(USERS)]
    assert con.execute("SELECT item_row, item_id, title, categories FROM item ORDER BY item_row").fetchall() == [
        (row, *values) for row, values in enumerate(CATALOGUE, 1)
    ]
    events = con.execute(
        'SELECT user_id, item_id, rating, time FROM interaction JOIN "user" USING (user_row) JOIN item USING (item_row)'
    ).fetchall()
    assert sorted(events) == sorted(EVENTS)
    for table in (USER, ITEM, FEATURE, INTERACTION, SAMPLE, INGEST_STEP, META):
        described = {row[0]: row[1] for row in con.execute(f'DESCRIBE "{table.name}"').fetchall()}
        fixed = {field.name: sql_type(field.type) for field in table.schema}
        assert dict(list(described.items())[: len(fixed)]) == fixed
        assert table.open_columns or len(described) == len(fixed)
    con.close()


@pytest.mark.parametrize("source", SOURCES)
def test_a_look_at_a_source_finds_the_columns_that_reading_it_does(tmp_path, source):
    settings = {"type": source, **SOURCES[source](tmp_path)}
    seen = look(_config(settings), Path)
    assert (seen.wrong, seen.whole) == ([], {"item": True, "user": True})
    con = connect_write(tmp_path / "scratch.duckdb")
    raw = registry().build("source", _config(settings)).load(con, Path)
    cast = cast_entity(con, raw, "item")
    assert {entity: tuple(columns) for entity, columns in seen.columns.items()} == {"item": cast.columns, "user": ()}
    assert {"title", "categories"} <= set(cast.columns)
    con.close()


def _config(settings):
    return registry().get("source", settings["type"]).config().model_validate(settings)


def check_samples(con):
    """What every sample promises, whatever made it."""
    assert {row[0] for row in con.execute("SELECT DISTINCT split FROM sample").fetchall()} == set(SPLITS)
    assert con.execute("SELECT count(*), min(sample_id), max(sample_id) FROM sample").fetchone()[1:] == (
        0, con.execute("SELECT count(*) - 1 FROM sample").fetchone()[0],
    )  # fmt: skip
    late = """
        SELECT count(*) FROM (SELECT user_row, time, unnest(history) AS item_row FROM sample) s
        WHERE NOT EXISTS (SELECT 1 FROM interaction i
            WHERE i.user_row = s.user_row AND i.item_row = s.item_row AND i.time * 1000000 < s.time)
    """
    assert con.execute(late).fetchone()[0] == 0
    unlike = (
        "SELECT count(*) FROM sample s SEMI JOIN interaction i ON s.user_row = i.user_row AND s.item_row = i.item_row "
        "AND s.time = i.time * 1000000"
    )
    assert con.execute(unlike).fetchone()[0] == len(EVENTS)
    con.close()


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("split", SPLITTERS)
def test_labels_and_splits(tmp_path, label, split):
    report, con = run(tmp_path, label={"type": label, **LABELS[label]}, split={"type": split, **SPLITTERS[split]})
    assert sum(count.positive + count.negative for count in report.samples) == {
        "rating": len(EVENTS), "implicit": 3 * len(EVENTS)
    }[label]  # fmt: skip
    check_samples(con)


@pytest.mark.parametrize("kind", NEGATIVES)
def test_negatives(tmp_path, kind):
    label = {"type": "implicit", "negatives": {"type": kind, **NEGATIVES[kind]}}
    _, con = run(tmp_path, label=label)
    own = """
        SELECT count(*) FROM sample s WHERE s.label = 0 AND EXISTS (FROM interaction i
            WHERE i.user_row = s.user_row AND i.item_row = s.item_row AND i.time * 1000000 <= s.time)
    """
    assert con.execute(own).fetchone()[0] == 0
    check_samples(con)
