"""Tables → arrays, against loops over rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import encode_entities, encode_rows, to_batch
from llmcf_cli.features.spec import FeatureSpec, FieldSpec, Vocab

SPEC = FeatureSpec(
    (FieldSpec("item_id", "item", "categorical", 4), FieldSpec("tags", "item", "multi", 4, width=2)), history_length=3
)
VOCAB = Vocab({"item.item_id": pa.array(["p", "q"]), "item.tags": pa.array(["u", "v"])})


def rows(histories, chunks=1):
    size = len(histories)
    table = pa.table({
        "sample_id": pa.array(range(size), pa.int64()), "user_row": pa.array([1] * size, pa.int32()),
        "item_row": pa.array(range(size), pa.int32()), "label": pa.array([n % 2 for n in range(size)], pa.int8()),
        "time": pa.array(range(size), pa.int64()), "history": pa.array(histories, pa.list_(pa.int32())),
    })  # fmt: skip
    if chunks > 1:
        cut = size // 2
        table = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    return table


@given(
    st.lists(st.none() | st.lists(st.integers(1, 99), max_size=7), max_size=9), st.integers(1, 5), st.integers(1, 2),
    st.integers(0, 3),
)  # fmt: skip
def test_histories_keep_their_last_events_right_aligned(histories, length, chunks, skip):
    samples = encode_rows(rows(histories, chunks).slice(skip), length)
    kept = histories[skip:]
    assert samples.history_row_NL.shape == (len(kept), length)
    for got, history in zip(samples.history_row_NL.tolist(), kept, strict=True):
        last = (history or [])[-length:]
        assert got == [0] * (length - len(last)) + last


def test_dtypes_and_take():
    samples = encode_rows(rows([[1], [2, 3], []]), 2)
    kinds = [getattr(samples, name).dtype for name in samples.__dataclass_fields__]
    assert kinds == [np.int64, np.int32, np.int32, np.int32, np.float32, np.int64]
    part = samples.take(np.array([2, 1]))
    assert part.item_row_N.tolist() == [2, 1]
    assert part.history_row_NL.tolist() == [[0, 0], [2, 3]]


def test_a_missing_column_is_named():
    with refused("column-missing", DataError):
        encode_rows(rows([[1]]).drop_columns("history"), 3)


def test_entities_are_encoded_row_by_row_with_an_unknown_row_0():
    table = pa.table({
        "item_id": ["q", "new", "p"], "tags": pa.array([["v", "u", "v"], None, ["strange"]], pa.list_(pa.string())),
    })  # fmt: skip
    found = encode_entities(table, "item", SPEC, VOCAB)
    assert found.columns["item_id"].tolist() == [1, 3, 1, 2]
    assert found.columns["tags"].tolist() == [[0, 0], [3, 2], [0, 0], [1, 0]]
    assert found.rows(pa.array(["p", None, "nobody", "q"])).tolist() == [3, 0, 0, 1]


def test_a_feature_column_may_be_missing_but_the_id_may_not():
    bare = encode_entities(pa.table({"item_id": ["p"]}), "item", SPEC, VOCAB)
    assert bare.columns["tags"].tolist() == [[0, 0], [0, 0]]
    with refused("column-missing", DataError):
        encode_entities(pa.table({"id": ["p"]}), "item", SPEC, VOCAB)
    with refused("ids-repeat", DataError):
        encode_entities(pa.table({"item_id": ["p", "p"]}), "item", SPEC, VOCAB)


def test_extended_tables_keep_their_rows():
    first, second = (encode_entities(pa.table({"item_id": ids}), "item", SPEC, VOCAB) for ids in (["p"], ["q", "z"]))
    both = first.extended(second)
    assert both.ids.to_pylist() == ["p", "q", "z"]
    assert both.columns["item_id"].tolist() == [1, 2, 3, 1]


def test_batches_are_taken_by_position():
    samples = encode_rows(rows([[1], [2, 3], []]), 2)
    batch = to_batch(
        samples,
        target_N=samples.label_N,
        inputs={"examples": np.array([[0, -1], [1, 2], [2, 0]], np.int32), "none": None},
    ).take(torch.tensor([1, 0]))
    assert len(batch) == 2
    assert batch.inputs["examples"].tolist() == [[1, 2], [0, -1]]
    assert batch.history_row_BL.tolist() == [[2, 3], [0, 1]]
    assert batch.target_B.tolist() == [1.0, 0.0]
