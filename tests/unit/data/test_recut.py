"""Later cuts for an ingest: only splits move, and they go where the shares say."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from append_world import Shop
from examples import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.data.cut import Cuts
from llmcf_cli.data.recut import newest_cuts, recut
from llmcf_cli.recipe.dataset import CutsSection
from llmcf_cli.store.open import connect_read, connect_write
from llmcf_cli.store.recuts import base_of, file_of
from llmcf_cli.tabular.times import TimeFormat

SECOND = 1_000_000


def rows(database, columns):
    with connect_read(database) as con:
        return con.sql(f"SELECT {columns} FROM sample ORDER BY sample_id").fetchall()


def event(number, time):
    return (f"u{number % 4}", f"i{number % 7}", float(1 + number % 5), time)


@pytest.fixture
def shop(tmp_path):
    """Four seconds of train rows, two of validation, and later ones."""
    return Shop(tmp_path, label={"type": "rating", "positive_from": 3})


def moved(shop, base, report, cuts, name="moved"):
    out = shop.folder / f"{name}.duckdb"
    section = shop.parsed([("u0", "i0", 5.0, 1)], "unread.parquet")
    return out, recut(base, report, section, CutsSection(**cuts.written()), TimeFormat(), out=out)


def test_only_splits_move(shop):
    base, _ = shop.whole([event(n, n) for n in range(8)])
    longer, report = shop.add(base, [event(n, n) for n in range(8, 16)])
    out, found = moved(shop, longer, report, Cuts(9 * SECOND, 12 * SECOND))
    kept = "sample_id, user_row, item_row, label, time, history"
    assert rows(out, kept) == rows(longer, kept)
    expected = ["train" if n < 9 else "validation" if n < 12 else "test" for n in range(16)]
    assert [split for (split,) in rows(out, "split")] == expected
    counted = Counter(expected)
    assert {one.split: one.positive + one.negative for one in found.samples} == counted
    assert found.cuts == Cuts(9 * SECOND, 12 * SECOND)


@settings(max_examples=examples(3), deadline=None)
@given(st.lists(st.integers(0, 40), min_size=12, max_size=40), st.integers(8, 30))
def test_it_is_one_ingest_of_all_rows_under_these_cuts(times, until):
    """Rows that were there and rows that were added, in any number at any time."""
    with tempfile.TemporaryDirectory() as folder:
        label = {"type": "rating", "positive_from": 3}
        first = [event(n, n) for n in range(8)]
        later = [event(n, 8 + time) for n, time in enumerate(times, 8)]
        shop = Shop(folder, label=label)
        longer, report = shop.add(shop.whole(first)[0], later)
        cuts = Cuts(until * SECOND, (until + 3) * SECOND)
        out, _ = moved(shop, longer, report, cuts)
        whole = Shop(folder, label=label, split={"type": "fixed_cut", "validation_from": until, "test_from": until + 3})
        found = []
        for database in (out, whole.whole([*first, *later], "all")[0] if max(times) + 8 >= until else out):
            with connect_read(database) as con:
                found.append(Counter(con.sql(
                    'SELECT user_id, item_id, time, label, split, len(history) FROM sample '
                    'JOIN "user" USING (user_row) JOIN item USING (item_row)'
                ).fetchall()))  # fmt: skip
        assert found[0] == found[1]


@settings(max_examples=examples(3), deadline=None)
@given(st.lists(st.integers(0, 40), min_size=4, max_size=20), st.integers(8, 30), st.integers(1, 9))
def test_it_reads_as_a_copy_whose_splits_were_overwritten(times, until, more):
    """All tables, against a copy of the base on which plain SQL moves the cuts."""
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(folder, label={"type": "rating", "positive_from": 3})
        base, _ = shop.whole([event(n, n) for n in range(8)])
        longer, report = shop.add(base, [event(n, 8 + time) for n, time in enumerate(times, 8)])
        cuts = Cuts(until * SECOND, (until + more) * SECOND)
        out, found = moved(shop, longer, report, cuts)
        copy = Path(folder) / "copy.duckdb"
        shutil.copyfile(longer, copy)
        with connect_write(copy) as con:
            first = con.sql("SELECT value FROM meta WHERE key = 'cut.validation_from'").fetchall()[0][0]
            con.execute(
                "UPDATE sample SET split = CASE WHEN time < $1 THEN 'train' WHEN time < $2 THEN 'validation' "
                "ELSE 'test' END",
                [cuts.validation_from, cuts.test_from],
            )
            con.execute("DELETE FROM meta WHERE key LIKE 'cut.%'")
            con.execute(
                "INSERT INTO meta VALUES ('cut.validation_from', $1), ('cut.test_from', $2), ('cut.moved_from', $3)",
                [str(cuts.validation_from), str(cuts.test_from), first],
            )
            last = con.sql("SELECT max(step) FROM ingest_step").fetchall()[0][0]
            step = found.steps[-1]
            con.execute(
                "INSERT INTO ingest_step VALUES (?, ?, ?, ?, ?)",
                [last + 1, step.name, step.kept, step.dropped, step.reason],
            )
        for table in ("user", "item", "feature", "interaction", "sample", "history", "ingest_step", "meta"):
            with connect_read(out) as here, connect_read(copy) as there:
                one, other = (con.sql(f'FROM "{table}" ORDER BY ALL').to_arrow_table() for con in (here, there))
            assert one.equals(other), table


def test_it_takes_no_more_disk_and_stays_without_its_base(shop):
    base, _ = shop.whole([event(n, n) for n in range(8)])
    longer, report = shop.add(base, [event(n, n) for n in range(8, 16)])
    out, _ = moved(shop, longer, report, Cuts(9 * SECOND, 12 * SECOND))
    before = rows(out, "*")
    assert base_of(out).samefile(longer)
    assert file_of(out).stat().st_size < 2_000
    assert not out.exists(), "who opens the file by himself must not take the splits of before for those of now"
    longer.unlink()
    assert rows(out, "*") == before
    file_of(out).write_text('{"validation_from": "now"}')
    with refused("store-unreadable", StoreError):
        connect_read(out)
    base_of(out).unlink()
    with refused("store-unreadable", StoreError):
        connect_read(out)


def test_two_connections_at_once_see_their_own_cuts(shop):
    base, _ = shop.whole([event(n, n) for n in range(8)])
    longer, report = shop.add(base, [event(n, n) for n in range(8, 16)])
    first, _ = moved(shop, longer, report, Cuts(9 * SECOND, 12 * SECOND), "first")
    second, _ = moved(shop, longer, report, Cuts(10 * SECOND, 13 * SECOND), "second")
    with connect_read(first) as one, connect_read(second) as two, connect_read(longer) as old:
        found = [con.sql("SELECT split FROM sample ORDER BY sample_id").fetchall() for con in (one, two, old)]
    assert found[0] == rows(first, "split")
    assert found[1] == rows(second, "split")
    assert found[2] == rows(longer, "split")
    assert found[0] != found[1] != found[2] != found[0]


def test_cuts_do_not_go_back(shop):
    base, _ = shop.whole([event(n, n) for n in range(8)])
    longer, report = shop.add(base, [event(8, 8)])
    with refused("cut-outside", DataError):
        moved(shop, longer, report, Cuts(3 * SECOND, 7 * SECOND))
    with refused("cut-order", DataError):
        moved(shop, longer, report, Cuts(7 * SECOND, 7 * SECOND))


@settings(max_examples=examples(30), deadline=None)
@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=60), st.floats(0.05, 0.45), st.floats(0.05, 0.45),
    st.integers(0, 30),
)  # fmt: skip
def test_the_newest_rows_get_their_shares_as_nearly_as_times_allow(times, validation, test, since):
    """Against a plain search over all pairs of cuts between two different times: first the first, then the second."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "events.duckdb"
        with connect_write(out) as con:
            con.execute("CREATE TABLE interaction (time DECIMAL(18, 6))")
            con.executemany("INSERT INTO interaction VALUES (?)", [(time,) for time in times])
        kept = sorted(time for time in times if time >= since)
        moments = sorted(set(kept))
        if len(moments) < 3:
            with refused("split-impossible", DataError):
                newest_cuts(out, since * SECOND, validation, test)
            return
        cuts = newest_cuts(out, since * SECOND, validation, test)

        def before(at):
            return sum(time < at for time in kept)

        first = min(moments[1:-1], key=lambda at: (abs(before(at) - len(kept) * (1 - validation - test)), at))
        rest = [at for at in moments if at > first]
        second = min(rest, key=lambda at: (abs(before(at) - len(kept) * (1 - test)), at))
        assert cuts == Cuts(first * SECOND, second * SECOND)


@given(st.integers(-(10**16), 10**16), st.integers(1, 10**15))
def test_cuts_are_what_was_written(first, more):
    cuts = Cuts(first, first + more)
    assert Cuts.of_written(cuts.written()) == cuts
