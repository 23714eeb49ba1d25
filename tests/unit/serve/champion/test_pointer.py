"""A pointer is whole at every moment, and says what it was told."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time

import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.serve.champion.pointer import (
    Champion,
    Standing,
    changing,
    name_of,
    pointed_at,
    read_pointer,
    write_pointer,
)


@pytest.fixture
def pointer(tmp_path):
    for name in ("monday", "tuesday"):
        (tmp_path / "bundles" / name).mkdir(parents=True)
        (tmp_path / "bundles" / name / "bundle.json").write_text("{}")
    return tmp_path / "champion"


def standing(name):
    return Standing(bundle=f"bundles/{name}", digest=name)


def test_what_is_written_is_read_and_followed(pointer):
    written = Champion(champion=standing("tuesday"), previous=standing("monday"))
    write_pointer(pointer, written)
    assert read_pointer(pointer) == written
    assert pointed_at(pointer) == pointer.parent / "bundles" / "tuesday"
    assert pointer.read_text().splitlines()[0] == "bundles/tuesday"


def test_a_pointer_written_by_hand_is_its_first_line(pointer):
    pointer.write_text("bundles/monday\n")
    assert read_pointer(pointer) == Champion(champion=Standing(bundle="bundles/monday"))
    write_pointer(pointer, Champion(champion=standing("tuesday"), withdrawn=standing("monday")))
    pointer.write_text(pointer.read_text().replace("bundles/tuesday", "bundles/monday", 1))
    assert read_pointer(pointer) == Champion(champion=Standing(bundle="bundles/monday"), previous=standing("tuesday"))


@pytest.mark.parametrize("text", ["", "\n", " \nx", "bundles/monday\n{", "bundles/monday\n[1]", "a\0b", "\udcff"])
def test_what_names_nothing_is_refused(pointer, text):
    pointer.write_bytes(text.encode(errors="surrogateescape"))
    with refused("pointer-invalid", StoreError):
        read_pointer(pointer)


def test_names_are_relative_below_the_pointer_and_whole_elsewhere(pointer, tmp_path_factory):
    assert name_of(pointer, pointer.parent / "bundles" / "monday") == "bundles/monday"
    other = tmp_path_factory.mktemp("other")
    assert name_of(pointer, other) == str(other.resolve())
    with refused("pointer-invalid", StoreError):
        name_of(pointer, pointer.parent / "two\nlines")


def test_two_cannot_change_it_at_once(pointer):
    with changing(pointer), refused("store-busy", StoreError), changing(pointer):
        pass
    with refused("path-missing", StoreError), changing(pointer.parent / "none" / "champion"):
        pass
    with refused("path-folder", StoreError), changing(pointer.parent / "bundles"):
        pass


def _change_for_ever(pointer, begun):
    names = ["monday", "tuesday"]
    while True:
        names.reverse()
        with changing(pointer):
            write_pointer(pointer, Champion(champion=standing(names[0]), previous=standing(names[1])))
        begun.set()


def test_a_kill_at_any_moment_leaves_it_whole(pointer):
    """Twenty processes that change it without a pause, each killed at a random moment."""
    draw, fork = random.Random(7), multiprocessing.get_context("fork")
    write_pointer(pointer, Champion(champion=standing("monday"), previous=standing("tuesday")))
    for _ in range(20):
        begun = fork.Event()
        process = fork.Process(target=_change_for_ever, args=(pointer, begun))
        process.start()
        assert begun.wait(60)
        end = time.monotonic() + draw.uniform(0, 0.03)
        while time.monotonic() < end:
            assert pointed_at(pointer).is_dir()
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        found = read_pointer(pointer)
        assert {found.champion.digest, found.previous.digest} == {"monday", "tuesday"}
    with changing(pointer):
        assert not list(pointer.parent.glob(".*.tmp"))
