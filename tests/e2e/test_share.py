"""Recipes that travel: locks, texts and parcels, between two homes; a tiny random language model that really writes."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from loopback_registry import started
from refusals import refused
from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.core.errors import LlmcfError, RecipeError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.core.progress import SILENT
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.share.lock import lock_now, read_lock
from llmcf_cli.stages.share.results import first_parting, reproduces, verify
from llmcf_cli.stages.steps.train_llm import TrainLLM
from llmcf_cli.store.parcel_source import open_parcel
from llmcf_cli.store.registry import push

RECIPE = """\
extends: base.yaml
name: shared
cot:
  prompt: mine.yaml
  sample: {count: 24}
match:
  space: {encoder: {type: hashing, dim: 64}}
rec:
  backbone: {type: deepfm, embedding_dim: 8, hidden: [16]}
  augment: ict
  fit: {epochs: 2, batch_size: 256}
  compare: [none, ict]
"""


def llmcf(*arguments: object, given: str = "") -> str:
    """A command that ends well; an error of llmcf is raised."""
    done = CliRunner().invoke(app, list(map(str, arguments)), input=given, env={"COLUMNS": "250"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def report(artifacts: Path, stage: str) -> dict:
    """The report of a stage that has one artifact."""
    (manifest,) = (artifacts / stage).glob("*/manifest.json")
    return json.loads(manifest.read_text())["report"]


def checked(recipe: Path, lock: Path, artifacts: Path):
    """What `recipe verify` finds."""
    loaded = load_recipe(recipe)
    now = lock_now(loaded, open_context(loaded, artifacts), "2026-01-01")
    return verify(read_lock(lock), now.steps, SILENT)


@pytest.fixture(scope="module")
def home(write_ratings, tmp_path_factory) -> Path:
    """A finished run with its lock; no test changes it."""
    from llmcf_cli.recipe.library import library_dir

    folder = tmp_path_factory.mktemp("home")
    write_ratings(folder, users=16, items=20)
    prompt = (library_dir() / "prompts" / "single.yaml").read_text()
    (folder / "mine.yaml").write_text(prompt)
    (folder / "shared.yaml").write_text(RECIPE)
    llmcf("run", folder / "shared.yaml", "--artifacts", folder / "artifacts")
    llmcf("recipe", "lock", folder / "shared.yaml", "--artifacts", folder / "artifacts")
    return folder


@pytest.fixture
def copy(home, tmp_path) -> Path:
    """The recipe, its files and its lock elsewhere, without results."""
    target = tmp_path / "elsewhere"
    shutil.copytree(home, target, ignore=shutil.ignore_patterns("artifacts"))
    return target


def test_a_lock_holds_what_the_results_rest_on_and_the_measures_of_the_comparison(home):
    lock = yaml.safe_load((home / "shared.lock.yaml").read_text())
    assert {"model", "events.csv", "items.csv", "mine.yaml"} <= set(lock["contents"])
    assert set(lock["files"]) == {"shared.yaml", "base.yaml"}
    comparison = report(home / "artifacts", "evaluate")
    for arm in comparison["arms"]:
        for measure, value in arm["measures"].items():
            if value is not None:
                assert lock["measures"][arm["arm"]][measure]["value"] == value["mean"]
    made = {path.parent.parent.name for path in (home / "artifacts").glob("*/*/manifest.json")}
    assert {label.partition("[")[0] for label in lock["stages"]} == made
    assert str(home) not in (home / "shared.lock.yaml").read_text()


def test_the_same_run_is_the_same_to_the_last_digit(home):
    found = checked(home / "shared.yaml", home / "shared.lock.yaml", home / "artifacts")
    assert {one.verdict for one in found} == {"same"}
    assert {one.aspect for one in found} == {
        "data", "texts", "vectors", "matches", "weights", "predictions", "measures"
    }  # fmt: skip
    assert reproduces(found)
    assert first_parting(found) is None


@pytest.mark.parametrize(
    ("file", "before", "after", "code", "names"),
    [
        ("shared.yaml", "epochs: 2", "epochs: 3", "lock-setting", "rec.fit.epochs is 3 here, but 2"),
        ("shared.yaml", "name: shared", "# note\nname: shared", "lock-file", "shared.yaml"),
        ("base.yaml", "count: 8", "count: 9", "lock-setting", "llm.count is 9 here, but 8"),
        ("mine.yaml", "name:", "# note\nname:", "lock-content", "mine.yaml"),
        ("events.csv", ",1,", ",2,", "lock-content", "events.csv"),
    ],
)
def test_a_locked_run_refuses_what_differs_with_both_values(copy, file, before, after, code, names):
    text = (copy / file).read_text()
    assert before in text
    (copy / file).write_text(text.replace(before, after, 1))
    with refused(code, RecipeError, names=names):
        llmcf("run", "--locked", copy / "shared.lock.yaml", "--artifacts", copy / "artifacts")
    assert not (copy / "artifacts").exists()


def test_a_locked_run_refuses_other_versions_unless_they_are_accepted(copy):
    file = copy / "shared.lock.yaml"
    lock = yaml.safe_load(file.read_text())
    lock["versions"]["numpy"] = "1.0.0"
    file.write_text(yaml.safe_dump(lock))
    with refused("lock-version", RecipeError, names=r"numpy is .* here, but 1\.0\.0"):
        llmcf("run", "--locked", file, "--dry-run", "--artifacts", copy / "artifacts")
    llmcf("run", "--locked", file, "--dry-run", "--other-versions", "--artifacts", copy / "artifacts")


def test_a_lock_changed_by_hand_is_refused(copy):
    file = copy / "shared.lock.yaml"
    lock = yaml.safe_load(file.read_text())
    lock["resolved"]["match"]["k"] = 2
    file.write_text(yaml.safe_dump(lock))
    with refused("lock-invalid", RecipeError):
        llmcf("run", "--locked", file, "--dry-run")


def test_set_cannot_stand_beside_a_lock(copy):
    with refused("option-conflict", LlmcfError):
        llmcf("run", "--locked", copy / "shared.lock.yaml", "--set", "match.k=2", "--dry-run")


def test_verify_says_where_numbers_part(home, tmp_path):
    """The texts of another home's language model differ, and so does all that is made of them; the data do not."""
    elsewhere = tmp_path / "other"
    shutil.copytree(home, elsewhere)
    cots = next((elsewhere / "artifacts" / "gen-cot").glob("*/cot.parquet"))
    import pyarrow as pa

    from llmcf_cli.store.artifacts import MANIFEST, read_manifest, write_manifest
    from llmcf_cli.store.integrity import file_records

    table = pq.read_table(cots)
    texts = [*table["text"].to_pylist()[:-1], "another text"]
    place = table.schema.get_field_index("text")
    pq.write_table(table.set_column(place, table.schema.field("text"), pa.array(texts, table["text"].type)), cots)
    manifest = read_manifest(cots.parent / MANIFEST)
    (cots.parent / MANIFEST).unlink()
    write_manifest(manifest.model_copy(update={"files": file_records(cots.parent)}), cots.parent / MANIFEST)
    found = checked(elsewhere / "shared.yaml", elsewhere / "shared.lock.yaml", elsewhere / "artifacts")
    assert first_parting(found).aspect == "texts"
    assert [one.parts for one in found if one.aspect == "texts"] == [1]
    assert [one.verdict for one in found if one.aspect == "data"] == ["same"]


@pytest.fixture(scope="module")
def texts(home) -> Path:
    """The run's texts in a file."""
    file = home / "texts.parquet"
    llmcf("cot", "export", home / "shared.yaml", "--cache", file, "--artifacts", home / "artifacts")
    return file


def test_imported_texts_are_found_and_none_is_made_again(copy, texts):
    artifacts = copy / "artifacts"
    llmcf("cot", "import", texts, "--lock", copy / "shared.lock.yaml", "--artifacts", artifacts)
    llmcf("ingest", copy / "shared.yaml", "--artifacts", artifacts)
    plan = llmcf("run", "--locked", copy / "shared.lock.yaml", "--artifacts", artifacts, "--dry-run")
    assert "24 of 24 texts are cached" in plan
    llmcf("gen-cot", copy / "shared.yaml", "--artifacts", artifacts)
    found = report(artifacts, "gen-cot")
    assert (found["generated"], found["cached"]) == (0, 24)


def test_exported_texts_come_with_the_judges_scores(home, texts):
    rows = pq.read_table(texts).to_pylist()
    cots = pq.read_table(next((home / "artifacts" / "gen-cot").glob("*/cot.parquet"))).to_pylist()
    kept = {row["prompt_hash"]: row["score"] for row in rows if row["kept"]}
    assert kept == {row["prompt_hash"]: row["score"] for row in cots}
    assert not {"prompt", "user_id", "sample_id"} & set(rows[0])


def test_texts_about_users_stay_at_home_if_asked(home, tmp_path):
    out = tmp_path / "none.parquet"
    done = llmcf("cot", "export", home / "shared.yaml", "--cache", out, "--without", "user",
                 "--artifacts", home / "artifacts")  # fmt: skip
    assert "left out: 24" in done
    assert pq.read_table(out).num_rows == 0


@pytest.fixture(scope="module")
def parcel(home, texts, tmp_path_factory) -> Path:
    """Everything that travels, as a folder."""
    target = tmp_path_factory.mktemp("parcel") / "shared"
    llmcf("recipe", "export", home / "shared.yaml", target, "--with", "data", "--licence", "CC-BY-4.0",
          "--artifacts", home / "artifacts")  # fmt: skip
    return target


def imported(source: object, target: Path, *more: object) -> Path:
    llmcf("recipe", "import", source, target, "--artifacts", target.parent / "artifacts", *more, given="y\n")
    return target


def test_round_trip_makes_no_call_and_ends_within_tolerance(home, parcel, tmp_path, monkeypatch):
    """From one home to an empty one, by a zip: the texts are there, so the language model is never asked."""
    from llmcf_cli.llm.engines.transformers import TransformersEngine

    packed = tmp_path / "shared.zip"
    llmcf("recipe", "export", home / "shared.yaml", packed, "--with", "data", "--artifacts", home / "artifacts")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("LLMCF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TransformersEngine, "generate", lambda *_: pytest.fail("the language model was asked"))
    target = imported(packed, tmp_path / "empty" / "shared")
    artifacts = tmp_path / "empty" / "artifacts"
    lock = target / "shared.lock.yaml"
    monkeypatch.setattr(TrainLLM, "run", lambda *_: pytest.fail("the language model was tuned"))
    done = llmcf("run", "--locked", lock, "--artifacts", artifacts)
    assert "train-llm is not needed: 24 of its texts are in the cache" in done
    assert report(artifacts, "gen-cot")["generated"] == 0
    assert "every stage is cached" in llmcf("run", "--locked", lock, "--artifacts", artifacts)
    told = llmcf("recipe", "verify", lock, "--artifacts", artifacts)
    assert "every measure is within its tolerance" in told
    assert "[green]" not in told
    assert "predict[ict" in told
    assert "seed=" in told, "brackets of a name are no markup"
    found = checked(target / "shared.yaml", lock, artifacts)
    assert {one.verdict for one in found if one.aspect in ("data", "texts")} == {"same"}
    assert reproduces(found)
    for table in ("cot", "cot_part", "cot_candidate", "cot_dropped"):
        (there,), (here,) = (list(root.glob(f"gen-cot/*/{table}.parquet")) for root in (home / "artifacts", artifacts))
        assert pq.read_table(here).equals(pq.read_table(there)), table
    llmcf("report", target / "shared.yaml", "--artifacts", artifacts)
    further = tmp_path / "further"
    llmcf("recipe", "export", target / "shared.yaml", further, "--with", "data", "--artifacts", artifacts)
    assert pq.read_table(further / "llmcf" / "texts.parquet").num_rows == 24


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("registry"))


@pytest.mark.parametrize("way", ["folder", "registry"])
def test_what_was_pushed_is_pulled_and_repeated_without_a_call(home, tmp_path, monkeypatch, request, way):
    """From one home to an empty one, by an address that names the content."""
    from llmcf_cli.llm.engines.transformers import TransformersEngine

    packed = tmp_path / "shared.zip"
    llmcf("recipe", "export", home / "shared.yaml", packed, "--with", "data", "--artifacts", home / "artifacts")
    monkeypatch.setenv("LLMCF_CONFIG", str(tmp_path / "config"))
    if way == "registry":
        server = request.getfixturevalue("registry")
        Permissions().allow_host(Host.of(server.host), None)
        address = str(push(open_parcel(packed), f"oci://{server.host}/team/shared", SILENT))
    else:
        told = llmcf("recipe", "push", packed, tmp_path / "shelf", given="y\n")
        address = next(word for word in shlex.split(told) if "#sha256=" in word)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("LLMCF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TransformersEngine, "generate", lambda *_: pytest.fail("the language model was asked"))
    monkeypatch.setattr(TrainLLM, "run", lambda *_: pytest.fail("the language model was tuned"))
    target, artifacts = tmp_path / "empty" / "shared", tmp_path / "empty" / "artifacts"
    llmcf("recipe", "pull", address, target, "--artifacts", artifacts, given="y\n")
    lock = target / "shared.lock.yaml"
    llmcf("run", "--locked", lock, "--artifacts", artifacts)
    assert report(artifacts, "gen-cot")["generated"] == 0
    assert reproduces(checked(target / "shared.yaml", lock, artifacts))


def test_a_text_that_is_missing_has_the_model_tuned_after_all(copy, texts, tmp_path):
    """23 of 24 texts: the tuned model writes the last one, nobody else."""
    some = tmp_path / "some.parquet"
    pq.write_table(pq.read_table(texts).slice(1), some)
    artifacts = copy / "artifacts"
    llmcf("cot", "import", some, "--artifacts", artifacts)
    done = llmcf("run", copy / "shared.yaml", "--artifacts", artifacts)
    assert "needed after all: a text that only it can write is missing" in done
    assert report(artifacts, "gen-cot")["generated"] == 1
    assert report(artifacts, "gen-cot")["cached"] == 23
    found = checked(copy / "shared.yaml", copy / "shared.lock.yaml", artifacts)
    assert {one.verdict for one in found if one.aspect in ("data", "texts")} == {"same"}


def test_the_card_tells_what_the_run_told(home, parcel):
    card = (parcel / "README.md").read_text()
    for arm in report(home / "artifacts", "evaluate")["arms"]:
        assert f"{arm['measures']['auc']['mean']:.4f}" in card
    assert "llmcf run --locked shared.lock.yaml" in card
    assert "CC-BY-4.0" in card
    assert "events.csv" in card
    assert "sends nothing" in card


def test_nothing_in_a_parcel_names_a_folder_of_this_machine(home, parcel):
    for file in parcel.rglob("*"):
        if file.is_file():
            assert str(home).encode() not in file.read_bytes(), file


def test_an_import_shows_what_it_writes_and_writes_nothing_without_a_yes(parcel, tmp_path):
    target = tmp_path / "refused"
    done = CliRunner().invoke(
        app, ["recipe", "import", str(parcel), str(target), "--artifacts", str(tmp_path / "a")], input="n\n"
    )
    assert done.exit_code == 1
    assert "events.csv" in done.output
    assert "CC-BY-4.0" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_flipped_byte_in_any_file_is_refused_with_its_name(parcel, tmp_path):
    from llmcf_cli.core.errors import DataError

    for number, file in enumerate(sorted(path for path in parcel.rglob("*") if path.is_file())):
        copied = tmp_path / f"copy{number}"
        shutil.copytree(parcel, copied)
        damaged = copied / file.relative_to(parcel)
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        with pytest.raises(DataError) as caught:
            imported(copied, tmp_path / "target")
        assert file.name in str(caught.value), caught.value
        assert caught.value.code in ("parcel-changed", "parcel-invalid")
        assert not (tmp_path / "target").exists()
        shutil.rmtree(copied)


def test_without_data_the_parcel_has_their_digests_and_says_what_to_bring(home, tmp_path):
    target = tmp_path / "small"
    done = llmcf("recipe", "export", home / "shared.yaml", target, "--without", "user",
                 "--artifacts", home / "artifacts")  # fmt: skip
    assert "events.csv: packs its digest" in done
    assert not (target / "events.csv").exists()
    assert not (target / "llmcf" / "texts.parquet").exists()
    assert "events.csv" in (target / "README.md").read_text()
