"""Sequences that begin alike are read once, and each prediction is what the sequence alone would get."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llmcf_cli.llm.asking.reading import Reader, pack, rows_of

SEQUENCES = st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=9), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def reader(tiny_model: Path) -> Reader:
    return Reader(tiny_model, "fp32")


@given(SEQUENCES)
def test_a_row_is_the_tree_of_its_sequences(sequences):
    sequences.sort()
    row = pack(sequences)
    prefixes = {tuple(s[: n + 1]) for s in sequences for n in range(len(s))}
    assert len(row.ids_T) == len(prefixes), "each shared beginning once"
    for sequence, path in zip(sequences, row.paths, strict=True):
        assert row.ids_T[path].tolist() == sequence
        assert row.position_T[path].tolist() == list(range(len(sequence)))
        for depth, place in enumerate(path):
            assert np.flatnonzero(row.seen_TT[place]).tolist() == sorted(path[: depth + 1])


@given(SEQUENCES, st.integers(1, 20), st.integers(1, 4))
def test_rows_hold_every_sequence_once_within_their_limits(sequences, most_tokens, most):
    rows = rows_of(sequences, most_tokens=most_tokens, most=most)
    order = list(itertools.chain.from_iterable(rows))
    assert sorted(order) == list(range(len(sequences)))
    assert [sequences[i] for i in order] == sorted(sequences)
    before = []
    for row in rows:
        together = [before, *(sequences[i] for i in row)] if before else [sequences[i] for i in row]
        fresh = len(pack(together).ids_T) - len(before)
        assert len(row) <= most
        assert len(row) == 1 or fresh <= most_tokens
        before = sequences[row[-1]]


@given(sequences=SEQUENCES)
def test_logits_are_those_of_the_sequence_alone(reader, sequences):
    sequences.sort()
    wanted = [range(max(0, len(s) - 3), len(s)) for s in sequences]
    with torch.no_grad():
        model = reader._weights()
        for sequence, asked, logits_WV in zip(sequences, wanted, reader.logits(sequences, wanted), strict=True):
            expected = model(torch.tensor([sequence])).logits[0, asked.start :]
            torch.testing.assert_close(logits_WV, expected, rtol=1e-4, atol=1e-4)


def test_sequences_of_one_beginning_share_a_row(reader):
    sequences = [[5, 6, 7, n] for n in range(20, 40)]
    assert len(reader.rows(sequences, most_tokens=100, most=100)) == 1
    assert [len(row) for row in reader.rows(sequences, most_tokens=8, most=100)] == [5, 8, 7]


@given(sequences=SEQUENCES, most=st.integers(1, 3))
def test_what_was_read_before_changes_nothing(reader, sequences, most):
    """Rows in a row: each takes from the cache what it shares with the one before."""
    asked = range(len(sequences[0]) - 1, len(sequences[0]))
    expected = Reader.logits(reader, [sequences[0]], [asked])[0]
    found = {}
    for row in reader.rows(sequences, most_tokens=6, most=most):
        wanted = [range(len(sequences[i]) - 1, len(sequences[i])) for i in row]
        found |= dict(zip(row, reader.logits([sequences[i] for i in row], wanted), strict=True))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


def test_a_model_that_cannot_share_reads_one_sequence_at_a_time(tiny_model, tmp_path):
    """Bloom has neither positions to set nor masks of this kind: attention falls with distance in the row."""
    from transformers import BloomConfig, BloomForCausalLM

    from llmcf_cli.llm.models.load import load_tokenizer, save_model

    tokenizer = load_tokenizer(tiny_model)
    torch.manual_seed(0)
    shape = BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)
    save_model(BloomForCausalLM(shape), tokenizer, tmp_path / "bloom")
    reader = Reader(tmp_path / "bloom", "fp32")
    sequences = [[5, 6, 7, 8], [5, 6, 7, 9]]
    assert reader.rows(sequences, most_tokens=100, most=100) == [[0], [1]]
    with torch.no_grad():
        expected = reader._weights()(torch.tensor([sequences[1]])).logits[0, -1:]
    torch.testing.assert_close(reader.logits([sequences[1]], [range(3, 4)])[0], expected)


def test_a_sequence_past_a_sliding_window_is_read_alone(tiny_model, tmp_path):
    from transformers import MistralConfig, MistralForCausalLM

    from llmcf_cli.llm.models.load import load_tokenizer, save_model

    tokenizer = load_tokenizer(tiny_model)
    shape = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, initializer_range=0.3,
    )  # fmt: skip
    save_model(MistralForCausalLM(shape), tokenizer, tmp_path / "mistral")
    reader = Reader(tmp_path / "mistral", "fp32")
    for length, rows in ((10, 1), (20, 2)):
        sequences = [[*range(5, 5 + length), n] for n in (50, 60)]
        assert len(reader.rows(sequences, most_tokens=100, most=100)) == rows
        with torch.no_grad():
            expected = reader._weights()(torch.tensor(sequences)).logits[:, -1]
        for row in reader.rows(sequences, most_tokens=100, most=100):
            wanted = [range(length, length + 1)] * len(row)
            found = torch.cat(reader.logits([sequences[i] for i in row], wanted))
            torch.testing.assert_close(found, expected[row], rtol=1e-4, atol=1e-5)
