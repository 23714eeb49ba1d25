"""Fields, vocabularies and scales: what gets an id, on which scale numbers are, and what is left out."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.batch import encode_entities
from llmcf_cli.features.choice import Choice
from llmcf_cli.features.spec import FeatureSpec, Vocab, fit_features

USERS = pa.table({"user_row": [1, 2], "user_id": ["a", "b"], "text": ["", ""], "job": ["x", "x"]})
ITEMS = pa.table({
    "item_row": [1, 2, 3], "item_id": ["p", "q", "r"], "text": ["", "", ""],
    "title": ["one", "two", "three"], "brand": ["m", "m", None], "tags": [["u", "v"], [], ["w"]],
})  # fmt: skip
CHOICES = (
    Choice("item", "tags", "multi"), Choice("item", "brand", "categorical"), Choice("user", "job", "categorical")
)  # fmt: skip


def fit(item_counts, min_count=1, items=ITEMS, choices=CHOICES):
    counts = {"user": np.array([0, 3, 1]), "item": np.array([9, *item_counts])}
    return fit_features(USERS, items, choices, counts, 4, min_count)


def test_fields_are_ids_first_and_the_chosen_columns_in_the_order_of_the_table():
    spec, _ = fit([1, 1, 1])
    assert [f.key for f in spec.fields] == ["user.user_id", "user.job", "item.item_id", "item.brand", "item.tags"]
    tags = spec.fields[-1]
    assert (tags.kind, tags.width, tags.size) == ("multi", 2, 5)
    assert spec.history_length == 4
    assert [f.key for f in fit([1, 1, 1], choices=())[0].fields] == ["user.user_id", "item.item_id"]
    unique, _ = fit([1, 1, 1], choices=[Choice("item", "title", "categorical")])
    assert unique.fields[-1].key == "item.title"  # the recipe named it


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


def test_of_several_values_the_first_are_kept():
    items = ITEMS.set_column(5, "tags", pa.array([["w", "u", "v"], None, ["x"]]))
    spec, vocab = fit([1, 1, 1], items=items, choices=[Choice("item", "tags", "multi", max_values=2)])
    assert spec.fields[-1].width == 2
    assert vocab.values["item.tags"].to_pylist() == ["u", "w", "x"]
    encoded = encode_entities(items, "item", spec, vocab).columns["tags"]
    assert encoded.tolist() == [[0, 0], [3, 2], [0, 0], [4, 0]]


def number(values, transform="standard", buckets=10, counts=None):
    items = pa.table({
        "item_row": range(1, len(values) + 1), "item_id": [f"i{n}" for n in range(len(values))],
        "x": pa.array(values, pa.float64()),
    })  # fmt: skip
    choice = Choice("item", "x", "numeric", transform=transform, buckets=buckets)
    counts = np.ones(len(values), np.int64) if counts is None else np.asarray(counts)
    spec, vocab = fit_features(USERS, items, [choice], {"user": np.ones(3), "item": np.array([5, *counts])}, 4)
    return spec, vocab, spec.fields[-1], encode_entities(items, "item", spec, vocab).columns["x"]


_numbers = st.lists(st.none() | st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=30)


@given(_numbers, st.data())
def test_standardised_numbers_use_the_train_split_alone(values, data):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=len(values)))
    _, vocab, field, found = number(values, counts=counts)
    seen = [v for v, c in zip(values, counts, strict=True) if c and v is not None]
    mean = sum(seen) / len(seen) if seen else 0.0
    deviation = (sum((v - mean) ** 2 for v in seen) / len(seen)) ** 0.5 if seen else 0.0
    assert field.scale.mean == pytest.approx(mean, abs=1e-6, rel=1e-9)
    if deviation > 1e-5:
        assert field.scale.deviation == pytest.approx(deviation, rel=1e-6)
    wanted = [np.nan if v is None else (v - field.scale.mean) / field.scale.deviation for v in values]
    wanted = [max(-1e4, min(1e4, v)) if v == v else v for v in wanted]
    np.testing.assert_allclose(found, np.array([np.nan, *wanted], np.float32))
    assert found.dtype == np.float32
    assert "item.x" not in vocab.values


@given(_numbers, st.integers(2, 6))
def test_buckets_hold_what_lies_between_their_edges(values, buckets):
    _, _, field, found = number(values, "quantile", buckets)
    assert field.kind == "categorical"
    assert len(field.edges) < buckets
    assert list(field.edges) == sorted(set(field.edges))
    assert found[0] == field.size - 1
    for value, at in zip(values, found[1:], strict=True):
        wanted = field.size - 1 if value is None else 2 + sum(edge <= value for edge in field.edges)
        assert at == wanted


def test_a_spread_that_is_rounding_is_none():
    _, _, field, found = number([0.1, 0.1, 0.1, 7.0], counts=[1, 1, 1, 0])
    assert field.scale.deviation == 1.0
    np.testing.assert_allclose(found[1:], [0, 0, 0, 6.9], atol=1e-6)


def test_buckets_have_about_as_many_each():
    _, _, field, found = number(list(np.random.default_rng(0).lognormal(size=1000)), "quantile", 5)
    assert np.bincount(found[1:] - 2).tolist() == [200] * 5
    assert field.size == 2 + 5 + 1


def test_numbers_of_new_entities_may_be_text_and_must_be_numbers():
    spec, vocab, _, _ = number([1.0, 3.0])
    given_items = pa.table({"item_id": ["a", "b", "c"], "x": [" 5 ", "", "NaN"]})
    found = encode_entities(given_items, "item", spec, vocab).columns["x"]
    np.testing.assert_array_equal(found, np.array([np.nan, 3.0, np.nan, np.nan], np.float32))
    whole = encode_entities(pa.table({"item_id": ["a"], "x": pa.array([5])}), "item", spec, vocab).columns["x"]
    assert whole[1] == 3.0
    assert np.isnan(encode_entities(pa.table({"item_id": ["a"]}), "item", spec, vocab).columns["x"]).all()
    with refused("value-unreadable", DataError):
        encode_entities(pa.table({"item_id": ["a"], "x": ["five"]}), "item", spec, vocab)
    with refused("feature-range", DataError):
        number([1e308, -1e308, 1e308])


def test_spec_and_vocab_survive_json_and_arrow():
    items = ITEMS.append_column("price", pa.array([1.0, None, 1 / 3]))
    for transform in ("standard", "quantile"):
        price = Choice("item", "price", "numeric", transform=transform)
        spec, vocab = fit([1, 1, 1], items=items, choices=[*CHOICES, price])
        again = FeatureSpec.from_json(json.loads(json.dumps(spec.to_json())))
        assert again == spec
        assert Vocab.from_arrow(vocab.to_arrow(), again).values == vocab.values


@pytest.mark.parametrize(
    ("column", "kind"), [("price", "categorical"), ("price", "multi"), ("brand", "multi"), ("tags", "categorical"),
                         ("brand", "numeric")],
)  # fmt: skip
def test_a_column_of_another_type_is_refused_by_name(column, kind):
    items = ITEMS.append_column("price", pa.array([1.0, 2.0, 3.0]))
    with refused("feature-kind", DataError, names=rf"item\.{column}"):
        fit([1, 1, 1], items=items, choices=[Choice("item", column, kind)])


def test_a_feature_that_the_table_lacks_is_named():
    with refused("column-missing", DataError):
        fit([1, 1, 1], choices=[Choice("item", "colour", "categorical")])
