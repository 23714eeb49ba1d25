"""Losses against their formulas."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from rec_world import load_data

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.features.batch import Targets
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, DistillConfig, NoneConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.objectives import BCE, Distill, total_loss
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.sections import FitSection

LOGITS = [0.3, -1.2, 2.5, 0.0, -4.0]
TEACHER = [1.0, math.nan, -0.5, 3.0, math.nan]


def distill(temperature, teacher=TEACHER):
    logits_B = torch.tensor(LOGITS, requires_grad=True)
    targets = Targets(torch.zeros(5), {"teacher": torch.tensor(teacher)})
    return logits_B, Distill(DistillConfig(temperature=temperature))(logits_B, targets, {})


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_distillation_is_the_divergence_of_two_coins_over_scored_rows(temperature):
    def sigmoid(x):
        return 1 / (1 + math.exp(-x / temperature))

    parts = []
    for z, t in zip(LOGITS, TEACHER, strict=True):
        if not math.isnan(t):
            p, q = sigmoid(t), sigmoid(z)
            parts.append(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    loss = distill(temperature)[1]
    assert loss.item() == pytest.approx(temperature**2 * sum(parts) / len(parts), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_its_gradient_is_tau_times_the_difference_of_probabilities(temperature):
    logits_B, loss = distill(temperature)
    loss.backward()
    expected = [
        0.0 if math.isnan(t) else temperature * (torch.tensor([z, t]) / temperature).sigmoid().diff().neg().item() / 3
        for z, t in zip(LOGITS, TEACHER, strict=True)
    ]
    np.testing.assert_allclose(logits_B.grad.numpy(), expected, atol=1e-6)


def test_it_is_finite_where_nobody_was_asked_and_where_the_teacher_is_certain():
    logits_B, loss = distill(1.0, [math.nan] * 5)
    loss.backward()
    assert loss == 0
    assert (logits_B.grad == 0).all()
    logits_B, loss = distill(1.0, [80.0, -80.0, 80.0, 0.0, -80.0])
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits_B.grad).all()
    assert distill(2.0, LOGITS)[1].item() == pytest.approx(0, abs=1e-7)


def test_weights_sum_the_losses():
    logits_B, targets = torch.tensor(LOGITS), Targets(torch.ones(5), {"teacher": torch.tensor(TEACHER)})
    bce, kd = BCE(BCEConfig(weight=0.5)), Distill(DistillConfig(weight=3.0))
    total = total_loss([bce, kd], logits_B, targets, {})
    torch.testing.assert_close(total, 0.5 * bce(logits_B, targets, {}) + 3 * kd(logits_B, targets, {}))


def test_a_model_learns_from_the_teacher_alone(world, tmp_path):
    """Two thirds of the rows have a score that mostly agrees with the label, which distillation never sees."""
    model = RecModel(world.data.resources, DeepFMConfig(), NoneConfig(), (DistillConfig(),), seed=1)
    section = FitSection(batch_size=64, learning_rate=0.01, epochs=12, patience=12)
    assert fit(model, world.data, section, seed=1, work=tmp_path).best["auc"] > 0.7


def test_without_scores_the_stage_to_run_is_named(world, tmp_path):
    model = RecModel(world.data.resources, DeepFMConfig(), NoneConfig(), (DistillConfig(),))
    data = dataclasses.replace(world.data, loaded={})
    with pytest.raises(ModelError, match="llmcf teacher"):
        fit(model, data, FitSection(), seed=1, work=tmp_path)


def test_scores_belong_to_their_samples_and_only_train_samples_have_any(world, tmp_path):
    train = world.data.splits["train"]
    scores = dict(zip(world.teacher["sample_id"].to_pylist(), world.teacher["logit"].to_pylist(), strict=True))
    expected = [scores.get(sample_id, math.nan) for sample_id in train.sample_id_N.tolist()]
    np.testing.assert_array_equal(world.data.values("teacher", "train"), np.array(expected, np.float32))
    assert 0 < np.isnan(expected).sum() < len(train)
    assert "teacher" in world.data.batch("train", inputs=["teacher"]).inputs
    assert world.data.batch("validation", inputs=["teacher"]).inputs == {}
    foreign = pa.table({"sample_id": world.data.splits["test"].sample_id_N[:1], "logit": np.zeros(1, np.float32)})
    with pytest.raises(DataError, match="not of a train sample"):
        load_data(world.database, tmp_path, teacher=foreign)
