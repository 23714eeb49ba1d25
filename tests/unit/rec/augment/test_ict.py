"""The in-context transformer: what it may see, what it must not, and its equations."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from llmcf_cli.core.errors import ModelError
from llmcf_cli.rec.augment.base import COT_AUX, CoTPrediction
from llmcf_cli.rec.augment.ict import distinct_lists
from llmcf_cli.rec.config import BCEConfig, CoTReconstructionConfig, DeepFMConfig, ICTConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.parts.layers import CausalDecoder, causal_mask, rotary, rotate

OBJECTIVES = (BCEConfig(), CoTReconstructionConfig())


def model(world, seed=3, objectives=OBJECTIVES, **settings):
    # A model's buffers are the arrays of its resources, and these tests change them: they get their own.
    resources = copy.deepcopy(world.data.resources)
    built = RecModel(resources, DeepFMConfig(), ICTConfig(**settings), objectives, seed=seed)
    torch.manual_seed(seed)
    for parameter in built.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built


def context(built, batch):
    seen = []
    hook = built.augmenter.register_forward_hook(lambda module, inputs, output: seen.append(output))
    built(batch)
    hook.remove()
    return seen[0].context_BC


@pytest.fixture
def batch(world):
    """Rows with no example, with some, and with all."""
    found = world.data.batch("train", inputs=["examples"]).take(torch.tensor([0, 1, 2, 20, 60, 150, 250, 300]))
    counts = (found.inputs["examples"] >= 0).sum(1)
    assert counts.min() == 0
    assert counts.max() == 4
    return found


def test_padding_examples_contents_do_not_matter(world, batch):
    built = model(world).eval()
    # Slot 0 of the bank stands in for "no example": take it away from real use, then change all of it.
    real = dataclasses.replace(
        batch, inputs={"examples": torch.where(batch.inputs["examples"] == 0, -1, batch.inputs["examples"])}
    )
    before = context(built, real)
    built.inputs["examples"].cot_ET[0] *= -3
    built.inputs["examples"].label_E[0] = 1 - built.inputs["examples"].label_E[0]
    built.inputs["examples"].item_E[0], built.inputs["examples"].history_EL[0] = 5, 7
    torch.testing.assert_close(context(built, real), before, rtol=1e-6, atol=1e-7)


def test_rows_without_examples_are_finite_forward_and_backward(world, batch):
    built = model(world).train()
    empty = dataclasses.replace(batch, inputs={"examples": torch.full_like(batch.inputs["examples"], -1)})
    output = built(empty)
    loss = built.loss(output, empty.targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)


@pytest.mark.parametrize("part", ["cot_ET", "label_E"])
def test_examples_matter(world, batch, part):
    built = model(world).eval()
    before = context(built, batch)
    buffer = getattr(built.inputs["examples"], part)
    buffer.copy_(1 - buffer)
    changed = (context(built, batch) - before).abs().amax(1) > 1e-5
    assert changed.tolist() == (batch.inputs["examples"] >= 0).any(1).tolist()


def test_without_chains_of_thought_they_are_not_seen(world, batch):
    built = model(world, tokens=("row", "label")).eval()
    before = context(built, batch)
    built.inputs["examples"].cot_ET.copy_(-built.inputs["examples"].cot_ET)
    assert torch.equal(context(built, batch), before)
    assert COT_AUX not in built.train()(batch).aux


def test_a_prediction_sees_neither_its_own_chain_of_thought_nor_its_label(world):
    built = model(world).train()
    batch = world.data.batch("train", inputs=["examples"]).take(torch.arange(300, 310))
    before = built(batch).aux[COT_AUX].hidden_BKD.detach()
    for k in range(4):
        # The hidden state at x_k reads x_1 … y_{k-1} and x_k, so only later ones move when example k changes.
        example = int(batch.inputs["examples"][0, k])
        saved = built.inputs["examples"].cot_ET[example].clone(), built.inputs["examples"].label_E[example].clone()
        built.inputs["examples"].cot_ET[example] *= -2
        built.inputs["examples"].label_E[example] = 1 - built.inputs["examples"].label_E[example]
        moved = (built(batch).aux[COT_AUX].hidden_BKD.detach()[0] - before[0]).abs().amax(1) > 1e-6
        assert moved.tolist() == [j > k for j in range(4)]
        built.inputs["examples"].cot_ET[example], built.inputs["examples"].label_E[example] = saved


def test_the_last_layer_computes_only_what_is_read_and_the_same():
    torch.manual_seed(0)
    decoder = CausalDecoder(layers=2, heads=2, dim=16, dropout=0.0, length=13).eval()
    tokens, mask = torch.randn(5, 13, 16), torch.rand(5, 13) > 0.2
    whole = decoder(tokens, mask, torch.arange(13))
    for read in ([12], [0, 3, 6, 9, 12]):
        torch.testing.assert_close(decoder(tokens, mask, torch.tensor(read)), whole[:, read], rtol=1e-5, atol=1e-6)


def test_causal_mask_shows_the_past_that_exists_and_oneself():
    mask = torch.tensor([[True, False, True], [False, False, False]])
    assert causal_mask(mask).int().tolist() == [
        [[1, 0, 0], [1, 1, 0], [1, 0, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    ]


def test_rotary_scores_depend_on_the_distance_only():
    torch.manual_seed(0)
    query, key, rope = torch.randn(8), torch.randn(8), rotary(20, 8)

    def score(i, j):
        at = [rotate(x.expand(1, 20, 1, 8), rope)[0, n, 0] for x, n in ((query, i), (key, j))]
        return at[0] @ at[1]

    torch.testing.assert_close(score(9, 4), score(17, 12))
    assert not torch.isclose(score(9, 4), score(9, 5))
    torch.testing.assert_close(rotate(query.expand(1, 20, 1, 8), rope).norm(dim=-1), query.norm().expand(1, 20, 1))


def test_the_cosine_without_the_big_tensor_is_the_cosine():
    torch.manual_seed(0)
    hidden, weight, cot = torch.randn(6, 4, 8), torch.randn(20, 8), torch.randn(9, 20)
    slot = torch.randint(0, 9, (6, 4))
    prediction = CoTPrediction(hidden, weight, cot, slot, torch.ones(6, 4, dtype=torch.bool))
    expected = functional.cosine_similarity(hidden @ weight.T, cot[slot], dim=-1)
    torch.testing.assert_close(prediction.cosine_BK(), expected, rtol=1e-5, atol=1e-6)


def test_the_reconstruction_head_exists_only_where_it_is_trained(world):
    names = [n for n, _ in model(world, objectives=(BCEConfig(),)).named_parameters()]
    assert not any("cot_head" in n for n in names)


@pytest.mark.parametrize("missing", ["text", "examples"])
def test_what_is_missing_is_named(world, missing):
    resources = world.data.resources.holding(**{missing: None})
    with pytest.raises(ModelError, match="needs"):
        RecModel(resources, DeepFMConfig(), ICTConfig())


@settings(max_examples=60, deadline=None)
@given(
    lists=st.integers(1, 9), rows=st.integers(1, 40), length=st.integers(1, 12), layers=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)  # fmt: skip
def test_a_token_after_a_shared_sequence_is_what_it_is_after_its_own(lists, rows, length, layers, seed):
    torch.manual_seed(seed)
    decoder = CausalDecoder(layers=layers, heads=2, dim=16, dropout=0.0, length=13).eval()
    prefix, last = torch.randn(lists, length, 16), torch.randn(rows, 16)
    mask, of = torch.rand(lists, length) < 0.7, torch.randint(lists, (rows,)) ** 2 // lists  # some have many rows
    whole = torch.cat([prefix[of], last[:, None]], 1)
    seen = functional.pad(mask[of], (0, 1), value=True)
    expected = decoder(whole, seen, torch.tensor([length]))[:, 0]
    torch.testing.assert_close(decoder.continued(prefix, mask, last, of), expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(-1, 3), min_size=3, max_size=3), min_size=1, max_size=30))
def test_distinct_lists_are_the_rows_there_are(rows):
    given_BK = torch.tensor(rows)
    list_GK, of_B = distinct_lists(given_BK)
    assert torch.equal(list_GK[of_B], given_BK)
    assert len(list_GK) == len({tuple(row) for row in rows})


@pytest.mark.parametrize("tokens", [("row", "cot", "label"), ("label",)])
def test_scores_do_not_depend_on_how_they_are_computed(world, tokens):
    """One row alone, many together, with kept tokens, and by the pass over whole sequences that training makes."""
    built = model(world, tokens=tokens)
    batch = world.data.batch("train", inputs=["examples"]).take(torch.arange(300))
    with torch.no_grad():
        reference = built.train()(batch).score_B
        together = built.eval()(batch).score_B
        alone = torch.cat([built(batch.take(torch.tensor([n]))).score_B for n in range(0, 300, 25)])
        built.keep()
        kept = built(batch).score_B
    assert reference.std() > 0.1
    for found in (together, kept):
        torch.testing.assert_close(found, reference, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(alone, reference[::25], rtol=1e-5, atol=1e-5)


def test_kept_tokens_go_with_the_weights_they_were_made_by(world, batch):
    built, other = model(world), model(world, seed=9)
    built.keep()
    assert built.augmenter.tokens.kept_EX.value is not None
    built.load_state_dict(other.state_dict())
    torch.testing.assert_close(context(built, batch), context(other.eval(), batch))
    built.keep()
    assert built.train().augmenter.tokens.kept_EX.value is None
    assert "kept_EX" not in "".join(built.state_dict())
