"""Artifacts: complete or absent, one maker at a time, differences named."""

import json
import subprocess
import sys
import textwrap

import pytest
from refusals import refused

from llmcf_cli.core.errors import StoreError
from llmcf_cli.store.artifacts import (
    ArtifactStore,
    Manifest,
    artifact_key,
    differences,
    read_manifest,
    write_atomic,
)
from llmcf_cli.store.integrity import file_records

MATERIAL = {"stage": "ingest", "match": {"k": 4}, "inputs": {"embed": "a" * 64}}


def make(store: ArtifactStore, text: str = "rows", material: dict = MATERIAL) -> Manifest:
    key = artifact_key(material)
    with store.begin("ingest", key) as partial:
        (partial.out / "sub").mkdir()
        (partial.out / "sub" / "data.txt").write_text(text)
        manifest = Manifest(
            stage="ingest",
            variant="",
            recipe="r",
            key=key,
            material=material,
            report={"rows": 1},
            files=file_records(partial.out),
            started="2026-01-01T00:00:00+00:00",
            seconds=0.1,
            versions={},
        )
        store.commit(partial, manifest)
    return manifest


def test_a_commit_is_found_again_with_its_files(tmp_path):
    store = ArtifactStore(tmp_path)
    made = make(store)
    assert store.manifest("ingest", made.key) == made
    assert (store.folder("ingest", made.key) / "sub" / "data.txt").read_text() == "rows"
    assert made.files["sub/data.txt"].size == 4
    assert store.latest("ingest", "", "r") == made
    assert not list((tmp_path / "ingest" / ".partial").glob("*/out"))


def test_a_folder_without_manifest_is_no_artifact_and_is_replaced(tmp_path):
    store = ArtifactStore(tmp_path)
    folder = store.folder("ingest", artifact_key(MATERIAL))
    folder.mkdir(parents=True)
    (folder / "half.txt").write_text("torn")
    assert store.manifest("ingest", artifact_key(MATERIAL)) is None
    make(store)
    assert not (folder / "half.txt").exists()


def test_checkpoints_survive_a_failure_and_output_does_not(tmp_path):
    store, key = ArtifactStore(tmp_path), artifact_key(MATERIAL)
    with pytest.raises(ZeroDivisionError), store.begin("ingest", key) as partial:
        (partial.work / "checkpoint").write_text("step 3")
        (partial.out / "torn").write_text("x")
        raise ZeroDivisionError
    with store.begin("ingest", key) as partial:
        assert (partial.work / "checkpoint").read_text() == "step 3"
        assert not list(partial.out.iterdir())


def test_a_second_maker_is_told_the_pid_of_the_first(tmp_path):
    key = artifact_key(MATERIAL)
    script = textwrap.dedent(f"""
        import pathlib, sys
        from llmcf_cli.store.artifacts import ArtifactStore
        with ArtifactStore(pathlib.Path({str(tmp_path)!r})).begin("ingest", {key!r}):
            print("ready", flush=True)
            sys.stdin.readline()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "ready\n"
        with (
            refused("store-busy", StoreError, names=f"{holder.pid}"),
            ArtifactStore(tmp_path).begin("ingest", key),
        ):
            pass
        holder.communicate("\n")
    with ArtifactStore(tmp_path).begin("ingest", key):
        pass


def test_a_foreign_or_torn_manifest_is_an_error_with_a_way_out(tmp_path):
    store = ArtifactStore(tmp_path)
    made = make(store)
    path = store.folder("ingest", made.key) / "manifest.json"
    path.write_text(path.read_text()[:50])
    with refused("artifact-damaged", StoreError):
        store.manifest("ingest", made.key)
    assert store.manifests() == []
    assert [str(fault) for found in store.all() for fault in found.faults]
    path.write_text(json.dumps({"format": 1}))
    with pytest.raises(StoreError):
        read_manifest(path)


def test_differences_name_the_leaf_and_both_values():
    after = {**MATERIAL, "match": {"k": 6}}
    assert differences(MATERIAL, after) == ["match.k 4 → 6"]
    assert differences(MATERIAL, {**MATERIAL, "new": [1]}) == ["new[0] (none) → 1"]
    assert differences(MATERIAL, MATERIAL) == []


def test_keys_depend_on_content_not_on_order():
    assert artifact_key({"a": 1, "b": 2}) == artifact_key({"b": 2, "a": 1})
    assert artifact_key({"a": 1}) != artifact_key({"a": 2})


def test_write_atomic_leaves_no_temporary_file(tmp_path):
    write_atomic(tmp_path / "x.json", "1")
    write_atomic(tmp_path / "x.json", "2")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert (tmp_path / "x.json").read_text() == "2"
