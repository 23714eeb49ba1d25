"""What of a recipe goes into a parcel and where; what a parcel from somebody else is found to hold. Nothing is run."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import DataError, LlmcfError, StoreError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.share.compare import lock_differences
from llmcf_cli.stages.share.lock import lock_now, read_lock, write_lock
from llmcf_cli.stages.share.parcel import Wanted, export, gather
from llmcf_cli.stages.share.receive import look, push, receive
from llmcf_cli.store.parcel import pack
from llmcf_cli.store.parcel_source import open_parcel

BASE = """\
dataset:
  source:
    type: csv
    interactions: {events}
    columns: {{user: user, item: item, rating: rating, time: time}}
  label: {{type: rating, positive_from: 4}}
  split: {{type: global_time, validation: 0.2, test: 0.2}}
cot:
  prompt: {prompt}
  sample: {{count: 20}}
  engine: facts
match:
  space: {{type: text, encoder: {{type: hashing, dim: 64}}}}
rec:
  backbone: {{type: deepfm, embedding_dim: 8, hidden: [16]}}
  compare: [none, text]
"""
RECIPE = "extends: ../base.yaml\nname: mine\ndescription: 'A <b>bold</b> one'\n"


def project(folder: Path, events: str = "../data/events.csv", prompt: str = "my_prompt.yaml") -> Path:
    """A recipe in a folder of its own, data beside that, and a base above."""
    for name in ("recipes", "data"):
        (folder / name).mkdir(parents=True)
    rows = [f"u{n % 7},i{n % 11},{n % 5 + 1},{n}\n" for n in range(200)]
    (folder / "data" / "events.csv").write_text("user,item,rating,time\n" + "".join(rows))
    (folder / "base.yaml").write_text(BASE.format(events=events, prompt=prompt))
    (folder / "recipes" / "my_prompt.yaml").write_text((library_dir() / "prompts" / "single.yaml").read_text())
    (folder / "recipes" / "mine.yaml").write_text(RECIPE)
    return folder / "recipes" / "mine.yaml"


def packed(recipe: Path, target: Path, *parts: str, **more):
    """A parcel of a recipe, and what was said of it."""
    loaded = load_recipe(recipe)
    context = open_context(loaded, recipe.parent / "artifacts")
    work = target.with_name(f"{target.name}-work")
    work.mkdir()
    packing = gather(loaded, context, Wanted(parts, made="2026-01-01", **more), work, SILENT)
    export(packing, target, "", SILENT)
    return packing


def lock_here(recipe: Path):
    loaded = load_recipe(recipe)
    return lock_now(loaded, open_context(loaded, recipe.parent / "artifacts"), "2026-01-01").lock


def test_a_project_in_several_folders_arrives_as_the_same_recipe(tmp_path):
    recipe = project(tmp_path / "here")
    packing = packed(recipe, tmp_path / "parcel.zip", "data")
    received = receive(look(open_parcel(tmp_path / "parcel.zip")), tmp_path / "there", tmp_path / "c.sqlite", SILENT)
    there = received.lock.parent / "mine.yaml"
    assert there == tmp_path / "there" / "recipes" / "mine.yaml"
    assert lock_differences(read_lock(received.lock), lock_here(there)) == []
    assert (tmp_path / "there" / "data" / "events.csv").read_bytes() == (
        tmp_path / "here" / "data" / "events.csv"
    ).read_bytes()
    assert [(data.name, data.inside) for data in packing.data] == [("../data/events.csv", True)]


def test_data_stay_unless_they_are_asked_for_and_their_digest_does_not(tmp_path):
    recipe = project(tmp_path / "here")
    packing = packed(recipe, tmp_path / "parcel")
    assert [part for part, _ in packing.files.values() if part == "data"] == []
    (data,) = packing.data
    assert (data.inside, data.digest) == (False, packing.lock.contents["../data/events.csv"])
    assert data.digest[:16] in (tmp_path / "parcel" / "README.md").read_text()


def test_what_the_recipe_says_is_escaped_on_the_card(tmp_path):
    packed(project(tmp_path / "here"), tmp_path / "parcel")
    card = (tmp_path / "parcel" / "README.md").read_text()
    assert "<b>" not in card
    assert "&lt;b&gt;bold" in card


def test_whole_paths_do_not_travel(tmp_path, monkeypatch):
    events = tmp_path / "here" / "data" / "events.csv"
    packing = packed(project(tmp_path / "here", events=str(events)), tmp_path / "parcel", "data")
    assert [(data.name, data.inside) for data in packing.data] == [(str(events), False)]
    assert len(packing.notes) == 1
    prompt = str(tmp_path / "other" / "recipes" / "my_prompt.yaml")
    with refused("parcel-path", DataError, names="my_prompt"):
        packed(project(tmp_path / "other", prompt=prompt), tmp_path / "parcel2")


def test_a_link_among_the_data_is_refused(tmp_path):
    recipe = project(tmp_path / "here", events="../data")
    data = tmp_path / "here" / "data"
    (data / "events.csv").rename(tmp_path / "here" / "events.csv")
    import pyarrow.csv as csv
    import pyarrow.parquet as pq

    pq.write_table(csv.read_csv(tmp_path / "here" / "events.csv"), data / "events.parquet")
    base = tmp_path / "here" / "base.yaml"
    base.write_text(base.read_text().replace("type: csv", "type: parquet"))
    packed(recipe, tmp_path / "whole", "data")
    (data / "events.parquet").rename(tmp_path / "here" / "events.parquet")
    (data / "events.parquet").symlink_to(tmp_path / "here" / "events.parquet")
    with refused("parcel-path", DataError, names="events.parquet"):
        packed(recipe, tmp_path / "parcel", "data")


def test_what_is_not_made_is_noted_or_refused(tmp_path):
    packing = packed(project(tmp_path / "here"), tmp_path / "parcel", "texts", "results")
    assert packing.texts is None
    assert len(packing.notes) == 2
    with refused("not-made", LlmcfError):
        packed(project(tmp_path / "again"), tmp_path / "parcel2", "bundle")


def test_a_recipe_of_the_library_travels_as_its_lock(tmp_path):
    loaded = load_recipe("quickstart")
    (tmp_path / "work").mkdir()
    packing = gather(loaded, open_context(loaded, tmp_path / "a"), Wanted(()), tmp_path / "work", SILENT)
    assert set(packing.files) == {"README.md", "quickstart.lock.yaml"}
    assert packing.lock.recipe == "library:quickstart"


def test_plugins_that_are_missing_or_others_are_named_and_servers_told(tmp_path):
    recipe = project(tmp_path / "here")
    lock = lock_here(recipe)
    engine = {"type": "openai", "base_url": "https://api.example.com/v1", "model": "m"}
    resolved = {**lock.resolved, "cot": {**lock.resolved["cot"], "engine": engine}}
    from llmcf_cli.core.hashing import digest_json

    changed = {"plugins": {"judge acme": "acme-judge 1.0"}, "resolved": resolved, "digest": digest_json(resolved)}
    write_lock(lock.model_copy(update=changed), tmp_path / "mine.lock.yaml")
    files = {"mine.lock.yaml": ("recipe", tmp_path / "mine.lock.yaml")}
    pack(tmp_path / "parcel", files, SILENT, name="mine", llmcf="1", lock="mine.lock.yaml")
    offer = look(open_parcel(tmp_path / "parcel"))
    assert offer.missing == {"judge acme": "acme-judge 1.0"}
    assert offer.servers == ("https://api.example.com",)


def test_texts_of_other_models_end_the_import_before_anything_is_there(tmp_path):
    import json

    import pyarrow as pa
    import pyarrow.parquet as pq

    from llmcf_cli.core.hashing import digest_json
    from llmcf_cli.store.tables import TRAVELLING_TEXT

    recipe = project(tmp_path / "here")
    write_lock(lock_here(recipe), tmp_path / "mine.lock.yaml")
    row = {"prompt_hash": "a" * 64, "model_digest": "b" * 64, "decode_hash": digest_json({}), "sample_index": 0,
           "step": "cot", "about": "user", "text": "t", "finish_reason": "stop", "prompt_tokens": 1, "new_tokens": 1,
           "decode": json.dumps({})}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row], schema=TRAVELLING_TEXT.schema), tmp_path / "texts.parquet")
    files = {"mine.lock.yaml": ("recipe", tmp_path / "mine.lock.yaml"),
             "llmcf/texts.parquet": ("texts", tmp_path / "texts.parquet")}  # fmt: skip
    pack(tmp_path / "parcel", files, SILENT, name="mine", llmcf="1", lock="mine.lock.yaml")
    with refused("texts-invalid", DataError, names="b" * 64):
        receive(look(open_parcel(tmp_path / "parcel")), tmp_path / "there", tmp_path / "c.sqlite", SILENT)
    assert not (tmp_path / "there").exists()
    assert not (tmp_path / "c.sqlite").exists()


def test_a_pushed_parcel_is_named_by_its_digest_and_a_damaged_one_is_found(tmp_path):
    packed(project(tmp_path / "here"), tmp_path / "parcel.zip", "data")
    source = open_parcel(tmp_path / "parcel.zip")
    place = push(source, tmp_path / "shared", SILENT)
    assert place.name == f"mine-{source.manifest.digest[:16]}"
    assert push(source, tmp_path / "shared", SILENT) == place
    (place / "data" / "events.csv").write_text("other")
    with refused("parcel-changed", DataError, names=r"events\.csv"):
        push(source, tmp_path / "shared", SILENT)


def test_push_and_pull_from_the_command_line(tmp_path):
    def llmcf(*arguments: object):
        return CliRunner().invoke(app, ["recipe", *map(str, arguments)], env={"COLUMNS": "300"})

    packed(project(tmp_path / "here"), tmp_path / "parcel.zip", "data")
    done = llmcf("push", tmp_path / "parcel.zip", tmp_path / "shared")
    assert done.exit_code == 0, done.output
    digest = open_parcel(tmp_path / "parcel.zip").manifest.digest
    address = f"{tmp_path / 'shared' / f'mine-{digest[:16]}'}#sha256={digest}"
    assert address in done.output
    done = llmcf("pull", address, tmp_path / "there", "--yes", "--artifacts", tmp_path / "artifacts")
    assert done.exit_code == 0, done.output
    assert open_parcel(tmp_path / "there").manifest.digest == digest
    assert not list(tmp_path.glob(".*"))
    assert f"run --locked {tmp_path / 'there' / 'recipes' / 'mine.lock.yaml'}" in done.output


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_export_overwrites_nothing(tmp_path, kind):
    target = tmp_path / "parcel"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    with refused("target-taken", StoreError):
        packed(project(tmp_path / "here"), target)
