"""The readout: its equations against NumPy and scikit-learn, where it starts, and what it says of poor banks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from llmcf_cli.rec.augment.base import AugmentInput, BankBlock
from llmcf_cli.rec.augment.novelty import Novelty
from llmcf_cli.rec.bundle.bundle import load_bundle, save_bundle
from llmcf_cli.rec.config import DeepFMConfig, RankingConfig, ReadoutConfig, TextConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.sections import FitSection


def model(world, augment=None, seed=3, bank=None):
    resources = world.data.resources
    if bank is not None:
        resources = resources.holding(examples=dataclasses.replace(resources.get("examples"), cot_ET=bank))
    return RecModel(resources, DeepFMConfig(), augment or ReadoutConfig(), seed=seed)


def batch_of(world):
    found = world.data.batch("train", inputs=["examples"]).take(torch.tensor([0, 1, 2, 20, 60, 150, 250, 300]))
    assert (found.inputs["examples"] >= 0).sum(1).tolist().count(0) > 0
    return found


def seen(built, batch):
    """Input and context of the augmenter."""
    calls = []
    hook = built.augmenter.register_forward_hook(lambda module, inputs, output: calls.append((inputs[0], output)))
    built(batch)
    hook.remove()
    return calls[0][0], calls[0][1].context_BC


def test_likeness_is_the_cosine_of_texts(world):
    built, batch = model(world), batch_of(world)
    given, _ = seen(built, batch)
    bank = built.inputs["examples"]
    like, texts = given.likeness(), built.inputs["text"].item_text_IT.numpy()
    for row in range(len(batch)):
        for place, example in enumerate(batch.inputs["examples"][row].tolist()):
            if example >= 0:
                item = bank.item_E[example]
                assert like.item_BK[row, place] == pytest.approx(texts[item] @ texts[batch.item_row_B[row]], abs=1e-5)
                past, own = (
                    texts[rows.numpy()].sum(0) for rows in (bank.history_EL[example], batch.history_row_BL[row])
                )
                length = np.linalg.norm(past) * np.linalg.norm(own)
                expected = past @ own / length if length > 1e-9 else 0.0
                assert like.history_BK[row, place] == pytest.approx(expected, abs=1e-4)


def test_context_is_that_of_the_equations(world):
    built, batch = model(world), batch_of(world)
    built.prepare(batch_of(world))
    torch.manual_seed(0)
    for parameter in built.augmenter.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    given, context_BC = seen(built, batch)
    augmenter, like = built.augmenter, given.likeness()
    cot_ET, weight_CT, map_TT = (
        t.detach().double().numpy()
        for t in (built.inputs["examples"].cot_ET, augmenter.weight_CT, augmenter.novelty.map_TT)
    )
    said_EC = (cot_ET - cot_ET.mean(0)) @ map_TT.T @ weight_CT.T
    text_BC = augmenter.text(given).context_BC.detach().numpy()
    near, taste, threshold = (
        float(p.detach()) for p in (augmenter.log_nearness.exp(), augmenter.log_taste.exp(), augmenter.threshold)
    )
    for row, examples in enumerate(batch.inputs["examples"].tolist()):
        power = [
            np.exp(near * (float(like.item_BK[row, k]) - threshold) + taste * float(like.history_BK[row, k]))
            if example >= 0 else 0.0
            for k, example in enumerate(examples)
        ]  # fmt: skip
        read_C = sum(p * said_EC[e] for p, e in zip(power, examples, strict=True)) / (1 + sum(power))
        np.testing.assert_allclose(context_BC[row].detach(), text_BC[row] + read_C, rtol=1e-3, atol=1e-3)


def test_what_is_kept_of_examples_gives_the_same_until_training_begins(world):
    built, batch = model(world).eval(), batch_of(world)
    built.prepare(batch_of(world))
    built.eval()
    plain = built(batch).score_B
    built.keep()
    texts = built.inputs["text"].item_text_IT.shape[1]
    assert built.augmenter.kept_EX.value.shape == (len(built.inputs["examples"].item_E), 32 + 2 * texts)
    torch.testing.assert_close(built(batch).score_B, plain, rtol=0, atol=1e-5)
    built.augmenter.kept_EX.value[:, :32] += 1
    assert not torch.allclose(built(batch).score_B, plain)
    built.train().eval()
    assert torch.equal(built(batch).score_B, plain)


def blocks_of(item_E, x_EX, c_ET, size=150):
    half = x_EX.shape[1] // 2
    tensors = [torch.as_tensor(a) for a in (item_E, x_EX[:, :half], x_EX[:, half:], c_ET)]
    return lambda: (BankBlock(*(t[s : s + size] for t in tensors)) for s in range(0, len(item_E), size))


def test_what_rows_tell_is_dimmed_and_the_rest_is_brought_to_one_scale():
    """Five numbers: two follow from the row, two do not and differ in scale, and one is half and half."""
    rng = np.random.default_rng(0)
    x_EX, new_ET = rng.standard_normal((4000, 8)), rng.standard_normal((4000, 5))
    told_ET = x_EX @ rng.standard_normal((8, 5)) / np.sqrt(8)
    c_ET = np.column_stack([3 * told_ET[:, 0], told_ET[:, 1], 2 * new_ET[:, 2], new_ET[:, 3],
                            told_ET[:, 4] / told_ET[:, 4].std() + new_ET[:, 4]]) + 7  # fmt: skip
    novelty = Novelty(8, 5).double()
    notes, variance = novelty.fit(blocks_of(np.arange(4000) % 40, x_EX, c_ET))
    out_ET = novelty.linear(torch.as_tensor(c_ET), torch.eye(5).double()).numpy()
    assert notes == ()
    assert variance == pytest.approx(out_ET.var(0).sum(), rel=1e-6)
    assert np.abs(out_ET.mean(0)).max() < 1e-9
    share = [1 - Ridge(1.0).fit(x_EX, c_ET[:, t]).score(x_EX, c_ET[:, t]) for t in range(5)]
    np.testing.assert_allclose(share, [0, 0, 1, 1, 0.5], atol=0.05)
    np.testing.assert_allclose(out_ET[:, :2].std(0), 0, atol=0.2)
    np.testing.assert_allclose(out_ET[:, 2:4].std(0), 1, atol=0.2)
    assert 0.3 < out_ET[:, 4].std() < 0.7


def test_rows_that_predict_nothing_dim_nothing():
    rng = np.random.default_rng(0)
    x_EX, c_ET = rng.standard_normal((30, 40)), rng.standard_normal((30, 3))
    novelty = Novelty(40, 3).double()
    _, variance = novelty.fit(blocks_of(np.arange(30), x_EX, c_ET))
    assert variance > 2


def test_one_item_alone_is_no_reason_to_fail():
    rng = np.random.default_rng(0)
    blocks = blocks_of(np.full(9, 2), rng.standard_normal((9, 4)), rng.standard_normal((9, 3)))
    notes, _ = Novelty(4, 3).double().fit(blocks)
    assert len(notes) == 1


def test_a_row_without_examples_reads_the_texts_alone(world):
    built, batch = model(world), batch_of(world)
    empty = dataclasses.replace(batch, inputs={"examples": torch.full_like(batch.inputs["examples"], -1)})
    given, context_BC = seen(built, empty)
    torch.testing.assert_close(context_BC, built.augmenter.text(given).context_BC)
    output = built(empty)
    output.score_B.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)


def test_the_text_part_is_that_of_the_arm_text(world):
    readout, text = model(world).state_dict(), model(world, TextConfig()).state_dict()
    assert all(torch.equal(value, text[name.replace("augmenter.text.", "augmenter.")])
               for name, value in readout.items() if name.startswith("augmenter.text."))  # fmt: skip


def test_statistics_are_of_the_bank_and_go_into_the_bundle(world, tmp_path):
    built = model(world)
    fit(built, world.data, FitSection(epochs=1), seed=1, work=tmp_path / "work")
    assert not torch.equal(built.augmenter.novelty.map_TT, torch.eye(built.inputs["examples"].cot_ET.shape[1]))
    save_bundle(tmp_path / "bundle", built, task=RankingConfig(), recipe={}, clock="global")
    loaded = load_bundle(tmp_path / "bundle").model
    batch = batch_of(world)
    torch.testing.assert_close(loaded(batch).score_B, built.eval()(batch).score_B)


def test_constant_texts_are_left_out_and_said_to_be(world, tmp_path):
    bank = world.data.resources.get("examples").cot_ET
    built = model(world, bank=np.broadcast_to(bank[:1], bank.shape).copy())
    resources = dataclasses.replace(world.data, resources=built.resources)
    report = fit(built, resources, FitSection(epochs=1), seed=1, work=tmp_path)
    assert len(report.notes) == 1
    given, context_BC = seen(built, batch_of(world))
    torch.testing.assert_close(context_BC, built.augmenter.text(given).context_BC)


def test_gradients_go_through_the_weights(world):
    built = model(world).train()
    built.prepare(batch_of(world))
    built(batch_of(world)).score_B.sum().backward()
    for name in ("log_nearness", "log_taste", "threshold", "weight_CT"):
        assert getattr(built.augmenter, name).grad.abs().sum() > 0, name


def test_likeness_needs_examples(world):
    given, _ = seen(model(world), batch_of(world))
    with pytest.raises(Exception, match="examples"):
        AugmentInput(given.query).likeness()
