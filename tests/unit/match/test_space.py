"""Spaces: means, weights, empty histories, and rows that do not influence each other."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from refusals import refused

from llmcf_cli.core.errors import DataError
from llmcf_cli.match import space as space_module
from llmcf_cli.match.config import TextSpaceConfig
from llmcf_cli.match.space import TextSpace

RNG = np.random.default_rng(0)
TEXT = np.zeros((30, 12), np.float32)
TEXT[1:] = RNG.standard_normal((29, 12))
TEXT[1:] /= np.linalg.norm(TEXT[1:], axis=1, keepdims=True)


def space(history=0.5, item=0.5) -> TextSpace:
    return TextSpace(TextSpaceConfig(encoder="asset:any", history_weight=history, item_weight=item))


def test_history_is_the_renormalised_mean():
    history = np.array([[3, 5, 9, 0], [7, 0, 0, 0], [0, 0, 0, 0], [0, 3, 5, 9]], np.int32)
    got = space().history_vectors(TEXT, history)
    mean = TEXT[[3, 5, 9]].mean(0)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], mean / np.linalg.norm(mean), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got[1], TEXT[7], rtol=1e-6, atol=1e-7)
    assert not got[2].any()
    assert np.array_equal(got[0], got[3])  # padding on either side


def test_history_that_cancels_out_is_empty():
    text = np.array([[0, 0], [1, 0], [-1, 0]], np.float32)
    assert not space().history_vectors(text, np.array([[1, 2]])).any()


def test_dot_product_is_the_weighted_score():
    history, item = RNG.integers(0, 30, (8, 5)), RNG.integers(0, 30, 8)
    example = space().example_vectors(TEXT, item, history)
    query = space(0.3, 0.7).query_vectors(TEXT, item[::-1], history[::-1])
    assert example.shape == query.shape == (8, 24)
    h, t = example[:, :12], example[:, 12:]
    want = 0.3 * h[::-1] @ h.T + 0.7 * t[::-1] @ t.T
    np.testing.assert_allclose(query @ example.T, want, atol=1e-6)


def test_one_sided_weights():
    history, item = RNG.integers(1, 30, (4, 5)), RNG.integers(1, 30, 4)
    assert not space(1, 0).query_vectors(TEXT, item, history)[:, 12:].any()
    assert not space(0, 1).query_vectors(TEXT, item, history)[:, :12].any()
    with pytest.raises(ValidationError, match="both 0"):
        space(0, 0)
    with pytest.raises(ValidationError, match="greater than or equal"):
        space(-1, 1)


def test_a_row_is_the_same_alone_in_a_block_and_across_blocks(monkeypatch):
    history = RNG.integers(0, 30, (100, 7))
    whole = space().history_vectors(TEXT, history)
    monkeypatch.setattr(space_module, "BLOCK", 7)
    assert np.array_equal(space().history_vectors(TEXT, history), whole)
    padded = np.pad(history[13:14], ((0, 0), (4, 6)))
    assert np.array_equal(space().history_vectors(TEXT, padded)[0], whole[13])


def test_no_rows_and_no_columns():
    assert space().history_vectors(TEXT, np.zeros((0, 5), np.int32)).shape == (0, 12)
    assert not space().history_vectors(TEXT, np.zeros((3, 0), np.int32)).any()


@pytest.mark.parametrize(("item", "history"), [(30, 1), (-1, 1), (1, 30), (1, -1)])
def test_rows_without_a_vector_are_refused(item, history):
    with refused("vectors-unfit", DataError, names="0.*29"):
        space().query_vectors(TEXT, np.array([item]), np.array([[history]]))
