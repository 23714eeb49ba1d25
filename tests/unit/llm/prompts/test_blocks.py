"""Blocks of history, on data made at random: what a text about a user rests on is always older than who reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.data.history import build_samples
from llmcf_cli.data.ingest import ingest
from llmcf_cli.llm.prompts.blocks import Blocks
from llmcf_cli.recipe.dataset import DatasetSection, HistorySection
from llmcf_cli.store.open import connect_read
from llmcf_cli.store.tables import ITEM, USER

USERS, ITEMS = 3, 8
TIES = "item_row * 5 % 9"
"""Order of tied events: a permutation that is not that of the items."""
DAYS = (1, 1, 1, 2, 3, 3, 4, 5, 6, 6)
# (user, item, time, label); few times, so that ties are common
EVENTS = st.lists(
    st.tuples(st.integers(1, USERS), st.integers(1, ITEMS), st.integers(0, 9), st.integers(0, 1)),
    min_size=1, max_size=40, unique_by=lambda event: event[:3],
)  # fmt: skip


def ingested(events: list[tuple[int, ...]], section: HistorySection) -> Any:
    """A database with the samples of some events, made by ingest's own code."""
    con = duckdb.connect()
    for table in (USER, ITEM):
        con.execute(table.ddl())
    con.executemany('INSERT INTO "user" VALUES (?, ?, ?)', [(u, f"u{u}", f"user {u}") for u in range(1, USERS + 1)])
    con.executemany("INSERT INTO item VALUES (?, ?, ?)", [(i, f"i{i}", f"item {i}") for i in range(1, ITEMS + 1)])
    con.execute("CREATE TABLE labelled (user_row INT, item_row INT, time BIGINT, label TINYINT, split VARCHAR)")
    con.executemany("INSERT INTO labelled VALUES (?, ?, ?, ?, 'train')", events)
    con.execute(
        "CREATE OR REPLACE TABLE labelled AS SELECT *, row_number() OVER (PARTITION BY user_row ORDER BY time, "
        f"({TIES})) AS place FROM labelled"
    )
    con.execute('CREATE VIEW user_number AS SELECT user_row FROM "user"')
    con.execute("CREATE VIEW event AS FROM labelled")
    con.execute("CREATE VIEW interaction AS FROM labelled")
    con.execute("CREATE TABLE meta AS SELECT 'clock' AS key, 'per_user' AS value")
    build_samples(con, section)
    return con


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 5), st.sampled_from(["positive", "all"]), st.integers(1, 6))
def test_a_basis_is_older_than_every_sample_that_reads_it(
    events: list[tuple[int, ...]], block: int, kind: str, length: int
) -> None:
    section = HistorySection(max_length=length, events=kind)
    with ingested(events, section) as con:
        samples = con.execute("SELECT sample_id, user_row, time, history FROM sample ORDER BY sample_id").fetchall()
        blocks = Blocks(con, section, block)
        found = blocks.of([sample for sample, *_ in samples])
        bases = blocks.bases(list({b.key for b in found if b.basis}))
    counted = {
        user: [(t, i * 5 % 9, i) for u, i, t, label in events if u == user and (label or kind == "all")]
        for user in (1, 2, 3)
    }
    for (_, user, time, history), where in zip(samples, found, strict=True):
        earlier = sorted(event for event in counted[user] if event[0] < time)
        assert where.user_row == user
        assert where.basis + where.since == len(earlier)
        assert where.basis % block == 0
        assert where.since < block
        assert history == [item for *_, item in earlier][-length:]
        if not where.basis:
            assert where.key not in bases
            continue
        basis = bases[where.key]
        assert basis.as_of < time
        assert basis.as_of == earlier[where.basis - 1][0]
        assert basis.history == [f"item {item}" for *_, item in earlier[: where.basis]][-length:]


def test_a_block_is_one_text_for_its_samples() -> None:
    events = [(1, 1 + n % ITEMS, n, 1) for n in range(10)]
    with ingested(events, HistorySection()) as con:
        found = Blocks(con, HistorySection(), 4).of(range(10))
    assert [b.basis for b in found] == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]
    assert [b.since for b in found] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_order_is_the_callers() -> None:
    with ingested([(1, 1, 0, 1), (2, 2, 1, 1)], HistorySection()) as con:
        assert [b.user_row for b in Blocks(con, HistorySection(), 1).of([1, 0, 1])] == [2, 1, 2]


@pytest.mark.parametrize("keys", [[], [(1, 4)]])
def test_bases_of_nothing_or_of_what_is_not_there(keys: list[tuple[int, int]]) -> None:
    with ingested([(2, 1, 0, 1)], HistorySection()) as con:
        assert Blocks(con, HistorySection(), 4).bases(keys) == {}


def test_tied_events_of_an_ingest_are_ordered_as_in_histories(tmp_path: Path) -> None:
    """Whole path: what a block's text is written from is a beginning of what the histories of its readers hold."""
    rows = [
        (f"u{user}", f"i{user * 3 + n * 7 % 11}", day, int(n % 3 > 0))
        for user in range(12)
        for n, day in enumerate(DAYS)
    ]
    table = pa.table(dict(zip(("user_id", "item_id", "t", "rating"), map(list, zip(*rows, strict=True)), strict=True)))
    pq.write_table(table, tmp_path / "events.parquet")
    items = sorted({item for _, item, *_ in rows})
    pq.write_table(pa.table({"item_id": items, "title": items}), tmp_path / "items.parquet")
    section = DatasetSection.model_validate({
        "source": {
            "type": "parquet", "interactions": str(tmp_path / "events.parquet"),
            "items": str(tmp_path / "items.parquet"),
            "columns": {"time": "t", "rating": "rating"},
        },
        "label": {"type": "rating", "positive_from": 1}, "split": "global_time", "history": {"events": "all"},
        "text": {"item": "{{title}}"}, "limits": {"per_class": 0, "empty_histories": 1},
    })  # fmt: skip
    ingest(section, locate=Path, seed=3, out=tmp_path / "data.duckdb")
    for kind in ("all", "positive"):
        history = HistorySection(events=kind)
        with connect_read(tmp_path / "data.duckdb") as con:
            blocks = Blocks(con, history, 2)
            ids = [row[0] for row in con.execute("SELECT sample_id FROM sample").fetchall()]
            found = dict(zip(ids, blocks.of(ids), strict=True))
            bases = blocks.bases(list({block.key for block in found.values() if block.basis}))
            item = dict(con.execute("SELECT item_row, text FROM item").fetchall())
            events = dict(con.execute(
                "SELECT user_row, list((item_row, time, rating) ORDER BY place) FROM interaction GROUP BY user_row"
            ).fetchall())  # fmt: skip
            histories = dict(con.execute("SELECT sample_id, history FROM sample").fetchall())
        assert bases
        by_item = 0
        for sample, block in found.items():
            if not block.basis:
                continue
            taken = [event for event in events[block.user_row] if kind == "all" or event[2] >= 1][: block.basis]
            assert bases[block.key].history == [item[row] for row, *_ in taken]
            by_item += [row for row, *_ in taken] != [row for _, row in sorted((t, row) for row, t, _ in taken)]
            if kind == "all":
                assert bases[block.key].history == [item[row] for row in histories[sample]][: block.basis]
        assert by_item, "some ties are not in the order of the items"
