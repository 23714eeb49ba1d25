"""Planning: what is cached, what runs, and the reason given; a failure keeps what is finished."""

import errno
import os
import shutil
import subprocess
from dataclasses import dataclass

import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.stages.engine.base import Context, NeedError, Stage
from llmcf_cli.stages.engine.run import Cause, examined, execute, plan
from llmcf_cli.store.artifacts import ArtifactStore, read_manifest


@dataclass(frozen=True)
class Settings:
    """Stands in for a recipe: stages see only what `sections` picks."""

    name: str = "toy"
    first: int = 1
    second: int = 1
    seed: int = 1


class First(Stage):
    name, version = "first", 1
    variant = "of two words"

    def sections(self, recipe):
        return {"first": recipe.first}

    def needs(self, recipe):
        return ()

    def run(self, job):
        (job.out / "number.txt").write_text(str(job.recipe.first))
        return {"number": job.recipe.first}


class Second(Stage):
    name, version = "second", 1
    fails = False

    def sections(self, recipe):
        return {"second": recipe.second}

    def needs(self, recipe):
        return (First(),)

    def run(self, job):
        (job.work / "checkpoint").touch()
        if Second.fails:
            raise KeyboardInterrupt
        number = int((job.inputs["first"] / "number.txt").read_text()) + job.recipe.second
        return {"sum": number}


class _Locate:
    def digest(self, ref):
        return ref


def steps_of(tmp_path, force=(), **settings):
    found = Context(recipe=Settings(**settings), store=ArtifactStore(tmp_path), locate=_Locate(), models=tmp_path)
    return plan(found, [Second()], force)


def run(steps):
    seen = []
    execute(steps, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: seen.append(manifest.report))
    return seen


def states(steps):
    return [(step.node.stage.name, step.runs, step.reason) for step in steps]


def test_a_second_run_finds_everything_cached(tmp_path):
    assert states(steps_of(tmp_path)) == [("first", True, "new"), ("second", True, "new")]
    assert run(steps_of(tmp_path)) == [{"number": 1}, {"sum": 2}]
    assert states(steps_of(tmp_path)) == [("first", False, "cached"), ("second", False, "cached")]
    assert run(steps_of(tmp_path)) == [{"number": 1}, {"sum": 2}]


def test_the_reason_names_the_setting_and_its_consequence(tmp_path):
    run(steps_of(tmp_path))
    assert states(steps_of(tmp_path, second=5)) == [
        ("first", False, "cached"),
        ("second", True, "second 1 → 5"),
    ]
    changed = states(steps_of(tmp_path, first=7))
    assert changed == [("first", True, "first 1 → 7"), ("second", True, "first changed")]
    assert run(steps_of(tmp_path, first=7)) == [{"number": 7}, {"sum": 8}]


def test_force_runs_the_stage_and_what_reads_it(tmp_path):
    run(steps_of(tmp_path))
    assert states(steps_of(tmp_path, force=["second"]))[0] == ("first", False, "cached")
    forced = states(steps_of(tmp_path, force=["first"]))
    assert forced == [("first", True, "forced"), ("second", True, "forced by first[of two words]")]
    assert run(steps_of(tmp_path, force=["first"])) == [{"number": 1}, {"sum": 2}]


def test_an_interrupted_stage_keeps_its_checkpoints_and_what_was_before_it(tmp_path):
    Second.fails = True
    try:
        with pytest.raises(KeyboardInterrupt):
            run(steps_of(tmp_path))
    finally:
        Second.fails = False
    assert list((tmp_path / "second" / ".partial").glob("*/work/checkpoint"))
    assert states(steps_of(tmp_path))[0] == ("first", False, "cached")
    assert run(steps_of(tmp_path)) == [{"number": 1}, {"sum": 2}]


def test_the_stage_version_is_part_of_the_key(tmp_path, monkeypatch):
    run(steps_of(tmp_path))
    monkeypatch.setattr(First, "version", 2)
    assert states(steps_of(tmp_path))[0] == ("first", True, "stage_version 1 → 2")


def test_a_full_disk_is_named_and_nothing_finished_is_lost(tmp_path, request):
    """On a real, small file system; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", disk], check=True))
    run(steps_of(disk)[:1])
    ballast = disk / "ballast"
    with pytest.raises(OSError, match="No space left"), ballast.open("wb", buffering=0) as handle:
        while True:
            handle.write(b"x" * 4096)
    with refused("disk-full", StoreError) as caught:
        run(steps_of(disk))
    assert "--artifacts" in caught.value.hint
    ballast.unlink()
    assert states(steps_of(disk))[0] == ("first", False, "cached")
    assert run(steps_of(disk)) == [{"number": 1}, {"sum": 2}]


def flip(file):
    """Change a byte and nothing else of a file."""
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def number_file(tmp_path):
    return next(tmp_path.glob("first/*/number.txt"))


def test_damage_is_named_and_made_again_where_it_is_read_or_seen_at_once(tmp_path):
    run(steps_of(tmp_path, first=7))
    number_file(tmp_path).write_text("77")
    steps = steps_of(tmp_path, first=7)
    assert [(step.node.stage.name, step.runs) for step in steps] == [("first", True), ("second", False)]
    assert "number.txt" in steps[0].reason
    assert run(steps) == [{"number": 7}, {"sum": 8}]
    assert states(steps_of(tmp_path, first=7))[0] == ("first", False, "cached")
    number_file(tmp_path).unlink()
    assert run(steps_of(tmp_path, first=7)) == [{"number": 7}, {"sum": 8}]


def test_a_flip_that_no_size_or_time_shows_is_found_before_it_is_read(tmp_path):
    run(steps_of(tmp_path, first=7))
    flip(number_file(tmp_path))
    unread = examined(steps_of(tmp_path, first=7))
    assert not any(step.runs for step in unread)  # only the report of the last is shown
    steps = examined(steps_of(tmp_path, first=7, second=5))
    assert [step.runs for step in steps] == [True, True]
    assert "number.txt" in steps[0].reason
    assert run(steps) == [{"number": 7}, {"sum": 12}]


def test_damage_that_comes_between_plan_and_use_is_an_error(tmp_path):
    run(steps_of(tmp_path, first=7))
    steps = steps_of(tmp_path, first=7, second=5)
    flip(number_file(tmp_path))
    with pytest.raises(StoreError, match="first"):
        run(steps)
    assert run(examined(steps_of(tmp_path, first=7, second=5))) == [{"number": 7}, {"sum": 12}]


@pytest.mark.parametrize("force", [(), ("second",)], ids=["new", "forced"])
def test_what_another_process_made_since_the_plan_is_taken_not_replaced(tmp_path, force):
    if force:
        run(steps_of(tmp_path))
    planned = steps_of(tmp_path, force)
    run(steps_of(tmp_path, force))
    theirs = read_manifest(next(tmp_path.glob("second/*/manifest.json")))
    seen = []
    execute(planned, SILENT, on_start=lambda step: None, on_end=lambda step, manifest: seen.append((step, manifest)))
    step, manifest = seen[-1]
    assert (step.runs, step.cause, manifest.digest) == (False, Cause.ELSEWHERE, theirs.digest)
    assert read_manifest(next(tmp_path.glob("second/*/manifest.json"))).digest == theirs.digest
    assert not list(tmp_path.glob("second/.partial/*/out"))


def test_force_keeps_what_is_there_until_the_new_one_stands(tmp_path):
    run(steps_of(tmp_path))
    before = read_manifest(next(tmp_path.glob("second/*/manifest.json"))).digest
    Second.fails = True
    try:
        with pytest.raises(KeyboardInterrupt):
            run(steps_of(tmp_path, ["second"]))
    finally:
        Second.fails = False
    assert states(steps_of(tmp_path))[1] == ("second", False, "cached")
    assert read_manifest(next(tmp_path.glob("second/*/manifest.json"))).digest == before
    run(steps_of(tmp_path, ["second"]))
    assert read_manifest(next(tmp_path.glob("second/*/manifest.json"))).digest != before


def test_a_read_only_place_serves_what_is_cached(tmp_path, request):
    """On a real file system mounted so; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("cannot mount a tmpfs here")
    request.addfinalizer(lambda: subprocess.run(["umount", "-l", disk], check=True))
    run(steps_of(disk))
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert run(examined(steps_of(disk))) == [{"number": 1}, {"sum": 2}]
    steps = steps_of(disk)
    with pytest.raises(OSError) as caught:
        run(examined(steps_of(disk, second=5)))
    assert caught.value.errno == errno.EROFS
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    whole = steps[-1].node.folder  # as a process leaves it that is killed while it replaces it
    aside = whole.parent / ".partial" / whole.name
    aside.mkdir(parents=True, exist_ok=True)
    whole.rename(aside / "old")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    assert [step.runs for step in steps_of(disk)] == [False, True]


class Reader(Stage):
    """Adds to what `first` made, or remembers it."""

    name, version = "reader", 1
    sparing = frozenset({"first"})
    remembers = needs_it = False

    def sections(self, recipe):
        return {"second": recipe.second}

    def needs(self, recipe):
        return (First(),)

    def spared(self, node):
        return "it is remembered" if Reader.remembers else ""

    def run(self, job):
        if "first" not in job.inputs:
            if Reader.needs_it:
                raise NeedError("a number is missing", "first")
            return {"sum": 100}
        return {"sum": int((job.inputs["first"] / "number.txt").read_text()) + job.recipe.second}


@pytest.fixture
def reader(monkeypatch):
    """Its attributes are as they were after the test."""
    monkeypatch.setattr(Reader, "remembers", True)
    monkeypatch.setattr(Reader, "needs_it", False)
    return Reader


def planned(tmp_path, *targets, force=()):
    found = Context(recipe=Settings(), store=ArtifactStore(tmp_path), locate=_Locate(), models=tmp_path)
    return plan(found, targets, force)


def test_what_its_readers_can_spare_is_not_made(tmp_path, reader):
    steps = planned(tmp_path, Reader())
    assert [(step.cause, step.runs) for step in steps] == [(Cause.PUT_OFF, False), (Cause.NEW, True)]
    assert steps[0].reason == "it is remembered"
    assert run(steps) == [{"sum": 100}]
    again = planned(tmp_path, Reader())
    assert [step.cause for step in again] == [Cause.PUT_OFF, Cause.CACHED]
    assert not any(step.runs for step in again)
    assert run(examined(again)) == [{"sum": 100}]


def test_what_is_put_off_is_made_where_it_is_needed_after_all(tmp_path, reader, monkeypatch):
    monkeypatch.setattr(Reader, "needs_it", True)
    assert run(planned(tmp_path, Reader())) == [{"number": 1}, {"sum": 2}]
    assert [step.cause for step in planned(tmp_path, Reader())] == [Cause.CACHED, Cause.CACHED]


@pytest.mark.parametrize("case", ["asked for", "forced", "another reads it", "nothing remembered", "damaged"])
def test_what_somebody_wants_is_not_put_off(tmp_path, reader, monkeypatch, case):
    if case == "nothing remembered":
        monkeypatch.setattr(Reader, "remembers", False)
    if case == "damaged":
        monkeypatch.setattr(Reader, "remembers", False)
        run(planned(tmp_path, First()))
        monkeypatch.setattr(Reader, "remembers", True)
        number_file(tmp_path).write_text("")
    targets = {"asked for": [First()], "another reads it": [Reader(), Second()]}.get(case, [Reader()])
    steps = planned(tmp_path, *targets, force=["first"] if case == "forced" else ())
    assert steps[0].runs
    assert {"number": 1} in run(steps)


def test_a_result_that_vanished_since_the_plan_is_made_again_where_it_is_needed(tmp_path, reader, monkeypatch):
    run(planned(tmp_path, First()))
    steps = planned(tmp_path, Reader())
    assert steps[0].cause is Cause.CACHED
    shutil.rmtree(steps[0].node.folder)
    monkeypatch.setattr(Reader, "needs_it", True)
    with refused("store-changed", StoreError):
        run(steps)
