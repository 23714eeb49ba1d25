"""Artifacts stay what was made: damage is found, replacement is all or nothing, readers are waited for."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.store import artifacts, integrity
from llmcf_cli.store.artifacts import MANIFEST, ArtifactStore, Manifest, artifact_key
from llmcf_cli.store.integrity import file_records

MATERIAL = {"stage": "toy", "k": 4}
KEY = artifact_key(MATERIAL)
FILES = {"a.bin": b"some bytes", "sub/b.bin": b"\x00" * 999, "empty": b""}


def fill(folder: Path, text: str = "") -> None:
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content + text.encode())


def manifest_of(folder: Path, report: object = 0.557) -> Manifest:
    return Manifest(
        stage="toy", variant="", recipe="r", key=KEY, material=MATERIAL, report={"auc": report, "none": float("nan")},
        files=file_records(folder), started="2026-01-01T00:00:00+00:00", seconds=0.1, versions={},
    )  # fmt: skip


def make(store: ArtifactStore, text: str = "") -> Manifest:
    with store.begin("toy", KEY) as partial:
        fill(partial.out, text)
        manifest = manifest_of(partial.out, text or 0.557)
        store.commit(partial, manifest)
    return manifest


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "artifacts")


@pytest.fixture
def folder(store):
    make(store)
    return store.folder("toy", KEY)


def same_time(path: Path, change) -> None:
    """Change a file as a failing disk does: nothing but its bytes."""
    before = path.stat()
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_what_was_made_is_whole(store, folder):
    found = store.look("toy", KEY)
    assert found.whole == store.examine("toy", KEY).whole == store.manifest("toy", KEY)
    assert found.folder == folder
    assert not list((folder.parent / ".partial").glob("*/"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["missing", "longer", "other length", "link", "pipe", "folder"])
def test_a_glance_finds_what_sizes_show(store, folder, name, how):
    file = folder / name
    if how in ("longer", "other length"):
        other = FILES[name] + b"x" if how == "longer" else FILES[name][:-1] or b"y"
        same_time(file, lambda f: f.write_bytes(other))
    else:
        file.rename(folder.parent / "elsewhere")
    if how == "link":
        file.symlink_to(folder.parent / "elsewhere")
    elif how == "pipe":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    found = store.look("toy", KEY)
    assert found.whole is None
    assert name in [fault.file for fault in found.faults]
    with pytest.raises(StoreError) as caught:
        store.manifest("toy", KEY)
    assert str(folder) in str(caught.value.where)


def test_only_scrutiny_finds_a_flip_without_another_time_but_then_every_glance_does(store, folder):
    file = folder / "a.bin"
    content = bytearray(file.read_bytes())
    content[3] ^= 16
    same_time(file, lambda f: f.write_bytes(content))
    assert store.look("toy", KEY).whole
    assert [fault.file for fault in store.examine("toy", KEY).faults] == ["a.bin"]
    assert [fault.file for fault in store.look("toy", KEY).faults] == ["a.bin"]


def test_a_copy_is_whole_and_cheap_to_look_at_afterwards(store, folder, tmp_path, monkeypatch):
    shutil.copytree(store.root, tmp_path / "copy", copy_function=shutil.copyfile)
    copied = ArtifactStore(tmp_path / "copy")
    read = []
    monkeypatch.setattr(integrity, "digest_file", lambda path: read.append(path) or integrity_digest(path))
    assert copied.look("toy", KEY).whole
    assert len(read) == len(FILES)
    assert copied.look("toy", KEY).whole
    assert len(read) == len(FILES)


integrity_digest = integrity.digest_file


def test_each_file_is_read_once_in_a_process(store, folder, monkeypatch):
    read = []
    monkeypatch.setattr(integrity, "digest_file", lambda path: read.append(path) or integrity_digest(path))
    assert store.examine("toy", KEY).whole
    assert store.examine("toy", KEY).whole
    assert len(read) == len(FILES)


def test_a_file_that_does_not_belong_is_a_fault_but_for_hidden_ones(store, folder):
    (folder / ".DS_Store").touch()
    assert store.examine("toy", KEY).whole
    (folder / "sub" / "2.manifest").touch()
    assert [fault.file for fault in store.look("toy", KEY).faults] == ["sub/2.manifest"]


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_are_found_or_harmless(store, seed):
    """At random places of every file, the manifest included; harmless is what leaves the manifest's meaning alone."""
    made, chance = make(store), random.Random(seed)
    folder = store.folder("toy", KEY)
    for name in (MANIFEST, *(n for n, content in FILES.items() if content)):
        for _ in range(64):
            file = folder / name
            content = file.read_bytes()
            at, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
            integrity._digests.clear()
            file.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            found = store.examine("toy", KEY).whole
            assert found is None or (name == MANIFEST and found.digest == made.digest), (name, at, bit)
            file.write_bytes(content)
    assert store.manifest("toy", KEY).digest == made.digest


def test_a_changed_figure_in_the_report_is_found(store, folder):
    path = folder / MANIFEST
    path.write_text(path.read_text().replace("0.557", "0.574"))
    assert store.look("toy", KEY).faults
    assert store.latest("toy", "", "r") is None


def test_manifests_of_other_versions_and_places_are_no_artifacts(store, folder):
    moved = folder.with_name("0" * 16)
    folder.rename(moved)
    assert [fault.file for found in store.all() for fault in found.faults] == [MANIFEST]
    (moved / MANIFEST).write_text('{"format": 1}')
    assert "earlier version" in next(store.all()).damage


@pytest.mark.parametrize("first", [True, False], ids=["new", "replaced"])
def test_a_kill_at_any_system_call_of_a_commit_leaves_the_old_one_or_the_new_one(tmp_path, first):
    """Counts the calls that change the disk, then dies before each of them in turn, in a fork."""
    calls = ["rename", "replace", "unlink", "fsync", "rmdir", "mkdir"]

    def run(root: Path, die_at: int) -> int:
        """Commit, and exit before the call of that number; how many there were."""
        pid = os.fork()
        if pid == 0:
            count = 0

            def dying(original):
                def call(*args, **kwargs):
                    nonlocal count
                    count += 1
                    if count == die_at:
                        os._exit(200)
                    return original(*args, **kwargs)

                return call

            for name in calls:
                setattr(os, name, dying(getattr(os, name)))
            make(ArtifactStore(root), "new")
            os._exit(min(count, 199))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def prepared(name: str) -> Path:
        root = tmp_path / name
        if not first:
            make(ArtifactStore(root), "old")
        return root

    total = run(prepared("whole"), -1)
    assert 8 < total < 199
    seen = set()
    for at in range(1, total + 1):
        root = prepared(str(at))
        assert run(root, at) == 200
        found = ArtifactStore(root).examine("toy", KEY)
        assert not found.faults
        text = found.whole.report["auc"] if found.whole else None
        seen.add(text)
        if text:
            assert (found.folder / "a.bin").read_bytes() == FILES["a.bin"] + text.encode()
        assert make(ArtifactStore(root), "again").digest == ArtifactStore(root).manifest("toy", KEY).digest
        assert not list((root / "toy" / ".partial").glob("*/old"))
    assert seen == ({None, "new"} if first else {"old", "new"})


def test_a_commit_that_fails_leaves_the_old_one(store, monkeypatch):
    old = make(store, "old")

    def full(path, text):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(artifacts, "write_atomic", full)
        with pytest.raises(OSError):
            make(store, "new")
    assert store.manifest("toy", KEY).digest == old.digest


READER = """
    import pathlib, sys
    from llmcf_cli.store.artifacts import ArtifactStore
    with ArtifactStore(pathlib.Path({root!r})).reading("toy", {key!r}) as found:
        print(found.whole.report["auc"], flush=True)
        sys.stdin.readline()
        print((found.folder / "a.bin").read_bytes(), flush=True)
"""


def test_what_is_being_read_is_not_replaced_until_its_reader_ends(store):
    make(store, "old")
    script = textwrap.dedent(READER.format(root=str(store.root), key=KEY))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout.readline() == "old\n"
        with refused("store-in-use", StoreError):
            store.check_free("toy", KEY)
        committed = threading.Event()
        maker = threading.Thread(target=lambda: (make(store, "new"), committed.set()))
        maker.start()
        assert not committed.wait(0.5)
        assert store.look("toy", KEY).whole.report["auc"] == "old"
        out, _ = reader.communicate("\n")
        assert out.endswith("old'\n")
        maker.join(timeout=10)
    assert store.manifest("toy", KEY).report["auc"] == "new"
    store.check_free("toy", KEY)


def test_readers_do_not_wait_for_each_other(store, folder):
    with store.reading("toy", KEY) as one, store.reading("toy", KEY) as other:
        assert one.whole == other.whole
    with store.reading("toy", artifact_key({"other": 1})) as nothing:
        assert nothing.whole is None
