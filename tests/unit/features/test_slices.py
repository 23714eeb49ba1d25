"""Slices against plain Python, and the same from ingest's tables as from samples."""

import duckdb
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.data.measure import cold_slices
from llmcf_cli.features.slices import RARE, SHORT, cold_start_slices

ROWS = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.integers(0, 6)), max_size=40)


def by_hand(train, test):
    users, taken = {row[0] for row in train}, [row[:2] for row in train if row[2]]
    count = [sum(item == other for _, other in taken) for _, item, _, _ in test]
    repeated = [row[:2] in taken for row in test]
    masks = {
        "new users": [row[0] not in users for row in test], "new items": [found == 0 for found in count],
        "rare items": [1 <= found <= RARE for found in count], "short histories": [row[3] <= SHORT for row in test],
        "long histories": [row[3] > SHORT for row in test],
    }  # fmt: skip
    if any(repeated):
        masks |= {"repeated pairs": repeated, "first pairs": [not one for one in repeated]}
    return {name: mask for name, mask in masks.items() if any(mask)}


@given(ROWS, ROWS)
def test_slices(train, test):
    train_RC, test_RC = (np.array(rows, np.int64).reshape(-1, 4) for rows in (train, test))
    taken = train_RC[train_RC[:, 2] > 0]
    found = cold_start_slices(train_RC[:, 0], (taken[:, 0], taken[:, 1]), (test_RC[:, 0], test_RC[:, 1]), test_RC[:, 3])
    expected = by_hand(train, test)
    assert {name.split(" (")[0]: mask.tolist() for name, mask in found.items()} == expected

    columns = "split TEXT, user_row INTEGER, item_row INTEGER, label TINYINT, history INTEGER[]"
    rows = [
        (split, user, item, int(label), [1] * length)
        for split, part in (("train", train), ("test", test))
        for user, item, label, length in part
    ]
    with duckdb.connect() as con:
        con.execute(f"CREATE TABLE sample ({columns})")
        if rows:
            con.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?)", rows)
        counted = {one.name.split(" (")[0]: (one.positive, one.negative) for one in cold_slices(con)}
    taken_N = [row[2] for row in test]
    for name, mask in expected.items():
        inside = [taken for taken, one in zip(taken_N, mask, strict=True) if one]
        assert counted.pop(name) == (sum(inside), len(inside) - sum(inside))
    assert counted == {}
