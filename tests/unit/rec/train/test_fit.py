"""The training loop: it learns, stops, resumes to the same weights, and says what is wrong."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from refusals import refused

from llmcf_cli.core.errors import DataError, ModelError
from llmcf_cli.core.progress import SilentProgress
from llmcf_cli.rec.config import BCEConfig, CoTReconstructionConfig, DeepFMConfig, DINConfig, ICTConfig, NoneConfig
from llmcf_cli.rec.measure.base import measured
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.recipe.sections import FitSection

SECTION = FitSection(batch_size=64, learning_rate=0.01, epochs=4, patience=4)
BCE = (BCEConfig(),)
TESTS = Path(__file__).parents[3]
ICT = (ICTConfig(dropout=0.1), (BCEConfig(), CoTReconstructionConfig()))


def build(world, augment=None, objectives=BCE, backbone=None):
    return RecModel(world.data.resources, backbone or DeepFMConfig(), augment or NoneConfig(), objectives, seed=1)


def test_it_learns_what_there_is_to_learn(world, tmp_path):
    model = build(world)
    report = fit(model, world.data, FitSection(batch_size=64, learning_rate=0.01, epochs=15), seed=1, work=tmp_path)
    assert report.best["auc"] > 0.8
    logits = predict(model, world.data, "test")
    assert logits.dtype == np.float32
    assert measured(world.data.task.measures, logits, world.data.truth("test"))["auc"] > 0.75


def test_the_best_epochs_weights_are_kept(world, tmp_path):
    section = SECTION.model_copy(update={"learning_rate": 0.05, "epochs": 12, "patience": 3})
    model = build(world)
    report = fit(model, world.data, section, seed=1, work=tmp_path)
    aucs = [e.validation["auc"] for e in report.epochs]
    assert report.best_epoch == int(np.argmax(aucs)) + 1
    assert len(aucs) == 12 or len(aucs) == report.best_epoch + 3
    logits = predict(model, world.data, "validation", batch_size=7)
    found = measured(world.data.task.measures, logits, world.data.truth("validation"))
    assert found["auc"] == pytest.approx(max(aucs), abs=1e-9)


def test_lower_logloss_is_better(world, tmp_path):
    section = SECTION.model_copy(update={"monitor": "logloss", "epochs": 6, "learning_rate": 0.05})
    report = fit(build(world), world.data, section, seed=1, work=tmp_path)
    losses = [e.validation["logloss"] for e in report.epochs]
    assert report.best_epoch == int(np.argmin(losses)) + 1


class StopAfter(SilentProgress):
    """Interrupts after a number of batches."""

    def __init__(self, batches):
        self.left = batches

    def task(self, *args, **kwargs):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return None

    def measured(self, step, values):
        pass

    def note(self, text):
        pass

    def advance(self, amount=1):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("arm", [(NoneConfig(), (BCEConfig(),)), ICT], ids=["none", "ict"])
def test_an_interrupted_fit_resumes_to_the_same_weights(world, tmp_path, arm):
    augment, objectives = arm
    whole = build(world, augment, objectives, DINConfig(dropout=0.2))
    expected = fit(whole, world.data, SECTION, seed=5, work=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        broken = build(world, augment, objectives, DINConfig(dropout=0.2))
        fit(broken, world.data, SECTION, seed=5, work=tmp_path / "broken", progress=StopAfter(14))
    resumed = build(world, augment, objectives, DINConfig(dropout=0.2))
    advanced = StopAfter(10**6)
    report = fit(resumed, world.data, SECTION, seed=5, work=tmp_path / "broken", progress=advanced)
    assert 10**6 - advanced.left < 4 * 6  # it did not start over
    assert [(e.loss, e.validation) for e in report.epochs] == [(e.loss, e.validation) for e in expected.epochs]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_checkpoint_of_another_fit_is_not_taken(world, tmp_path):
    fit(build(world), world.data, SECTION, seed=1, work=tmp_path)
    other = fit(build(world), world.data, SECTION, seed=2, work=tmp_path)
    fresh = fit(build(world), world.data, SECTION, seed=2, work=tmp_path / "fresh")
    assert [e.loss for e in other.epochs] == [e.loss for e in fresh.epochs]


def test_a_loss_that_is_not_finite_is_named_by_epoch_and_batch(world, tmp_path):
    text = world.data.resources.get("text").copy()
    text[5:] = np.nan
    data = dataclasses.replace(world.data, resources=world.data.resources.holding(text=text))
    model = RecModel(data.resources, DeepFMConfig(), *ICT)
    with refused("loss-not-finite", ModelError, names=r"1.*1"):
        fit(model, data, SECTION, seed=1, work=tmp_path)


def test_a_loss_that_fails_later_keeps_the_last_good_epoch(world, tmp_path, monkeypatch):
    expected = fit(build(world), world.data, SECTION.model_copy(update={"epochs": 2}), seed=1, work=tmp_path / "two")
    losses = RecModel.loss
    batches = -(-len(world.data.splits["train"]) // SECTION.batch_size)
    seen = []

    def fails_in_the_third_epoch(self, output, targets):
        seen.append(1)
        return losses(self, output, targets) * (np.inf if len(seen) == 2 * batches + 3 else 1)

    with monkeypatch.context() as patch, refused("loss-not-finite", ModelError, names="3.*3") as caught:
        patch.setattr(RecModel, "loss", fails_in_the_third_epoch)
        fit(build(world), world.data, SECTION, seed=1, work=tmp_path / "broken")
    assert "rec.fit.learning_rate" in caught.value.hint
    kept = json.loads((tmp_path / "broken" / "last" / "state.json").read_text())["epochs"]
    assert [(e["loss"], e["validation"]) for e in kept] == [(e.loss, e.validation) for e in expected.epochs]
    resumed = fit(build(world), world.data, SECTION, seed=1, work=tmp_path / "broken")
    whole = fit(build(world), world.data, SECTION, seed=1, work=tmp_path / "whole")
    assert [e.loss for e in resumed.epochs] == [e.loss for e in whole.epochs]


def test_scores_that_are_not_finite_stop_the_fit_before_they_are_kept(world, tmp_path):
    """One batch per epoch: the loss is taken before the step that ruins the weights."""
    section = SECTION.model_copy(update={"batch_size": 10**6, "learning_rate": 1e30})
    with refused("loss-not-finite", ModelError, names="1"):
        fit(build(world), world.data, section, seed=1, work=tmp_path)
    assert not (tmp_path / "last").exists()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_one_label_only_or_no_rows_is_refused(world, tmp_path, split):
    samples = world.data.splits[split]
    for mask, message in ((samples.label_N == 1, "only the label 1"), (samples.label_N > 1, "is empty")):
        kept = samples.take(mask)
        splits, targets = {**world.data.splits, split: kept}, {**world.data.targets, split: kept.label_N}
        data = dataclasses.replace(world.data, splits=splits, targets=targets)
        with refused("split-one-class", DataError, names=f"{split}.*{message}"):
            fit(build(world), data, SECTION, seed=1, work=tmp_path)


def test_the_test_split_is_never_read(world, tmp_path):
    splits = {name: samples for name, samples in world.data.splits.items() if name != "test"}
    first, second = build(world), build(world)
    fit(first, world.data, SECTION, seed=1, work=tmp_path / "a")
    few = world.data.splits["test"].take(slice(0, 3))
    changed = dataclasses.replace(
        world.data, splits={**splits, "test": few}, targets={**world.data.targets, "test": few.label_N}
    )
    fit(second, changed, SECTION, seed=1, work=tmp_path / "b")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


TWO = """
import importlib.util, json, sys
from pathlib import Path
import torch
from accelerate import Accelerator
spec = importlib.util.spec_from_file_location("rec_world", sys.argv[1])
module = importlib.util.module_from_spec(spec); sys.modules["rec_world"] = module; spec.loader.exec_module(module)
from llmcf_cli.rec.config import BCEConfig, CoTReconstructionConfig, DeepFMConfig, DINConfig, ICTConfig, NoneConfig
from llmcf_cli.rec.train.fit import fit
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.predict import predict
from llmcf_cli.rec.measure.base import measured
from llmcf_cli.recipe.sections import FitSection
state, out = Accelerator(), Path(sys.argv[2])
folder = out / f"world{state.process_index}"; folder.mkdir()
data = module.make_world(folder).data
for name, backbone, augment, losses, batch_size, epochs in (
    ("even", DeepFMConfig(), NoneConfig(), (BCEConfig(),), 48, 4),
    ("uneven", DINConfig(), ICTConfig(), (BCEConfig(), CoTReconstructionConfig()), 63, 8),
):
    model = RecModel(data.resources, backbone, augment, losses, seed=1)
    section = FitSection(batch_size=batch_size, learning_rate=0.01, epochs=epochs, patience=epochs)
    report = fit(model, data, section, seed=1, work=out / name)
    alone = measured(data.task.measures, predict(model, data, "validation"), data.truth("validation"))
    weights = float(sum(p.double().sum() for p in model.parameters()))
    found = {"processes": state.num_processes, "epochs": [[e.loss, e.validation] for e in report.epochs]}
    found |= {"gathered": report.best, "alone": alone, "weights": weights}
    (out / f"{name}.{state.process_index}").write_text(json.dumps(found))
"""


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes reports of each fit."""
    folder = tmp_path_factory.mktemp("two")
    script = folder / "two.py"
    script.write_text(TWO)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
    command = [*launch, str(script), str(Path(__file__).parents[3] / "rec_world.py"), str(folder)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return {fit: [json.loads((folder / f"{fit}.{rank}").read_text()) for rank in (0, 1)] for fit in ("even", "uneven")}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["even", "uneven"])
def test_two_processes_agree_and_measure_gathered_scores(two_processes, name):
    """Whatever the sizes, every metric of the gathered scores is that of all rows in one process."""
    first, second = two_processes[name]
    assert first == second
    assert first["processes"] == 2
    assert first["gathered"]["auc"] > 0.7
    assert first["gathered"] == pytest.approx(first["alone"], abs=1e-6)


@pytest.mark.slow
def test_two_processes_train_as_one_does(world, tmp_path, two_processes):
    """Where batches divide evenly, the mean of both halves' gradients is the batch's: the same metrics each epoch."""
    section = FitSection(batch_size=48, learning_rate=0.01, epochs=4, patience=4)
    assert len(world.data.splits["train"]) % 48 == 0
    report = fit(build(world), world.data, section, seed=1, work=tmp_path)
    for epoch, (loss, validation) in zip(report.epochs, two_processes["even"][0]["epochs"], strict=True):
        assert loss == pytest.approx(epoch.loss, abs=1e-6)
        assert validation == pytest.approx(epoch.validation, abs=1e-6)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_a_fit_computes_in_float32_whatever_ran_before_it(world, tmp_path, precision):
    """Tuning a language model leaves its precision behind in the process; the recommender must not pick it up."""
    code = textwrap.dedent(f"""
        from accelerate import Accelerator
        Accelerator(mixed_precision={precision!r})
        from pathlib import Path
        from rec_world import make_world
        from llmcf_cli.rec.config import DeepFMConfig, ICTConfig
        from llmcf_cli.rec.train.fit import fit
        from llmcf_cli.rec.model import RecModel
        from llmcf_cli.recipe.sections import FitSection
        world = make_world(Path({str(tmp_path)!r}))
        model = RecModel(world.data.resources, DeepFMConfig(), ICTConfig(), seed=1)
        report = fit(model, world.data, FitSection(epochs=1), seed=1, work=Path({str(tmp_path)!r}) / "work")
        print(repr(report.epochs[0].loss))
    """)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])},
    )
    assert done.returncode == 0, done.stderr
    model = RecModel(world.data.resources, DeepFMConfig(), ICTConfig(), seed=1)
    here = fit(model, world.data, FitSection(epochs=1), seed=1, work=tmp_path / "here")
    assert float(done.stdout) == pytest.approx(here.epochs[0].loss, abs=1e-6)
