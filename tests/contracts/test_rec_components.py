"""What every registered backbone, augmenter and objective must do, in every combination."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch

from llmcf_cli.core.meanings import meaning
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.plugin import registry
from llmcf_cli.rec.config import RankingConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.objectives import total_loss
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.recipe.component import names_for
from llmcf_cli.recipe.sections import FitSection

KINDS = ("backbone", "augmenter", "objective")
BACKBONES, AUGMENTERS, OBJECTIVES = (names_for(kind, RankingConfig()) for kind in KINDS)
PAIRS = list(itertools.product(BACKBONES, AUGMENTERS))


def default(kind, name) -> ComponentConfig:
    return registry().get(kind, name).config()()


def build(world, backbone, augmenter, objectives=("bce",), seed=7) -> RecModel:
    configs = [default("objective", name) for name in objectives]
    return RecModel(
        world.data.resources, default("backbone", backbone), default("augmenter", augmenter), configs, seed=seed
    )


def rows(world, model, count=32):
    return world.data.batch("train", inputs=model.reads).take(torch.arange(200, 200 + count))


@pytest.mark.parametrize(("backbone", "augmenter"), PAIRS)
class TestEveryPair:
    def test_logits_are_finite_and_one_per_row(self, world, backbone, augmenter):
        model = build(world, backbone, augmenter)
        for mode in (True, False):
            score_B = model.train(mode)(rows(world, model)).score_B
            assert score_B.shape == (32,)
            assert score_B.dtype == torch.float32
            assert torch.isfinite(score_B).all()

    @pytest.mark.parametrize("extra", [(), tuple(o for o in OBJECTIVES if o != "bce")])
    def test_a_gradient_reaches_every_parameter(self, world, backbone, augmenter, extra):
        model = build(world, backbone, augmenter, ("bce", *extra)).train()
        batch = rows(world, model, 100)
        # Away from the start, where zero weights would hide what lies behind them.
        torch.manual_seed(0)
        for parameter in model.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        model.loss(model(batch), batch.targets).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name

    def test_the_seed_decides_the_weights(self, world, backbone, augmenter):
        first, second, other = (build(world, backbone, augmenter, seed=s).state_dict() for s in (1, 1, 2))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert any(not torch.equal(first[name], other[name]) for name in first)

    def test_a_row_depends_on_no_other_row(self, world, backbone, augmenter):
        model = build(world, backbone, augmenter).eval()
        batch = rows(world, model)
        whole = model(batch).score_B
        order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(model(batch.take(order)).score_B, whole[order], rtol=1e-5, atol=1e-6)
        alone = torch.cat([model(batch.take(torch.tensor([n]))).score_B for n in range(6)])
        torch.testing.assert_close(alone, whole[:6], rtol=1e-5, atol=1e-6)

    def test_a_target_is_no_input(self, world, backbone, augmenter):
        model = build(world, backbone, augmenter).eval()
        batch = rows(world, model)
        other = dataclasses.replace(batch, target_B=1 - batch.target_B)
        assert torch.equal(model(batch).score_B, model(other).score_B)

    def test_weights_and_statistics_alone_are_saved(self, world, backbone, augmenter):
        model = build(world, backbone, augmenter)
        trained = {name for name, _ in model.named_parameters()}
        catalog = world.data.resources.catalog
        rows = {len(table.ids) + 1 for table in (catalog.users, catalog.items)}
        extra = {name: tensor for name, tensor in model.state_dict().items() if name not in trained}
        assert not [name for name, tensor in extra.items() if rows & set(tensor.shape)], "tables are stored by inputs"


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("context_dim", [0, 5])
def test_a_backbone_takes_a_context_of_any_size(world, backbone, context_dim):
    config = default("backbone", backbone)
    embedding = build(world, backbone, "none").embedding
    component = registry().get("backbone", backbone).load()
    batch = world.data.batch("train").take(torch.arange(200, 216))
    fields = embedding(batch.user_row_B, batch.item_row_B, batch.history_row_BL)
    module = component(config, embedding.shape, context_dim).eval()
    if context_dim == 0:
        assert module(fields, None).shape == (16,)
        return
    context_BC = torch.randn(16, context_dim, requires_grad=True)
    score_B = module(fields, context_BC)
    score_B.sum().backward()
    assert score_B.shape == (16,)
    assert (context_BC.grad.abs().sum(1) > 0).all()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_learns_from_interactions_of_user_and_item(world, backbone, tmp_path):
    section = FitSection(batch_size=64, learning_rate=0.01, epochs=15, patience=15)
    report = fit(build(world, backbone, "none"), world.data, section, seed=1, work=tmp_path)
    assert report.best["auc"] > 0.75


@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_the_context_has_the_size_that_is_promised(world, augmenter):
    model = build(world, BACKBONES[0], augmenter)
    seen = []
    model.augmenter.register_forward_hook(lambda module, inputs, output: seen.append(output.context_BC))
    model(rows(world, model))
    if model.augmenter.context_dim == 0:
        assert seen[0] is None
    else:
        assert seen[0].shape == (32, model.augmenter.context_dim)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("augmenter", AUGMENTERS)
def test_an_objective_is_a_finite_scalar_or_does_not_apply(world, name, augmenter):
    model = build(world, BACKBONES[0], augmenter, (name,)).train()
    batch = rows(world, model)
    output = model(batch)
    objective = registry().build("objective", default("objective", name))
    loss = total_loss([objective], output.score_B, batch.targets, output.aux)
    assert loss.shape == ()
    assert torch.isfinite(loss)
    if not objective.reads <= output.aux.keys():
        assert loss == 0
    else:
        assert loss > 0


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in registry().names(k)])
def test_every_setting_is_documented(kind, name):
    config = registry().get(kind, name).config()
    assert config.__doc__
    for field in config.model_fields:
        assert field == "type" or meaning(config, field), field
    assert config().type == name
