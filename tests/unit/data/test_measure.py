"""Measures of an ingest, against those of another library."""

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from llmcf_cli.data.measure import rules

PAIRS = st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=40)


@given(PAIRS)
def test_the_auc_of_popularity_counts_ties_half_and_is_none_with_one_label(pairs):
    label_N, item_N = np.array([label for label, _ in pairs]), np.array([item for _, item in pairs])
    with duckdb.connect() as con:
        con.execute("CREATE TABLE sample (user_row INT, item_row INT, label TINYINT, time BIGINT, split VARCHAR)")
        con.execute("CREATE TABLE taken (user_row INT, item_row INT, time BIGINT)")
        con.execute("CREATE TABLE train_count AS SELECT i AS item_row, i AS positives FROM range(4) t(i)")
        rows = [(1, int(item), int(label), 5, "validation") for label, item in zip(label_N, item_N, strict=True)]
        con.executemany("INSERT INTO sample VALUES (?, ?, ?, ?, ?)", rows)
        found = {rule.code: rule.auc for rule in rules(con)}
    if len(set(label_N)) == 2:
        assert found["popularity"] == pytest.approx(roc_auc_score(label_N, item_N))
        assert found["taken_before"] == pytest.approx(0.5)
    else:
        assert found["popularity"] is None
