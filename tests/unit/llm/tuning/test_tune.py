from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused
from safetensors.torch import load_file

from llmcf_cli.core.errors import LlmcfError, ModelError, StoreError
from llmcf_cli.core.progress import SilentProgress
from llmcf_cli.llm.config import FullTuneConfig, LoraTuneConfig
from llmcf_cli.llm.models.load import load_causal_lm, load_tokenizer
from llmcf_cli.llm.tuning import tune as tune_module
from llmcf_cli.llm.tuning.epochs import padding_share, plan_batches
from llmcf_cli.llm.tuning.tune import last_checkpoint, tune

SETTINGS = {"max_length": 64, "batch_size": 4, "save_steps": 3, "precision": "fp32", "learning_rate": 0.01}


@pytest.fixture
def mix(write_mix, tmp_path: Path) -> Path:
    return write_mix(tmp_path / "mix.parquet", 30)


def _tune(model: Path, mix: Path, folder: Path, *, progress=None, kind=FullTuneConfig, **changes: object):
    return tune(
        kind(**{**SETTINGS, **changes}), model=model, mix=mix, out=folder / "out", work=folder / "work", seed=3,
        progress=progress or SilentProgress(),
    )  # fmt: skip


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "out" / "model.safetensors")


def test_full_tuning_learns_the_answers(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    report = _tune(tiny_model, mix, tmp_path, epochs=4)
    assert report.steps == 4 * 8
    assert len(report.loss) == report.steps
    assert report.final_loss < 0.6 * report.loss[0][1]
    assert report.trained_parameters == sum(p.numel() for p in load_causal_lm(tiny_model, torch.float32).parameters())
    load_causal_lm(tmp_path / "out", torch.float32)
    assert load_tokenizer(tmp_path / "out").chat_template
    assert not {p.suffix for p in (tmp_path / "out").iterdir()} & {".bin", ".pt", ".pth"}


def test_adapters_are_merged_into_a_plain_model(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    report = _tune(tiny_model, mix, tmp_path, kind=LoraTuneConfig, rank=2)
    before, after = load_file(tiny_model / "model.safetensors"), _weights(tmp_path)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)
    assert report.trained_parameters < sum(v.numel() for v in before.values()) / 3


def test_unknown_layers_to_adapt_are_named(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as error:
        _tune(tiny_model, mix, tmp_path, kind=LoraTuneConfig, modules=("query",))
    assert "q_proj" in error.value.allowed


class Heard(SilentProgress):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


class Stop(Heard):
    """Presses Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def task(self, name, total, unit, done=0):
        context, stop = super().task(name, total, unit, done), self

        class Pressing:
            def __enter__(self):
                context.__enter__()
                return self

            def __exit__(self, *error):
                return context.__exit__(*error)

            def measured(self, step, values):
                pass

            def note(self, text):
                pass

            def advance(self, amount=1):
                if name == "train-llm":
                    stop.after -= 1
                    if stop.after == 0:
                        os.kill(os.getpid(), signal.SIGINT)

        return Pressing()


def test_interrupted_run_saves_and_ends_with_the_same_weights(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    _tune(tiny_model, mix, tmp_path / "whole", epochs=2)
    stop = Stop(after=11)
    with pytest.raises(KeyboardInterrupt):
        _tune(tiny_model, mix, tmp_path / "cut", epochs=2, progress=stop)
    assert any("stopping after this step" in line for line in stop.lines)
    assert last_checkpoint(tmp_path / "cut" / "work").name == "checkpoint-11"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    report = _tune(tiny_model, mix, tmp_path / "cut", epochs=2)
    assert report.resumed_from == 11
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_checkpoints_of_another_configuration_are_not_used(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _tune(tiny_model, mix, tmp_path, progress=Stop(after=4))
    heard = Heard()
    report = _tune(tiny_model, mix, tmp_path, learning_rate=0.02, progress=heard)
    assert report.resumed_from == 0
    assert any("of another config; train-llm starts over" in line for line in heard.lines)


def test_checkpointing_changes_memory_only(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    for packing in ("none", "packed"):
        curves = []
        for checkpointing in (False, True):
            folder = tmp_path / f"{packing}-{checkpointing}"
            report = _tune(tiny_model, mix, folder, packing=packing, gradient_checkpointing=checkpointing)
            curves.append([loss for _, loss in report.loss])
        assert curves[0] == pytest.approx(curves[1], rel=1e-5)


def test_noise_on_embeddings_is_an_option(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    plain, noisy, again = (
        _tune(tiny_model, mix, tmp_path / name, neftune=scale)
        for name, scale in (("plain", 0.0), ("noisy", 5.0), ("again", 5.0))
    )
    assert noisy.loss == again.loss
    assert noisy.loss[0][1] != pytest.approx(plain.loss[0][1], rel=1e-4)


def test_both_kinds_of_batches_learn_the_same(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    reports = [_tune(tiny_model, mix, tmp_path / packing, packing=packing, batch_size=30, epochs=4)
               for packing in ("none", "packed")]  # fmt: skip
    first, second = ([loss for _, loss in report.loss] for report in reports)
    assert first == pytest.approx(second, rel=1e-3)
    assert first[0] == pytest.approx(second[0], rel=1e-5)


def test_the_saved_model_attends_as_any_other(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    _tune(tiny_model, mix, tmp_path)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not [key for key, value in saved.items() if "packed" in str(value)]


def test_incomplete_checkpoints_are_passed_over(tmp_path: Path) -> None:
    for step, state in ((3, '{"global_step": 3}'), (6, '{"global_'), (10, None)):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if state:
            (folder / "trainer_state.json").write_text(state)
    assert last_checkpoint(tmp_path).name == "checkpoint-3"
    assert last_checkpoint(tmp_path / "none") is None


def test_loss_that_is_no_number_stops_and_keeps_the_checkpoint(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    with refused("loss-not-finite", ModelError) as error:
        _tune(tiny_model, mix, tmp_path, learning_rate=1e38, max_gradient_norm=1e30, epochs=3, warmup_ratio=0.4,
              save_steps=1)  # fmt: skip
    assert "learning_rate" in error.value.hint
    checkpoint = last_checkpoint(tmp_path / "work")
    assert json.loads((checkpoint / "trainer_state.json").read_text())["global_step"] >= 1
    assert not (tmp_path / "out").exists()


def test_full_disk_is_noticed_before_the_first_step(tiny_model, mix, tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(tune_module.shutil, "disk_usage", lambda path: usage)
    with refused("disk-full", StoreError):
        _tune(tiny_model, mix, tmp_path)


def test_samples_longer_than_allowed_are_refused(tiny_model: Path, mix: Path, tmp_path: Path) -> None:
    with refused("sample-too-long", LlmcfError, names="16"):
        _tune(tiny_model, mix, tmp_path, max_length=16)


def test_batches_hold_similar_lengths_and_every_sample_once_an_epoch() -> None:
    lengths_N = np.random.default_rng(0).integers(10, 200, 203)
    config = FullTuneConfig(batch_size=8, epochs=2, packing="none")
    batches = plan_batches(lengths_N, config, seed=1)
    assert len(batches) == 2 * 26
    first, second = np.concatenate(batches[:26]), np.concatenate(batches[26:])
    assert sorted(first) == sorted(second) == list(range(203))
    assert list(first) != list(second)
    assert padding_share(batches, lengths_N) < 0.06
    again = plan_batches(lengths_N, config, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    packed = plan_batches(lengths_N, config.model_copy(update={"packing": "packed"}), seed=1)
    assert padding_share(packed, lengths_N) > 0.2


@pytest.mark.parametrize("packing", ["none", "packed"])
def test_batches_keep_to_the_budget_of_tokens(packing: str) -> None:
    lengths_N = np.append(np.random.default_rng(0).integers(10, 200, 203), 700)
    config = FullTuneConfig(batch_tokens=600, packing=packing)
    batches = plan_batches(lengths_N, config, seed=1)
    assert sorted(np.concatenate(batches)) == list(range(204))
    cost = [lengths_N[b].sum() if packing == "packed" else lengths_N[b].max() * len(b) for b in batches]
    assert sorted(cost)[-1] == 700  # the sample past the budget stands alone
    assert sorted(cost)[-2] <= 600
    assert sum(cost) / len(cost) > 480


def test_processes_share_batches_evenly_without_more_weight(tmp_path: Path) -> None:
    lengths_N = np.full(9, 5)
    batches = plan_batches(lengths_N, FullTuneConfig(batch_size=2), seed=1, processes=4)
    assert len(batches) == 8
    assert sorted(np.concatenate(batches[:5])) == list(range(9))
    assert all((batch < 0).all() and len(batch) == 1 for batch in batches[5:])
