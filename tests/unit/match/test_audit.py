"""The audit finds every planted violation, exactly there, and nothing in clean matches."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.match.audit import BINS, audit_matches
from llmcf_cli.match.exact import ExactSearcher
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.limits import Limits
from llmcf_cli.store.tables import SAMPLE, example_match

# sample_id, user, item, label, time, split
ROWS = [
    (0, 1, 1, 1, 10, "train"), (1, 1, 2, 0, 20, "train"), (2, 2, 1, 1, 20, "train"), (3, 2, 3, 0, 30, "train"),
    (4, 3, 4, 1, 30, "train"), (5, 1, 1, 0, 40, "train"), (6, 3, 2, 0, 50, "validation"), (7, 2, 5, 1, 60, "test"),
    (8, 1, 5, 1, 70, "test"),
]  # fmt: skip
CLEAN = {
    0: [], 1: [0], 2: [0], 3: [0, 1], 4: [0, 2, 1], 5: [2, 4, 3, 1], 6: [0, 3, 2, 5], 7: [0, 1, 4, 5],
    8: [2, 3, 0, 1],
}  # fmt: skip


def write(tmp_path, matches, scores=None, rows=ROWS):
    db, table = tmp_path / "ingest.duckdb", tmp_path / "match.parquet"
    if not db.exists():
        with duckdb.connect(str(db)) as connection:
            connection.execute(SAMPLE.ddl())
            connection.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?, ?, [])", rows)
    pairs = matches.items() if isinstance(matches, dict) else matches
    lists = [(q, list(found) + [-1] * (4 - len(found))) for q, found in pairs]
    if scores is None:
        scores = [[0.9 - 0.1 * place if e != -1 else 0.0 for place, e in enumerate(found)] for _, found in lists]
    spec = example_match(4).schema
    pq.write_table(pa.table([[q for q, _ in lists], [f for _, f in lists], scores], schema=spec), table)
    return db, table


def counts(report):
    return {v.kind: v.count for v in report.violations if v.count}


@pytest.mark.parametrize("clock", ["global", "per_user"])
def test_clean_matches_have_none(tmp_path, clock):
    report = audit_matches(*write(tmp_path, CLEAN), clock)
    assert counts(report) == {}
    assert report.total == report.as_dict()["total"] == 0
    assert len(report.violations) == 11  # limits are not asked for
    assert (report.samples, report.k, report.examples_used, report.most_used) == (9, 4, 6, 7)
    filled = sum(map(len, CLEAN.values()))
    assert report.padding_share == pytest.approx(1 - filled / 36)
    labels = {row[0]: row[3] for row in ROWS}
    assert report.positive_share == pytest.approx(sum(labels[e] for f in CLEAN.values() for e in f) / filled)
    assert report.score_quantiles[0.0] == pytest.approx(0.6)
    assert report.score_quantiles[1.0] == pytest.approx(0.9)
    assert report.coverage["test"] == {"all": 1.0, "some": 0.0, "none": 0.0}
    assert report.coverage["train"] == pytest.approx({"all": 1 / 6, "some": 4 / 6, "none": 1 / 6})
    assert len(report.histogram) == BINS
    assert (report.histogram[0][0], report.histogram[-1][1]) == pytest.approx((0.6, 0.9))
    assert sum(count for _, _, count in report.histogram) == filled
    assert report.histogram[0][2] == sum(len(found) == 4 for found in CLEAN.values())
    assert report.histogram[-1][2] == sum(map(bool, CLEAN.values()))


@pytest.mark.parametrize(
    ("kind", "sample", "found", "also"),
    [
        ("own_row", 5, [5, 2], {"future": 1}),
        ("same_pair", 5, [0], {}),
        ("future", 3, [4], {}),
        ("future", 2, [1], {}),  # equal times
        ("not_train", 8, [7, 6], {}),
        ("duplicate", 8, [2, 2], {}),
        ("unknown_example", 8, [99], {}),
        ("label_imbalance", 8, [0, 2, 4], {}),
        ("label_imbalance", 8, [1, 3, 5], {"same_pair": 0}),
    ],
)
def test_each_planted_kind_is_found(tmp_path, kind, sample, found, also):
    report = audit_matches(*write(tmp_path, CLEAN | {sample: found}), "global")
    planted = {v.kind: v for v in report.violations}[kind]
    assert planted.count == (2 if kind == "not_train" else 1)
    assert planted.rows[0][0] == sample
    if kind != "label_imbalance":
        assert planted.rows[0][1] in found
    assert counts(report) == {k: n for k, n in {kind: planted.count, **also}.items() if n}


def test_examples_of_the_own_item_are_found_where_they_are_excluded(tmp_path):
    files = write(tmp_path, CLEAN)
    own = {v.kind: v for v in audit_matches(*files, "global", exclude="own_item").violations}["own_item"]
    assert own.count == sum(ROWS[e][2] == ROWS[q][2] for q, found in CLEAN.items() for e in found) > 0


@pytest.mark.parametrize(
    ("limits", "found", "want"),
    [
        (Limits(max_per_user=2), [2, 4, 3, 1], {}),
        (Limits(max_per_user=1), [2, 4, 3, 1], {"crowded_user": 1}),
        (Limits(max_per_user=2), [0, 1, 5], {"crowded_user": 1}),
        (Limits(distinct_items=True), [2, 4, 3, 1], {}),
        (Limits(distinct_items=True), [0, 2, 1], {"repeated_item": 1}),
        (Limits(1, True), [0, 5, 2], {"crowded_user": 1, "repeated_item": 1}),
    ],
)
def test_limits_are_checked_where_they_are_set(tmp_path, limits, found, want):
    matches = {q: [] for q in CLEAN} | {7: found}
    files = write(tmp_path, matches)
    report = audit_matches(*files, "global", balance="none", limits=limits)
    assert counts(report) == want
    assert all(v.rows[0][0] == 7 for v in report.violations if v.count)
    assert counts(audit_matches(*files, "global", balance="none")) == {}


def test_scores_of_one_value_and_no_examples_at_all(tmp_path):
    scores = [[0.25 if place < len(found) else 0.0 for place in range(4)] for found in CLEAN.values()]
    report = audit_matches(*write(tmp_path, CLEAN, scores), "global")
    assert report.histogram == ((0.25, 1.25, sum(map(len, CLEAN.values()))),)
    report = audit_matches(*write(tmp_path, {q: [] for q in CLEAN}), "global")
    assert report.histogram == ()
    assert report.coverage["test"]["none"] == 1.0


def test_rows_that_do_not_belong_or_are_missing(tmp_path):
    rows = [(q, found) for q, found in CLEAN.items() if q != 4] + [(77, []), (0, [])]
    assert counts(audit_matches(*write(tmp_path, rows), "global")) == {
        "unknown_sample": 1, "repeated_sample": 1, "unmatched_sample": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("found", "scores"),
    [
        ([2, 3], [0.5, 0.6, 0.0, 0.0]),
        ([2, -1, 3], [0.5, 0.0, 0.4, 0.0]),
        ([2, 3], [0.5, 0.4, 0.3, 0.0]),
        ([2, 3], [float("nan"), 0.4, 0.0, 0.0]),
    ],
)
def test_disorder(tmp_path, found, scores):
    files = write(tmp_path, CLEAN)
    table = pq.read_table(files[1]).to_pydict()
    table["example_sample_id"][8], table["score"][8] = found + [-1] * (4 - len(found)), scores
    pq.write_table(pa.table(table, schema=example_match(4).schema), files[1])
    assert counts(audit_matches(*files, "global"))["disorder"] >= 1


def test_clock_decides_what_is_future(tmp_path):
    matches = CLEAN | {3: [4], 1: [5]}  # another user's later row; an own later row
    assert counts(audit_matches(*write(tmp_path, matches), "global")) == {"future": 2}
    report = audit_matches(*write(tmp_path, matches), "per_user")
    assert counts(report) == {"future": 1}
    assert [v.rows for v in report.violations if v.count] == [((1, 5),)]


def test_free_balance_is_not_held_to_halves(tmp_path):
    files = write(tmp_path, CLEAN | {8: [0, 2, 4]})
    assert counts(audit_matches(*files, "global", balance="none")) == {}


def test_only_five_rows_are_shown(tmp_path):
    report = audit_matches(*write(tmp_path, {q: [q] for q in CLEAN}), "global")
    own = report.violations[0]
    assert (own.kind, own.count, len(own.rows)) == ("own_row", 9, 5)


@pytest.mark.parametrize("clock", ["global", "per_user"])
@pytest.mark.parametrize("exclude", ["strict", "own_item"])
@pytest.mark.parametrize("limits", [Limits(), Limits(1), Limits(2, True)])
def test_what_the_exact_searcher_finds_is_clean(tmp_path, clock, limits, exclude):
    rng = np.random.default_rng(7)
    count, train = 400, 250
    rows = [
        (i, *rng.integers(1, 9, 2).tolist(), int(rng.integers(2)), i // 7, "train" if i < train else "test")
        for i in range(count)
    ]
    columns = [np.array(c) for c in zip(*rows, strict=True)]
    keys = Keys(columns[0], columns[1], columns[2], columns[4])
    vector = rng.integers(-2, 3, (count, 6)).astype(np.float32)
    picked = np.sort(rng.choice(train, 80, replace=False))
    found = ExactSearcher().search(
        vector, keys, vector[picked], keys.take(picked), columns[3][picked], k=4, balance="labels",
        guard=Guard(clock, columns[5][picked], exclude, limits),
    )  # fmt: skip
    ids = np.where(found.index_NK >= 0, picked[found.index_NK], -1)
    files = write(tmp_path, dict(enumerate(ids.tolist())), found.score_NK.tolist(), rows)
    report = audit_matches(*files, clock, limits=limits, exclude=exclude)
    assert counts(report) == {}
    assert report.padding_share < 0.5
    own = audit_matches(*files, clock, exclude="own_item")
    assert bool(counts(own)) == (exclude == "strict")
    if not limits:
        strict = audit_matches(*files, clock, limits=Limits(1, True))
        assert {"crowded_user", "repeated_item"} == set(counts(strict))


def test_missing_or_foreign_files_are_refused(tmp_path):
    _, table = write(tmp_path, CLEAN)
    with refused("store-missing", StoreError):
        audit_matches(tmp_path / "none.duckdb", table, "global")
    with refused("store-unreadable", StoreError):
        audit_matches(table, table, "global")
    with duckdb.connect(str(tmp_path / "empty.duckdb")) as connection:
        connection.execute("CREATE TABLE other (a INTEGER)")
    with refused("audit-failed", StoreError):
        audit_matches(tmp_path / "empty.duckdb", table, "global")
