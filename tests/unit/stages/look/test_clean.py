"""`llmcf clean`: what nobody needs is found and goes, all else stays, and a kill leaves nothing half."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.serve.champion.pointer import Champion, Standing, write_pointer
from llmcf_cli.stages.engine.run import plan
from llmcf_cli.stages.look.clean import needs, size_of, unneeded
from llmcf_cli.stages.pipeline import open_context, run_steps
from llmcf_cli.stages.steps.embed import Embed
from llmcf_cli.store.artifacts import MANIFEST, ArtifactStore
from llmcf_cli.store.locks import sharing

RECIPE = """\
name: mine
dataset:
  source:
    type: csv
    interactions: events.csv
    items: items.csv
    columns: {user: user, item: item, rating: rating, time: time}
  label: {type: rating, positive_from: 4}
  split: {type: global_time, validation: 0.2, test: 0.2}
  limits: {per_class: 1}
  text: {item: "{{title}}"}
cot: {sample: {count: 20}, engine: facts}
match: {space: {type: text, encoder: {type: hashing, dim: 64}}}
rec: {backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}, compare: [none, text]}
"""


AUDIT = "audit/0123456789abcdef/findings.json"
"""Named by the key of a run, and no result."""


def made(folder, *changes):
    """A recipe's samples and vectors; their nodes."""
    context = open_context(load_recipe(folder / "recipe.yaml", changes), folder / "artifacts")
    steps = run_steps(
        context, plan(context, [Embed()]), SILENT, on_start=lambda step: None, on_end=lambda step, manifest: None,
        on_failure=lambda step, error: None,
    )  # fmt: skip
    return context, {step.node.stage.name: step.node for step in steps}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cleaned")
    rows = [f"u{n % 7},i{n % 11},{n % 5 + 1},{n}\n" for n in range(200)]
    (folder / "events.csv").write_text("user,item,rating,time\n" + "".join(rows))
    (folder / "items.csv").write_text("item,title\n" + "".join(f"i{n},a title of {n}\n" for n in range(11)))
    (folder / "recipe.yaml").write_text(RECIPE)
    made(folder)
    made(folder, "seed=7")
    return folder


@pytest.fixture
def folder(original, tmp_path):
    shutil.copytree(original, tmp_path / "here")
    return tmp_path / "here"


def context_of(folder, *changes):
    return open_context(load_recipe(folder / "recipe.yaml", changes), folder / "artifacts")


def contents(folder):
    return sorted(path.name for path in folder.iterdir())


def keys(found):
    return {(one.stage, one.key) for one in found}


def places(nodes):
    return {(node.stage.name, node.key[:16]) for node in nodes.values()}


def clean(folder, *words):
    done = CliRunner().invoke(
        app, ["clean", *map(str, words), "--artifacts", str(folder / "artifacts"), "--json"], catch_exceptions=False
    )
    return json.loads(done.output)


def test_only_what_no_recipe_needs_goes_and_only_when_told(folder):
    _, ours = made(folder)
    context, others = made(folder, "seed=7")
    store = context.store
    expected = places(others) - places(ours)
    assert expected, "the two recipes share everything"
    texts = folder / "artifacts" / "cache" / "generation.sqlite"
    texts.parent.mkdir(exist_ok=True)
    for place in ("notes.txt", "ingest/notes.txt", "plots/0123/a.png", "cache/generation.sqlite", AUDIT):
        path = folder / "artifacts" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    shown = clean(folder, folder / "recipe.yaml")
    assert {(one["stage"], one["key"]) for one in shown} == expected
    for one in shown:
        files = [path for path in store.folder(one["stage"], one["key"]).rglob("*") if path.is_file()]
        assert one["bytes"] == sum(path.stat().st_size for path in files)
        assert not one["removed"]
    assert all(store.look(node.stage.name, node.key).whole for node in others.values())
    assert all(one["removed"] for one in clean(folder, folder / "recipe.yaml", "--yes"))
    assert not any(store.folder(*one).exists() for one in expected)
    assert all(not store.examine(node.stage.name, node.key).faults and node.made for node in ours.values())
    assert (folder / "artifacts" / "plots" / "0123" / "a.png").is_file()
    assert (folder / "artifacts" / AUDIT).is_file()
    assert texts.read_text() == "mine"
    assert clean(folder, folder / "recipe.yaml", "--yes") == []


def test_a_result_keeps_all_that_it_was_made_from(folder):
    context, nodes = made(folder, "seed=7")
    kept = needs(context.store, [], [nodes["embed"].folder])
    assert kept.keys >= {node.key[:16] for node in nodes.values()}
    assert kept.bytes == sum(size_of(node.folder) for node in nodes.values())
    assert keys(unneeded(context.store, kept.keys)) == places(made(folder)[1]) - places(nodes)
    with refused("artifact-unusable", StoreError):
        needs(context.store, [], [folder])


def test_what_results_share_counts_once_and_not_at_all_where_it_stays(folder):
    _, ours = made(folder)
    _, others = made(folder, "seed=7")
    before = sum(one["bytes"] for one in clean(folder, folder / "recipe.yaml"))
    gone = sorted(places(others) - places(ours))
    first, second = (folder / "artifacts" / stage / key for stage, key in gone[:2])
    (first / "shared").write_bytes(b"a" * 5_000)
    (second / "shared").hardlink_to(first / "shared")
    (ours["ingest"].folder / "kept").write_bytes(b"b" * 7_000)
    (second / "kept").hardlink_to(ours["ingest"].folder / "kept")
    assert sum(one["bytes"] for one in clean(folder, folder / "recipe.yaml")) == before + 5_000
    kept = size_of(*(node.folder for node in ours.values()))
    assert kept == sum(size_of(node.folder) for node in ours.values())
    assert size_of(first, second) == size_of(first) + size_of(second) - 5_000
    clean(folder, folder / "recipe.yaml", "--yes")
    assert (ours["ingest"].folder / "kept").read_bytes() == b"b" * 7_000


def test_bundles_that_a_pointer_names_stay(folder):
    _, others = made(folder, "seed=7")
    embedded, pointer = others["embed"].folder, folder / "champion"
    everything = clean(folder, folder / "recipe.yaml")
    write_pointer(pointer, Champion(champion=Standing(bundle="elsewhere"), previous=Standing(bundle=str(embedded))))
    left = clean(folder, folder / "recipe.yaml", "--pointer", pointer)
    assert everything != []
    assert not {(one["stage"], one["key"]) for one in left} & places(others)


def test_what_is_made_or_read_stays(folder):
    context, nodes = made(folder, "seed=7")
    store, node = context.store, nodes["ingest"]
    kept = needs(store, [context_of(folder)], []).keys
    with store.begin("ingest", node.key):
        assert {one.busy for one in unneeded(store, kept) if one.key == node.key[:16]} == {"is being made"}
        with refused("store-busy", StoreError):
            store.remove("ingest", node.key)
    with sharing(node.folder / MANIFEST):
        assert {one.busy for one in unneeded(store, kept) if one.key == node.key[:16]} == {"is being read"}
        with refused("store-in-use", StoreError):
            store.remove("ingest", node.key)
    assert store.examine("ingest", node.key).whole


def test_what_a_stopped_run_left_goes_too_unless_it_may_go_on(folder):
    context, nodes = made(folder)
    store, gone = context.store, "0" * 64
    for key in (gone, nodes["ingest"].key):
        with pytest.raises(KeyboardInterrupt), store.begin("ingest", key) as partial:
            (partial.work / "checkpoint").write_text("half")
            raise KeyboardInterrupt
    unreadable = store.folder("ingest", "1" * 64)
    unreadable.mkdir()
    (unreadable / MANIFEST).write_text("{}")
    found = {
        one.key: one.kind for one in unneeded(store, needs(store, [context, context_of(folder, "seed=7")], []).keys)
    }
    assert found == {"0" * 16: "unfinished", "1" * 16: "unreadable"}
    clean(folder, folder / "recipe.yaml", "--yes")
    assert not unreadable.exists()
    assert not (store.root / "ingest" / ".partial" / ("0" * 16)).exists()
    assert (store.root / "ingest" / ".partial" / nodes["ingest"].key[:16] / "work" / "checkpoint").is_file()


def test_what_is_young_can_stay(folder):
    context, _ = made(folder)
    kept = needs(context.store, [context], []).keys
    now = datetime.now(UTC)
    assert unneeded(context.store, kept, now - timedelta(days=1)) == []
    assert unneeded(context.store, kept, now + timedelta(days=1)) == unneeded(context.store, kept)


REMOVE = """\
import sys
from pathlib import Path
from llmcf_cli.store.artifacts import ArtifactStore
store = ArtifactStore(Path(sys.argv[1]))
print("ready", flush=True)
for key in sys.argv[2:]:
    store.remove("ingest", key)
"""


def test_a_kill_leaves_whole_results_or_none(folder):
    _, nodes = made(folder)
    source, store = nodes["ingest"].folder, ArtifactStore(folder / "many")
    chance = random.Random(5)
    names = [f"{n:016x}" for n in range(20)]
    for _ in range(4):
        for name in names:
            shutil.copytree(source, store.root / "ingest" / name, dirs_exist_ok=True)
        process = subprocess.Popen([sys.executable, "-c", REMOVE, str(store.root), *names], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(chance.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for name in names:
            left = store.root / "ingest" / name
            assert not left.exists() or sorted(p.name for p in left.iterdir()) == sorted(
                p.name for p in source.iterdir()
            )
        for one in unneeded(store, ()):
            store.remove(one.stage, one.key)
        assert unneeded(store, ()) == []
        assert not any((store.root / "ingest" / name).exists() for name in names)
