"""Searches for requests with the user's part computed once find what the plain search finds, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcf_cli.features.batch import Samples
from llmcf_cli.match import halves
from llmcf_cli.match.config import ExactSearchConfig, TextSpaceConfig
from llmcf_cli.match.exact import ExactSearcher
from llmcf_cli.match.halves import ExactOnlineSearch
from llmcf_cli.match.searcher import OnlineSearch
from llmcf_cli.match.space import TextSpace
from llmcf_cli.rec.input.config import ExamplesInputConfig

LENGTH = 4


def texts(rng, items, dim, levels):
    """Unit vectors with few distinct numbers, so that scores tie; some zeros, some shorter than 1."""
    raw_ID = rng.integers(-levels, levels + 1, (items + 1, dim)).astype(np.float32)
    raw_ID[0] = 0
    raw_ID[rng.random(items + 1) < 0.1] = 0
    norm_I1 = np.maximum(np.linalg.norm(raw_ID, axis=1, keepdims=True), 1e-9)
    return (raw_ID / norm_I1 * np.where(rng.random((items + 1, 1)) < 0.2, 0.3, 1.0)).astype(np.float32)


def rows(rng, count, users, items, times, *, live):
    """Samples, some of one user one after another."""
    user_N = np.sort(rng.integers(0, users + 1, count)).astype(np.int32)
    history_UL = rng.integers(0, items + 1, (users + 1, LENGTH)).astype(np.int32)
    history_UL[rng.random(users + 1) < 0.2] = 0
    time_U = rng.integers(0, times, users + 1)
    ids = np.full(count, -1) if live else rng.permutation(count * 2)[:count]
    return Samples(ids.astype(np.int64), user_N, rng.integers(0 if live else 1, items + 1, count).astype(np.int32),
                   history_UL[user_N], rng.integers(0, 2, count).astype(np.float32), time_U[user_N])  # fmt: skip


def searches(rng, space, text_IT, examples, section, clock):
    vector_ES = space.example_vectors(space.item_vectors(text_IT), examples.item_row_N, examples.history_row_NL)
    searcher = ExactSearcher(ExactSearchConfig(query_block=64, example_block=int(rng.choice([64, 4096]))))
    found = [kind(searcher, space, examples, vector_ES, section, clock) for kind in (OnlineSearch, ExactOnlineSearch)]
    assert isinstance(searcher.online(space, examples, vector_ES, section, clock), ExactOnlineSearch)
    return found


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32), queries=st.integers(0, 40), examples=st.integers(0, 90), users=st.integers(1, 6),
    items=st.integers(1, 30), dim=st.sampled_from([1, 3, 16]), levels=st.sampled_from([1, 3, 1000]),
    weights=st.sampled_from([(0.5, 0.5), (1.0, 0.0), (0.0, 1.0), (0.3, 1.7)]), k=st.sampled_from([2, 6]),
    balance=st.sampled_from(["labels", "none"]), clock=st.sampled_from(["global", "per_user"]),
    exclude=st.sampled_from(["strict", "own_item", "reference"]), distinct=st.booleans(),
    most=st.sampled_from([None, 1, 2]), kept=st.sampled_from([1 << 28, 4000]),
)  # fmt: skip
def test_it_finds_what_the_plain_search_finds(
    seed, queries, examples, users, items, dim, levels, weights, k, balance, clock, exclude, distinct, most, kept
):
    rng = np.random.default_rng(seed)
    space = TextSpace(
        TextSpaceConfig(type="text", encoder="asset:any", history_weight=weights[0], item_weight=weights[1])
    )
    section = ExamplesInputConfig(k=k, balance=balance, exclude=exclude, distinct_items=distinct, max_per_user=most)
    text_IT = texts(rng, items, dim, levels)
    bank = rows(rng, examples, users, items, 5, live=False)
    plain, split = searches(rng, space, text_IT, bank, section, clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(halves, "MOST_BYTES", kept)  # where the items' halves do not fit, they are computed anew
        patch.setattr(halves, "AT_ONCE", 4000)
        for _ in range(2):  # with halves that are kept from before
            asked = rows(rng, queries, users, items, 6, live=True)
            expected, found = plain.search(text_IT, asked, k), split.search(text_IT, asked, k)
            np.testing.assert_array_equal(found.index_NK, expected.index_NK)
            np.testing.assert_array_equal(found.score_NK, expected.score_NK)


def test_items_that_are_added_are_found_by_their_texts():
    rng = np.random.default_rng(3)
    space = TextSpace(TextSpaceConfig(type="text", encoder="asset:any"))
    text_IT, bank = texts(rng, 20, 8, 1000), rows(rng, 50, 4, 20, 5, live=False)
    plain, split = searches(rng, space, text_IT, bank, ExamplesInputConfig(k=4), "global")
    split.search(text_IT, rows(rng, 9, 4, 20, 6, live=True), 4)
    longer_IT = np.concatenate([text_IT, texts(rng, 5, 8, 1000)[1:]])
    asked = rows(rng, 40, 4, len(longer_IT) - 1, 6, live=True)
    expected, found = plain.search(longer_IT, asked, 4), split.search(longer_IT, asked, 4)
    np.testing.assert_array_equal(found.index_NK, expected.index_NK)
    np.testing.assert_array_equal(found.score_NK, expected.score_NK)


def test_too_many_examples_are_searched_plainly():
    assert halves.fits(np.zeros((10, 8), np.float32), torch.device("cpu"))
    assert not halves.fits(np.broadcast_to(np.float32(0), (1 << 20, 768)), torch.device("cpu"))
    assert not halves.fits(np.zeros((10, 8), np.float32), torch.device("cuda"))
