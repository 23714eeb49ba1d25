"""Fields and vocabularies: what gets an id, and what does not."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.spec import FeatureSpec, Vocab, fit_features

USERS = pa.table({"user_row": [1, 2], "user_id": ["a", "b"], "text": ["", ""], "job": ["x", "x"]})
ITEMS = pa.table({
    "item_row": [1, 2, 3], "item_id": ["p", "q", "r"], "text": ["", "", ""],
    "title": ["one", "two", "three"], "brand": ["m", "m", None], "tags": [["u", "v"], [], ["w"]],
})  # fmt: skip


def fit(item_counts, min_count=1, items=ITEMS):
    counts = {"user": np.array([0, 3, 1]), "item": np.array([9, *item_counts])}
    return fit_features(USERS, items, counts, 4, min_count)


def test_fields_are_ids_first_and_a_column_that_repeats_the_id_is_left_out():
    spec, _ = fit([1, 1, 1])
    assert [f.key for f in spec.fields] == ["user.user_id", "user.job", "item.item_id", "item.brand", "item.tags"]
    tags = spec.fields[-1]
    assert (tags.kind, tags.width, tags.size) == ("multi", 2, 5)
    assert spec.history_length == 4


def test_only_values_of_entities_in_train_get_an_id():
    spec, vocab = fit([1, 2, 0])
    assert vocab.values["item.item_id"].to_pylist() == ["p", "q"]
    assert vocab.values["item.tags"].to_pylist() == ["u", "v"]
    ids = vocab.encode(spec.fields[2], pa.array(["q", "r", None, "p", "elsewhere"]))
    assert ids.tolist() == [3, 1, 0, 2, 1]


def test_min_count_counts_occurrences_in_train():
    _, vocab = fit([1, 2, 0], min_count=2)
    assert vocab.values["item.item_id"].to_pylist() == ["q"]
    assert vocab.values["item.brand"].to_pylist() == ["m"]
    assert vocab.values["item.tags"].to_pylist() == []


def test_ids_do_not_depend_on_the_order_of_rows():
    order = pa.array([2, 0, 1])
    _, vocab = fit([1, 2, 3])
    _, shuffled = fit([3, 1, 2], items=ITEMS.take(order))
    assert vocab.values == shuffled.values


def test_spec_and_vocab_survive_json_and_arrow():
    spec, vocab = fit([1, 1, 0])
    again = FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert Vocab.from_arrow(vocab.to_arrow(), again).values == vocab.values


def test_a_column_of_numbers_is_refused_by_name():
    with pytest.raises(DataError, match=r"item\.price.*double"):
        fit([1, 1, 1], items=ITEMS.append_column("price", pa.array([1.0, 2.0, 3.0])))
