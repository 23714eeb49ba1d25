"""Checkpoints of a fit on a disk that fills up, or that damages them."""

from __future__ import annotations

import subprocess

import pytest
import torch
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.rec.config import DeepFMConfig, NoneConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.rec.train.checkpoint import OPTIMIZER, STATE, WEIGHTS, Checkpoint


@pytest.fixture
def trained(world):
    """A model with an optimiser that has moments."""
    model = RecModel(world.data.resources, DeepFMConfig(hidden=(256, 256)), NoneConfig())
    optimizer = torch.optim.Adam(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def restored(world, work):
    model = RecModel(world.data.resources, DeepFMConfig(hidden=(256, 256)), NoneConfig(), seed=9)
    optimizer = torch.optim.Adam(model.parameters())
    return Checkpoint(work, "fit", main=True).restore(model, optimizer), model, optimizer


def same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("room", ["weights", "moments"])
def test_a_full_disk_keeps_the_last_good_epoch(world, trained, tmp_path, request, room):
    """On a real, small file system; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", disk], check=True))
    model, optimizer = trained
    checkpoint = Checkpoint(disk / "work", "fit", main=True)
    checkpoint.save(model, optimizer, [{"number": 1}], best=True)
    good = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sizes = {name: (checkpoint.last / name).stat().st_size for name in (WEIGHTS, OPTIMIZER)}
    left = sizes[WEIGHTS] // 2 if room == "weights" else sizes[WEIGHTS] + sizes[OPTIMIZER] // 2
    with (disk / "ballast").open("wb", buffering=0) as ballast, pytest.raises(OSError, match="No space left"):
        while True:
            ballast.write(b"x" * 4096)
    with (disk / "ballast").open("rb+") as ballast:
        ballast.truncate((disk / "ballast").stat().st_size - left)
    for parameter in model.parameters():
        parameter.data += 1
    with pytest.raises(Exception, match="No space left"):  # safetensors and torch have errors of their own
        checkpoint.save(model, optimizer, [{"number": 1}, {"number": 2}], best=True)
    (disk / "ballast").unlink()
    epochs, found, moments = restored(world, disk / "work")
    assert epochs == [{"number": 1}]
    assert same(good, found.state_dict())
    assert len(moments.state_dict()["state"]) == len(optimizer.state_dict()["state"])
    checkpoint.save(model, optimizer, [{"number": 1}, {"number": 2}], best=False)
    assert restored(world, disk / "work")[0] == [{"number": 1}, {"number": 2}]


def test_a_kill_between_the_renames_loses_nothing(world, trained, tmp_path):
    model, optimizer = trained
    checkpoint = Checkpoint(tmp_path, "fit", main=True)
    checkpoint.save(model, optimizer, [{"number": 1}], best=True)
    checkpoint.last.rename(checkpoint.old)
    epochs, found, moments = restored(world, tmp_path)
    assert epochs == [{"number": 1}]
    Checkpoint(tmp_path, "fit", main=True).save(found, moments, [*epochs, {"number": 2}], best=False)
    checkpoint.load_best(found)
    assert same(model.state_dict(), found.state_dict())


@pytest.mark.parametrize("name", [WEIGHTS, OPTIMIZER, STATE])
def test_a_damaged_checkpoint_is_named_with_a_way_out(world, trained, tmp_path, name):
    Checkpoint(tmp_path, "fit", main=True).save(*trained, [{"number": 1}], best=True)
    file = tmp_path / "last" / name
    file.write_bytes(file.read_bytes()[:20])
    with refused("checkpoint-damaged", StoreError):
        restored(world, tmp_path)
