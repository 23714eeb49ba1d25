"""What must hold for any data: histories, splits and negatives against brute force; order does not matter."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict

import pytest
from examples import examples
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.data import ingest as ingest_module

SECOND = 1_000_000  # of a sample's time
few = settings(max_examples=examples(4), deadline=None, suppress_health_check=list(HealthCheck))
rows_of = st.lists(
    st.tuples(
        st.sampled_from([f"u{n}" for n in range(5)]), st.sampled_from([f"i{n}" for n in range(12)]),
        st.integers(1, 5).map(float), st.integers(0, 9),
    ),
    min_size=8, max_size=60, unique_by=lambda row: (row[0], row[1], row[3]),
)  # fmt: skip


def usable(rows):
    """Both labels, three times, and a user with three events: what the settings below need."""
    ratings = {row[2] >= 4 for row in rows}
    users = Counter(row[0] for row in rows)
    return len(ratings) == 2 and len({row[3] for row in rows}) >= 3 and max(users.values()) >= 3


@few
@given(rows=rows_of, length=st.integers(1, 4), events=st.sampled_from(["positive", "all"]))
def test_history_is_the_users_own_past(run_rows, rows, length, events):
    assume(usable(rows))
    result = run_rows(rows, split="global_time", history={"max_length": length, "events": events})
    user, item = result.ids("user"), result.ids("item")
    salt = derive_seed(7, "split", "ties")

    def place(row):  # events at one time come in the order that the seed gives them
        pair = int.from_bytes(hashlib.md5(f"{row[0]}\x1f{row[1]}".encode()).digest()[8:], "little") >> 1
        return row[3], hashlib.md5(f"{salt},{pair}".encode()).hexdigest()

    past = defaultdict(list)
    for u, i, rating, time in sorted(rows, key=place):
        if events == "all" or rating >= 4:
            past[u].append((time, i))
    expected = {(u, i, time * SECOND): ([j for t, j in past[u] if t < time])[-length:] for u, i, _, time in rows}
    found = {
        (user[s["user_row"]], item[s["item_row"]], s["time"]): [item[j] for j in s["history"]] for s in result["sample"]
    }
    assert found == expected
    assert [s["sample_id"] for s in result["sample"]] == list(range(len(rows)))
    key = [(s["time"], s["user_row"], s["item_row"]) for s in result["sample"]]
    assert key == sorted(key)


@few
@given(rows=rows_of, validation=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4))
def test_global_time_respects_time(run_rows, rows, validation, test):
    assume(usable(rows))
    result = run_rows(rows, split={"type": "global_time", "validation": validation, "test": test})
    times = defaultdict(list)
    for sample in result["sample"]:
        times[sample["split"]].append(sample["time"])
    assert set(times) == {"train", "validation", "test"}
    assert max(times["train"]) < min(times["validation"])
    assert max(times["validation"]) < min(times["test"])
    assert sum(map(len, times.values())) == len(rows)


@few
@given(rows=rows_of)
def test_leave_one_out_counts(run_rows, rows):
    assume(usable(rows))
    result = run_rows(rows, order="position")
    assert result.report.clock == "per_user"
    of_user = defaultdict(list)
    for sample in result["sample"]:
        of_user[sample["user_row"]].append((sample["time"], sample["split"]))
    for events in of_user.values():
        splits = Counter(split for _, split in events)
        if len(events) < 3:
            assert splits == {"train": len(events)}
            continue
        assert splits == {"train": len(events) - 2, "validation": 1, "test": 1} or len(events) == 2
        time = {split: max(t for t, s in events if s == split) for split in splits}
        assert time["train"] <= time["validation"] <= time["test"]


@few
@given(
    rows=rows_of, per_positive=st.integers(1, 3), kind=st.sampled_from(["uniform", "popularity"]),
    repeats=st.sampled_from(["first", "keep"]),
)  # fmt: skip
def test_negatives_are_as_of_their_time(run_rows, rows, per_positive, kind, repeats):
    assume(usable(rows))
    label = {"type": "implicit", "negatives": kind, "per_positive": per_positive}
    try:
        result = run_rows(rows, label=label, split="leave_one_out", repeats=repeats)
    except DataError:
        reject()  # no user with three events is left, or nothing to draw; test_checks.py has those cases
    taken = defaultdict(set)
    for row in result["interaction"]:
        taken[row["user_row"]].add((row["item_row"], int(row["time"] * SECOND)))
    everything = set(range(1, len(result["item"]) + 1))

    def drawable(user, time):
        closed = {item for item, at in taken[user] if at == time or (at < time and repeats == "first")}
        return everything - closed

    positives, negatives = Counter(), Counter()
    for sample in result["sample"]:
        place = (sample["user_row"], sample["time"], sample["split"])
        if sample["label"] == 1:
            positives[place] += 1
        else:
            negatives[place] += 1
            assert sample["item_row"] in drawable(*place[:2])
    for place, count in positives.items():
        assert negatives[place] == count * min(per_positive, len(drawable(*place[:2])))
    assert set(negatives) <= set(positives)
    assert result.report.negatives.violations == 0


@pytest.mark.parametrize("label", ["rating", {"type": "implicit", "negatives": "popularity", "per_positive": 2}])
def test_neither_row_order_nor_threads_matter(run_rows, monkeypatch, label):
    rows = [(f"u{n * 7 % 23}", f"i{n * 13 % 31}", float(n % 5 + 1), n * 5 % 40) for n in range(400)]
    rows = list({(r[0], r[1], r[3]): r for r in rows}.values())
    connect = ingest_module.connect_write

    def with_threads(count):
        def call(path):
            con = connect(path)
            con.execute(f"SET threads = {count}")
            return con

        return call

    monkeypatch.setattr(ingest_module, "connect_write", with_threads(1))
    first = run_rows(rows, label=label)
    monkeypatch.setattr(ingest_module, "connect_write", with_threads(4))
    again = run_rows(rows[::-1], label=label)
    assert again.tables == first.tables
    other = run_rows(rows, label=label, seed=8)
    assert other["sample"] != first["sample"], "the seed decides ties and negatives"
    bare = [[{**row, "place": 0} for row in run["interaction"]] for run in (first, other)]
    assert bare[0] == bare[1], "the seed decides the place of events at one time, and nothing else of them"
