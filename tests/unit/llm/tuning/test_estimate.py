from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.llm.config import FullTuneConfig, LoraTuneConfig, QLoraTuneConfig
from llmcf_cli.llm.models.load import load_causal_lm
from llmcf_cli.llm.tuning import estimate as estimate_module
from llmcf_cli.llm.tuning.epochs import plan_batches
from llmcf_cli.llm.tuning.estimate import Sharding, estimate, memory_needed, model_shape, planned_load
from llmcf_cli.llm.tuning.tune import tune


class Samples:
    """Lengths of a tokenised mix."""

    def __init__(self, lengths: list[int], prompts: list[int]) -> None:
        self.lengths_N, self.prompts_N = np.array(lengths), np.array(prompts)


SAMPLES = Samples([10, 20, 30, 40], [8, 15, 29, 30])


def test_the_shape_is_the_models_own(tiny_model: Path) -> None:
    model = load_causal_lm(tiny_model, torch.float32)
    shape = model_shape(tiny_model, FullTuneConfig())
    assert shape.parameters == shape.trained == sum(p.numel() for p in model.parameters())
    assert (shape.layers, shape.width, shape.attention, shape.keys, shape.inner) == (2, 32, 32, 16, 64)
    from llmcf_cli.llm.tuning.adapters import with_adapters

    for modules in ((), ("q_proj", "down_proj")):
        config = LoraTuneConfig(rank=4, modules=modules)
        adapted = with_adapters(tiny_model, config)
        trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
        assert model_shape(tiny_model, config).trained == trained


def test_the_load_is_that_of_the_planned_batches() -> None:
    config = FullTuneConfig(batch_size=4, epochs=2)
    load = planned_load(SAMPLES, plan_batches(SAMPLES.lengths_N, config, 1), config)
    assert (load.batch_tokens, load.batch_answers, load.tokens, load.answers) == (100, 18, 200, 36)
    assert (load.squares, load.steps) == (2 * 3000, 2)
    padded = FullTuneConfig(batch_size=4, packing="none", max_steps=1, epochs=2)
    load = planned_load(SAMPLES, plan_batches(SAMPLES.lengths_N, padded, 1), padded)
    assert (load.batch_tokens, load.batch_answers, load.tokens, load.steps) == (160, 44, 160, 1)


def test_what_saves_memory_shows(tiny_model: Path) -> None:
    def needed(config, precision="fp32", sharded=Sharding()):  # noqa: B008
        load = planned_load(SAMPLES, plan_batches(SAMPLES.lengths_N, config, 1), config)
        return memory_needed(model_shape(tiny_model, config), load, config, precision, sharded)

    whole = needed(FullTuneConfig())
    state = 12 * model_shape(tiny_model, FullTuneConfig()).parameters
    assert needed(FullTuneConfig(gradient_checkpointing=True)) < whole
    assert needed(FullTuneConfig(batch_size=1)) < whole
    assert whole - needed(FullTuneConfig(), sharded=Sharding(state=2)) == pytest.approx(state / 2)
    assert needed(QLoraTuneConfig()) < needed(LoraTuneConfig()) < whole


def test_what_does_not_fit_is_refused_before_it_is_loaded(tiny_model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(estimate_module, "_available", lambda device: 3e5)
    config = FullTuneConfig(precision="fp32", batch_size=4)
    with refused("tuning-memory", ModelError) as error:
        estimate(tiny_model, config, SAMPLES, plan_batches(SAMPLES.lengths_N, config, 1), "fp32")
    for change in ("batch_size 2", "max_length 512", "gradient_checkpointing true", "type lora"):
        assert change in error.value.hint
    monkeypatch.setattr(estimate_module, "_available", lambda device: 2e9)
    said = str(estimate(tiny_model, config, SAMPLES, plan_batches(SAMPLES.lengths_N, config, 1), "fp32"))
    assert "1 steps over 100 tokens" in said
    with pytest.raises(ModelError):  # each of many processes has its part of the machine's memory
        estimate(tiny_model, config, SAMPLES, plan_batches(SAMPLES.lengths_N, config, 1), "fp32", processes=10_000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_four_bits_without_a_device_for_them_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with refused("gpu-missing", LlmcfError) as error:
        tune(QLoraTuneConfig(), model=tiny_model, mix=tmp_path, out=tmp_path, work=tmp_path, seed=1)
    assert "lora" in error.value.hint
