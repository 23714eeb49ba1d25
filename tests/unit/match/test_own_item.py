"""The shift of examples of a sample's own item, against plain Python, and where it must and must not be found."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmcf_cli.match.own_item import MOST, own_item_shift
from llmcf_cli.store.tables import SAMPLE, example_match

K = 2


def world(folder: Path, seed: int, *, own_row: bool):
    """Items with few positive rows; each sample finds positive train rows of its item, itself only if `own_row`."""
    chance = random.Random(seed)
    rows = []
    for item in range(1, 601):
        for _ in range(chance.randint(1, 4)):
            for label in (1, 0):
                split = "train" if chance.random() < 0.7 else "validation"
                rows.append((len(rows), len(rows) + 1, item, label, len(rows), split))
    positive = defaultdict(list)
    for sample, _, item, label, _, split in rows:
        if split == "train" and label:
            positive[item].append(sample)
    matches = {}
    for sample, _, item, *_ in rows:
        found = [other for other in positive[item] if own_row or other != sample][:1]
        matches[sample] = [*found, chance.randrange(len(rows))]
    database, table = folder / "data.duckdb", folder / "match.parquet"
    with duckdb.connect(str(database)) as connection:
        connection.execute(SAMPLE.ddl())
        table_of_rows = pa.table(dict(zip("abcdef", zip(*rows, strict=True), strict=True)))  # noqa: F841
        connection.execute("INSERT INTO sample SELECT *, [] FROM table_of_rows")
    places = [found + [-1] * (K - len(found)) for found in matches.values()]
    columns = [list(matches), places, [[0.0] * K for _ in places]]
    pq.write_table(pa.table(columns, schema=example_match(K).schema), table)
    return database, table, rows, matches


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_plain_python(tmp_path, seed):
    database, table, rows, matches = world(tmp_path, seed, own_row=False)
    item_of, label_of = ({row[0]: row[place] for row in rows} for place in (2, 3))
    positives = Counter(item for _, _, item, label, _, split in rows if split == "train" and label)
    shift = own_item_shift(database, table)
    for split, measured in (("train", shift.train), ("validation", shift.validation)):
        strata = defaultdict(lambda: ([], []))
        for sample, _, item, label, _, its in rows:
            if its == split and positives[item]:
                has = any(item_of[e] == item and label_of[e] == 1 for e in matches[sample])
                strata[min(positives[item], MOST)][label].append(has)
        weight = total = 0.0
        for negative, positive in strata.values():
            if negative and positive:
                each = len(positive) * len(negative) / (len(positive) + len(negative))
                weight += each
                total += each * (sum(positive) / len(positive) - sum(negative) / len(negative))
        assert measured == pytest.approx(total / weight)


def test_a_row_that_is_never_its_own_example_misleads_and_one_that_is_does_not(tmp_path):
    for own_row in (False, True):
        folder = tmp_path / str(own_row)
        folder.mkdir()
        database, table, *_ = world(folder, 9, own_row=own_row)
        shift = own_item_shift(database, table)
        assert shift.misleads is not own_row
        assert shift.train == pytest.approx(0, abs=0.05) if own_row else shift.train < -0.2
        assert shift.validation == pytest.approx(0, abs=0.05)
        assert 0 <= shift.error < 0.05


def test_nothing_is_told_of_a_split_with_one_label(tmp_path):
    database, table, *_ = world(tmp_path, 1, own_row=False)
    with duckdb.connect(str(database)) as connection:
        connection.execute("UPDATE sample SET label = 1 WHERE split = 'validation'")
    assert own_item_shift(database, table) is None
