"""Matching signals: their definition, and that training, evaluation and serving read the same ones."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from refusals import refused
from safetensors.numpy import load_file

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.batch import Batch
from llmcf_cli.match.collaborative import fit_collaborative
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import DeepFMConfig, ICTConfig, RankingConfig, SignalsConfig
from llmcf_cli.rec.input import signals
from llmcf_cli.rec.input.signals import SIGNAL_NAMES, Standardise, folds, signal_names, signals_of
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.sections import FitSection


def of(signal_BS):
    """A batch of nothing but signals."""
    return Batch(None, None, None, None, inputs={"signals": signal_BS})


def standardised(model, signal_BS):
    return model.inputs["signals"](of(signal_BS))


def by_hand(data, split, row):
    """Signals of one sample, straight from the definition, in float64."""
    samples, resources = data.splits[split], data.resources
    fold, item = folds(resources, samples, split)[row], samples.item_row_N[row]
    history = [h for h in samples.history_row_NL[row] if h]
    found = [
        np.log1p(resources.get("collaborative").popularity_FI[fold, item]),
        np.log1p(len(history)),
        float(bool(history)),
    ]
    for table in (resources.get("collaborative").item_FID[fold], resources.get("text")):
        table = table.astype(np.float64)
        if not history:
            found += [0, 0, 0, 0]
            continue
        cosine = [table[h] @ table[item] for h in history]
        profile = table[history].mean(0)
        found += [max(cosine), np.mean(cosine), cosine[-1], profile @ table[item] / np.linalg.norm(profile)]
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_signal_is_what_its_definition_says(world, split):
    found = world.data.values("signals", split)
    assert found.dtype == np.float32
    assert found.shape == (len(world.data.splits[split]), len(SIGNAL_NAMES))
    rows = range(0, len(found), 3)
    np.testing.assert_allclose(found[rows], [by_hand(world.data, split, row) for row in rows], atol=1e-5)
    histories = world.data.splits["train"].history_row_NL.any(1)
    assert not histories.all()  # some of the rows above have none
    assert world.data.values("signals", split) is found


def test_train_rows_are_matched_out_of_their_users_fold_and_others_with_all(world):
    data, collaborative = world.data, world.data.resources.get("collaborative")
    assert (
        folds(data.resources, data.splits["train"], "train")
        == collaborative.fold_of_user_U[data.splits["train"].user_row_N]
    ).all()
    assert (folds(data.resources, data.splits["test"], "test") == collaborative.last).all()
    assert (folds(data.resources, data.splits["validation"], "validation") == collaborative.last).all()
    with pytest.raises(DataError, match="no split"):
        data.values("signals", "holdout")


def test_a_train_rows_signals_do_not_show_its_own_label(world):
    """With the user's positives gone from the fit, its train rows see the same."""
    data = world.data
    train, user = data.splits["train"], 4
    liked = (train.label_N == 1) & (train.user_row_N != user)
    items, folds_U = len(data.resources.catalog.items.ids), data.resources.get("collaborative").fold_of_user_U
    without = fit_collaborative(train.user_row_N[liked], train.item_row_N[liked], folds_U, items, dim=6, seed=0)
    resources = data.resources.holding(collaborative=without)
    mine = train.take(train.user_row_N == user)
    found = signals_of(resources, mine, without.train_folds(mine.user_row_N))
    np.testing.assert_array_equal(found, data.values("signals", "train")[train.user_row_N == user])


def test_blocks_do_not_change_a_signal(world, monkeypatch):
    before = world.data.values("signals", "validation")
    monkeypatch.setattr(signals, "BLOCK_NUMBERS", 7 * 60)
    samples = world.data.splits["validation"]
    after = signals_of(world.data.resources, samples, folds(world.data.resources, samples, "validation"))
    np.testing.assert_allclose(after, before, atol=1e-6)
    assert signals_of(world.data.resources, samples.take(slice(0, 0)), np.zeros(0, np.int8)).shape == (0, 11)


def test_without_text_its_signals_are_missing_and_without_collaborative_vectors_all(world):
    data = world.data
    no_text = data.resources.holding(text=None)
    found = signals_of(no_text, data.splits["test"], folds(no_text, data.splits["test"], "test"))
    assert signal_names(no_text) == SIGNAL_NAMES[:7]
    np.testing.assert_array_equal(found, data.values("signals", "test")[:, :7])
    nothing = dataclasses.replace(data, resources=no_text.holding(collaborative=None))
    with pytest.raises(DataError, match="collaborative"):
        nothing.values("signals", "test")
    with pytest.raises(ModelError, match="collaborative vectors"):
        RecModel(data.resources.holding(collaborative=None), DeepFMConfig(), SignalsConfig())


def test_standardised_by_train_rows_which_the_weights_carry(world, tmp_path):
    model = RecModel(world.data.resources, DeepFMConfig(), SignalsConfig(), seed=1)
    report = fit(model, world.data, FitSection(epochs=2, batch_size=64), seed=1, work=tmp_path)
    assert len(report.epochs) == 2
    train = torch.from_numpy(world.data.values("signals", "train"))
    seen = standardised(model, train)
    torch.testing.assert_close(seen.mean(0), torch.zeros(11), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std(0, correction=0), torch.ones(11), atol=1e-4, rtol=0)
    other = RecModel(world.data.resources, DeepFMConfig(), SignalsConfig(), seed=2)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(standardised(other, train), seen)


def test_a_signal_that_never_changes_is_centred_only():
    module = Standardise(2)
    module.fit(of(torch.tensor([[3.0, 1.0], [3.0, 5.0]])))
    torch.testing.assert_close(
        module(of(torch.tensor([[3.0, 5.0], [4.0, 1.0]]))), torch.tensor([[0.0, 1.0], [1.0, -1.0]])
    )


def test_examples_bring_the_signals_of_their_own_train_rows(world):
    data = world.data
    at = np.searchsorted(data.splits["train"].sample_id_N, data.resources.get("examples").samples.sample_id_N)
    np.testing.assert_allclose(
        data.resources.get("examples").rows["signals"], data.values("signals", "train")[at], atol=1e-6
    )


def test_a_batch_without_signals_is_refused(world):
    model = RecModel(world.data.resources, DeepFMConfig(), SignalsConfig())
    with refused("batch-incomplete", ModelError):
        model(world.data.batch("test"))


def test_a_block_of_empty_histories(world):
    train = world.data.splits["train"]
    empty = train.take(~train.history_row_NL.any(1))
    found = signals_of(world.data.resources, empty, np.zeros(len(empty), np.int8))
    assert len(empty) > 2
    assert (found[:, 0] > 0).any()
    assert not found[:, 1:].any()


BOTH = ICTConfig(features=("text", "signals"))


def test_queries_and_examples_reach_the_augmenter_with_standardised_signals(world):
    data = world.data
    model = RecModel(data.resources, DeepFMConfig(), BOTH)
    model.prepare(data.batch("train", inputs=["signals"]))
    seen = []
    model.augmenter.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(data.batch("train", inputs=model.reads).take(torch.arange(250, 270)))
    (x,) = seen
    expected = standardised(model, torch.from_numpy(data.values("signals", "train")[250:270]))
    torch.testing.assert_close(x.query.inputs["signals"], expected)
    found_BK = data.loaded["examples"]["train"][250:270]
    there_BK = found_BK >= 0
    assert there_BK.any()
    in_bank = torch.from_numpy(data.resources.get("examples").rows["signals"][found_BK[there_BK]])
    slot_P = x.inputs["examples"].slot_BK[torch.from_numpy(there_BK)]
    torch.testing.assert_close(x.inputs["examples"].rows.inputs["signals"][slot_P], standardised(model, in_bank))


def test_a_bundle_keeps_the_signals_of_examples_where_they_are_read(world, tmp_path):
    for name, config in (("both", BOTH), ("plain", ICTConfig())):
        save_bundle(
            tmp_path / name,
            RecModel(world.data.resources, DeepFMConfig(), config),
            task=RankingConfig(),
            recipe={},
            clock="global",
        )
    both, plain = (load_file(tmp_path / name / "examples.safetensors") for name in ("both", "plain"))
    np.testing.assert_array_equal(both["rows.signals"], world.data.resources.get("examples").rows["signals"])
    assert "rows.signals" not in plain
