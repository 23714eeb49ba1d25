"""Rows added to an ingest: the same as one ingest of all rows, and nothing that was there moves."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from append_world import CATALOGUE, MICRO, SEED, TABLES, Shop
from examples import examples
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.append import append
from llmcf_cli.match.collaborative import deal_users
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.input.dataset import load_task_data
from llmcf_cli.rec.tasks.ranking import Ranking
from llmcf_cli.recipe.dataset import AddedSection
from llmcf_cli.store.open import connect_read


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def rows_of(path):
    with connect_read(path) as con:
        return {name: con.sql(f'FROM "{name}"').to_arrow_table().to_pylist() for name in TABLES}


def by_ids(path):
    """All tables with ids in the place of rows."""
    found = rows_of(path)
    user = {row["user_row"]: row["user_id"] for row in found["user"]}
    item = {row["item_row"]: row["item_id"] for row in found["item"]}
    assert sorted(user) == list(range(1, len(user) + 1))
    assert sorted(item) == list(range(1, len(item) + 1))
    assert [row["sample_id"] for row in found["sample"]] == list(range(len(found["sample"])))
    named = {
        name: Counter(
            repr({
                key: user.get(value) if key == "user_row" else item.get(value) if key == "item_row"
                else [item[i] for i in value] if key in ("history", "items") else value
                for key, value in row.items() if key != "sample_id"
            }) for row in rows
        ) for name, rows in found.items()
    }  # fmt: skip
    # Two positives at one time may draw the same negative; nothing else is there twice.
    assert all(count == 1 for name, rows in named.items() if name != "sample" for count in rows.values())
    return named


def folds_of(path):
    """Fold by user id, in the order of rows."""
    with connect_read(path) as con:
        fold_of_user_U = deal_users(con, 4, SEED)
        ids = con.sql('SELECT user_id FROM "user" ORDER BY user_row').fetchall()
    return {user: int(fold) for (user,), fold in zip(ids, fold_of_user_U[1:], strict=True)}


def features_of(path):
    """Vocabularies as lists, and the catalogue's arrays by entity and field, as a model is trained on them."""
    resources = load_task_data(path, Ranking(RankingConfig()), history_length=3).resources
    encoded = {
        field.key: getattr(resources.catalog, f"{field.entity}s").columns[field.name].tolist()
        for field in resources.spec.fields
    }
    return {key: values.to_pylist() for key, values in resources.vocab.values.items()}, encoded


def recomputed(rows, per_positive, length, repeats):
    """Positive samples with their splits and histories, and which negatives each may have, in plain Python."""
    events = sorted({(u, i, t) for u, i, _, t in rows})
    if repeats == "first":
        first = {}
        for u, i, t in sorted(events, key=lambda e: e[2]):
            first.setdefault((u, i), t)
        events = [(u, i, t) for (u, i), t in first.items()]
    seed = int.from_bytes(hashlib.sha256(f"{SEED}\x1fsplit\x1fties".encode()).digest()[:4], "big") & 0x7FFF_FFFF

    def place(event):
        user, item, time = event
        pair = int.from_bytes(hashlib.md5(f"{user}\x1f{item}".encode()).digest()[8:], "little") >> 1
        return time, hashlib.md5(f"{seed},{pair}".encode()).hexdigest()

    known = {}
    for _, i, t in events:
        known[i] = min(t, known.get(i, t))
    found = {}
    for u, i, t in events:
        past = sorted((e for e in events if e[0] == u and e[2] < t), key=place)[-length:]
        split = "train" if t < 4 else "validation" if t < 6 else "test"
        closed = {e[1] for e in events if e[0] == u and (e[2] == t or (repeats == "first" and e[2] < t))}
        open_ = {j for j, since in known.items() if since < 4 or since <= t} - closed
        found[u, i, t] = (split, [e[1] for e in past], open_, min(per_positive, len(open_)))
    return found


EVENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 11), st.integers(1, 10)), min_size=4, max_size=45, unique=True
)


def written(events):
    return [(f"u{(u * 5) % 7}", f"i{(i * 7) % 12}", 1.0 + (u + i + t) % 5, t) for u, i, t in events]


@settings(max_examples=examples(3), deadline=None, phases=(Phase.explicit, Phase.generate))  # as shrinking takes long
@given(
    events=EVENTS, ends=st.tuples(st.integers(4, 9), st.integers(4, 9)).map(sorted),
    label=st.sampled_from(["uniform", "popularity", "rating"]),
    per_positive=st.integers(1, 3), repeats=st.sampled_from(["first", "keep"]),
    of_history=st.sampled_from(["all", "positive"]),
)  # fmt: skip
def test_append_is_whole(events, ends, label, per_positive, repeats, of_history):
    events = [*events, (0, 0, 2), (1, 1, 4)]  # so that both sides of the first cut have some
    events = list(dict.fromkeys(events))
    kind = {"type": "implicit", "negatives": label, "per_positive": per_positive} if label != "rating" else "rating"
    rows = written(events)
    end, second = ends
    first, last = [r for r in rows if r[3] <= end], [r for r in rows if r[3] > end]
    with tempfile.TemporaryDirectory() as folder:
        shop = Shop(
            folder, label=kind, repeats=repeats, history={"max_length": 3, "events": of_history},
        )  # fmt: skip
        if label == "rating" and len({row[2] >= 4 for row in first}) < 2:
            return
        base, _ = shop.whole(first, "base")
        once, earlier = shop.add(base, [r for r in last if r[3] <= second], "once")
        more, report = shop.add(once, [r for r in last if r[3] > second])
        whole, whole_report = shop.whole(rows)
        again, unchanged = shop.add(more, last, "again")
        assert by_ids(more) == by_ids(whole)
        before, between, after = rows_of(base), rows_of(once), rows_of(more)
        for table in ("user", "item", "sample"):
            assert between[table][: len(before[table])] == before[table]
            assert after[table][: len(between[table])] == between[table]
        folds = folds_of(more)
        assert list(folds.items())[: len(before["user"])] == list(folds_of(base).items())
        assert folds == folds_of(whole)
        (vocab, encoded), (base_vocab, base_encoded) = features_of(more), features_of(base)
        assert vocab == base_vocab == features_of(whole)[0]
        for key, values in base_encoded.items():
            assert encoded[key][: len(values)] == values
        assert report.samples == whole_report.samples
        assert report.rules == whole_report.rules
        assert earlier.added.samples == len(between["sample"]) - len(before["sample"])
        assert report.added.samples == len(after["sample"]) - len(between["sample"])
        assert rows_of(again) == after
        dropped = len(last) - earlier.added.interactions - report.added.interactions if repeats == "first" else 0
        assert unchanged.added.known == len(last) - dropped
        assert unchanged.added.samples == unchanged.added.interactions == 0
        if label == "rating":
            return
        expected = recomputed(rows, per_positive, 3, repeats)
        user = {row["user_row"]: row["user_id"] for row in after["user"]}
        item = {row["item_row"]: row["item_id"] for row in after["item"]}
        drawn = Counter()
        for row in after["sample"]:
            u, time = user[row["user_row"]], row["time"] // MICRO
            history = [item[i] for i in row["history"]]
            if row["label"] == 1:
                assert expected[u, item[row["item_row"]], time][:2] == (row["split"], history)
            else:
                at = [value for (v, _, t), value in expected.items() if (v, t) == (u, time)]
                assert item[row["item_row"]] in at[0][2]
                assert (row["split"], history) == at[0][:2]
            drawn[u, time, row["label"]] += 1
        for u, _, time in expected:
            at = [value[3] for (v, _, t), value in expected.items() if (v, t) == (u, time)]
            assert (drawn[u, time, 1], drawn[u, time, 0]) == (len(at), sum(at))


BASE = [
    ("a", "i1", 5.0, 1), ("b", "i2", 4.0, 2), ("a", "i3", 3.0, 3), ("c", "i4", 5.0, 3), ("b", "i1", 5.0, 4),
    ("a", "i2", 2.0, 5), ("c", "i5", 4.0, 6),
]  # fmt: skip


def test_nothing_new_changes_nothing(shop):
    base, _ = shop.whole(BASE)
    for rows in ([], BASE[2:5]):
        out, report = shop.add(base, rows)
        assert rows_of(out) == rows_of(base)
        assert (report.added.known, report.added.interactions) == (len(rows), 0)
    assert report.users == 3
    assert report.interactions == len(BASE)


def test_times_of_our_age_with_microseconds_are_exact(tmp_path):
    def at(rows):
        return [(u, i, r, f"2024-06-0{t}T12:00:00.123456Z") for u, i, r, t in rows]

    split = {"type": "fixed_cut", "validation_from": "2024-06-04T00:00:00Z", "test_from": "2024-06-06T00:00:00Z"}
    shop = Shop(tmp_path, split=split)
    later = [("a", "i6", 5.0, 7), ("new", "i1", 5.0, 8)]
    base, _ = shop.whole(at(BASE), "base")
    more, report = shop.add(base, at(BASE[-1:] + later))
    assert (report.added.known, report.added.interactions) == (1, 2)
    assert by_ids(more) == by_ids(shop.whole(at(BASE + later))[0])


def test_known_rows_with_another_rating_are_told(shop):
    base, _ = shop.whole(BASE)
    _, report = shop.add(base, [("a", "i1", 1.0, 1), ("d", "i9", 1.0, 9)])
    step = next(step for step in report.steps if step.name == "drop known rows")
    assert (step.kept, step.dropped) == (1, 1)
    assert "1 of them have another rating" in step.reason


@pytest.mark.parametrize("time", [1, 4, 6])
def test_rows_that_are_not_later_are_refused(shop, time):
    base, _ = shop.whole(BASE)
    with refused("added-late", DataError) as error:
        shop.add(base, [("d", "i7", 5.0, 9), ("d", "i8", 5.0, time)])
    assert str(error.value.where) == "dataset.added"
    assert ("validation_from" in str(error.value)) == (time < 4)
    assert sorted(p.name for p in shop.folder.glob("*more*")) == ["more.parquet"]


def test_other_columns_are_refused(shop):
    base, _ = shop.whole(BASE)
    row = [("d", "i7", 5.0, 9)]
    for change in ({"brand": "x"}, {"title": None}):
        items = [{k: v for k, v in (row | change).items() if v is not None} for row in CATALOGUE]
        with refused("added-columns", DataError) as error:
            shop.add(base, row, items=shop.items(items, "other.parquet"))
        assert str(error.value.where).endswith("other.parquet")
    source = shop.parsed(row, "more.parquet").source
    path = shop.file([("d", "i7", 9)], "lacking.parquet", ("user_id", "item_id", "t"))
    with refused("column-missing", DataError):
        append(base, shop.parsed(row, "m.parquet"), source.model_copy(update={"interactions": path}), locate=Path,
               seed=SEED, out=shop.folder / "out.duckdb")  # fmt: skip


def test_a_base_of_other_settings_or_without_cuts_is_refused(shop):
    base, _ = shop.whole(BASE)
    shop.section["history"] = {"max_length": 2}
    with refused("base-other", DataError):
        shop.add(base, [])
    shop.section["split"] = "leave_one_out"
    base, _ = shop.whole(BASE)
    with refused("base-uncut", DataError) as error:
        shop.add(base, [])
    assert error.value.allowed == ("global_time", "fixed_cut")


@pytest.mark.parametrize("conflicts", ["stop", "first", "last"])
def test_known_items_that_differ(tmp_path, conflicts):
    shop = Shop(tmp_path, conflicts={"items": conflicts}, text={"item": "{{title}}"})
    items = [row | {"title": "changed"} if row["item_id"] == "i2" else row for row in CATALOGUE]
    base, _ = shop.whole(BASE)
    new = [("d", "i7", 5.0, 9)]
    if conflicts == "stop":
        with refused("known-differ", DataError, names="i2"):
            shop.add(base, new, items=shop.items(items, "changed.parquet"))
        return
    out, report = shop.add(base, new, items=shop.items(items, "changed.parquet"))
    text = {row["item_id"]: row["text"] for row in rows_of(out)["item"]}
    assert text == {f"i{n}": f"Item {n}" for n in (1, 2, 3, 4, 5, 7)} | (
        {"i2": "changed"} if conflicts == "last" else {}
    )
    assert report.added.changed_items == (conflicts == "last")
    assert [note.table for note in report.notes if "different texts" in note.message] == ["items"]


def test_an_item_without_a_row_takes_a_later_one(shop):
    base, _ = shop.whole([*BASE, ("a", "i99", 5.0, 6)])
    item = {"item_id": "i99", "title": "Late", "kind": "k0"}
    out, report = shop.add(base, [], items=shop.items([item], "late.parquet"))
    assert report.added.changed_items == 1
    assert {row["item_id"]: row["kind"] for row in rows_of(out)["item"]}["i99"] == "k0"


def test_new_items_are_looked_up_in_the_tables_of_before(tmp_path):
    """In the table of the addition, of earlier ones, of the data set, in this order; also of items not taken yet."""
    shop = Shop(tmp_path, text={"item": "{{title}}"})
    first = shop.items([{"item_id": "i30", "title": "Announced", "kind": "k9"}], "first.parquet")
    second = shop.items([{"item_id": "i31", "title": "New", "kind": "k8"}], "second.parquet")
    base, _ = shop.whole(BASE)
    night, report = shop.add(base, [("a", "i6", 5.0, 7)], "night", items=first)
    assert report.added.items == 1
    rows = [("a", "i7", 5.0, 8), ("b", "i30", 5.0, 8), ("b", "i31", 5.0, 9), ("c", "i99", 5.0, 9)]
    source = shop.parsed(rows, "later.parquet", second).source
    section = shop.parsed([("u0", "i0", 5.0, 1)], "unread.parquet").model_copy(
        update={"added": (AddedSection(interactions="night.parquet", items=first),
                          AddedSection(interactions="later.parquet", items=second))}
    )  # fmt: skip
    out = tmp_path / "later.duckdb"
    report = append(night, section, source, locate=Path, seed=SEED, out=out)
    found = {row["item_id"]: (row["text"], row["kind"]) for row in rows_of(out)["item"]}
    assert {item: found[item] for item in ("i6", "i7", "i30", "i31", "i99")} == {
        "i6": ("Item 6", "k0"), "i7": ("Item 7", "k1"), "i30": ("Announced", "k9"), "i31": ("New", "k8"),
        "i99": ("", None),
    }  # fmt: skip
    steps = [(step.name, step.kept) for step in report.steps if step.name == "read earlier items"]
    assert steps == [("read earlier items", 1), ("read earlier items", 1)]
    (join,) = (join for join in report.joins if join.entity == "item")
    assert join.unjoined == 1


@pytest.mark.parametrize("items", [1, 25])
def test_a_few_new_items_without_a_row_stop_nothing_and_many_do(tmp_path, items):
    shop = Shop(tmp_path, limits={"empty_histories": 1, "per_class": 0})
    base, _ = shop.whole(BASE)
    rows = [("a", f"x{n}", 5.0, 7 + n) for n in range(items)]
    if items > 20:
        with refused("data-limit", DataError):
            shop.add(base, rows)
        return
    _, report = shop.add(base, rows)
    assert [alarm.code for alarm in report.alarms if alarm.code == "unjoined"] == ["unjoined"]


def test_fractions_leave_their_cuts(shop):
    shop.section["split"] = {"type": "global_time", "validation": 0.2, "test": 0.2}
    base, report = shop.whole(BASE)
    assert report.cuts is not None
    out, added = shop.add(base, [("d", "i7", 5.0, 9 + n) for n in range(9)])
    assert added.cuts == report.cuts
    assert {row["split"] for row in rows_of(out)["sample"][len(rows_of(base)["sample"]) :]} == {"test"}


def test_users_drawn_at_random_stay_drawn(tmp_path):
    shop = Shop(tmp_path, max_users=20)
    rows = [(f"u{u}", f"i{(u + t) % 12}", 5.0, t) for u in range(40) for t in (1, 3, 5)]
    base, _ = shop.whole(rows)
    later = [(f"u{u}", f"i{(u + t) % 12}", 5.0, t) for u in range(80) for t in (7, 8)]
    out, report = shop.add(base, later)
    before, after = ({row["user_id"] for row in rows_of(path)["user"]} for path in (base, out))
    assert len(before) == 20
    assert before <= after
    assert after & {f"u{u}" for u in range(40)} == before
    assert 5 < report.added.users < 35


def test_a_new_user_needs_the_k_core_among_new_rows(tmp_path):
    shop = Shop(tmp_path, k_core={"user": 2}, label="rating")
    base, _ = shop.whole([*BASE, ("once", "i1", 5.0, 2)])
    rows = [
        ("a", "i6", 5.0, 9),
        ("new", "i1", 5.0, 9),
        ("d", "i1", 5.0, 8),
        ("d", "i6", 5.0, 9),
        ("once", "i1", 5.0, 2),
    ]
    out, report = shop.add(base, rows)
    assert {row["user_id"] for row in rows_of(out)["user"]} == {"a", "b", "c", "d"}
    assert report.added.interactions == 3
