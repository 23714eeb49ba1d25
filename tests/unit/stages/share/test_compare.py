"""Locks of library recipes, and how recipes and locks differ: with both values, and what each difference reruns."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from refusals import refused

from llmcf_cli.core.errors import RecipeError, StoreError
from llmcf_cli.core.progress import SILENT
from llmcf_cli.core.yamlfile import dump_yaml
from llmcf_cli.recipe.load import load_recipe
from llmcf_cli.stages.pipeline import open_context
from llmcf_cli.stages.share import results
from llmcf_cli.stages.share.compare import (
    lock_differences,
    refuse_differences,
    side_differences,
    side_of,
    stage_changes,
)
from llmcf_cli.stages.share.lock import Trace, lock_now, locked_recipe, read_lock, steps_of, write_lock
from llmcf_cli.stages.share.results import verify


def lock_of(recipe, tmp_path: Path):
    loaded = load_recipe(recipe)
    return lock_now(loaded, open_context(loaded, tmp_path / "artifacts"), "2026-01-01").lock


def variant(tmp_path: Path, name: str, **sections) -> str:
    file = tmp_path / f"{name}.yaml"
    file.write_text(dump_yaml({"extends": "quickstart", **sections}))
    return str(file)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    return lock_of("quickstart", tmp_path_factory.mktemp("lock"))


@pytest.mark.parametrize("ending", ["yaml", "json"])
def test_a_lock_is_read_as_it_was_written(tmp_path, quickstart, ending):
    file = tmp_path / f"q.lock.{ending}"
    write_lock(quickstart, file)
    assert read_lock(file) == quickstart
    assert locked_recipe(file, quickstart) == "quickstart"


def test_assets_are_locked_with_sources_digests_and_licences(quickstart):
    from llmcf_cli.recipe.library import library_dir

    catalogue = yaml.safe_load((library_dir() / "assets.yaml").read_text())
    assert set(quickstart.assets) == {"movielens-100k", "smollm2-135m-instruct", "minilm-l6-v2"}
    for name, asset in quickstart.assets.items():
        assert asset.licence == catalogue[name]["licence"]
        assert asset.sources == {
            file["path"]: f"{file['source']} sha256:{file['sha256']}" for file in catalogue[name]["files"]
        }


@pytest.mark.parametrize("recipe", ["quickstart", "movielens_100k/compare", "retail/shop"])
def test_the_keys_follow_from_the_lock_alone(tmp_path, recipe):
    lock = lock_of(recipe, tmp_path)
    assert {step.node.label: step.node.key for step in steps_of(lock)} == lock.stages


def test_a_lock_without_results_cannot_be_verified(quickstart):
    with refused("lock-no-results", StoreError):
        verify(quickstart, steps_of(quickstart), SILENT)


class Made:
    """Stands in for a stage that is made."""

    made = True


@pytest.mark.parametrize(
    ("here", "verdict", "parts", "largest"),
    [
        ({}, "same", 0, 0.0),
        ({"numbers": (1.0, 2.5)}, "same", 0, 0.5),  # a sum in another order, of the same bytes
        ({"parts": "1" * 16 + "0" * 240}, "parts", 1, 0.0),
        ({"rows": 9}, "parts", 0, 0.0),
        (None, "missing", 0, None),
    ],
)
def test_what_a_stage_made_is_the_same_if_its_rows_and_digests_are(monkeypatch, here, verdict, parts, largest):
    locked = Trace(aspect="weights", rows=8, parts="0" * 256, numbers=(1.0, 2.0))
    monkeypatch.setattr(results, "trace_of", lambda node: here if here is None else locked.model_copy(update=here))
    found = results.compared("train-rec", locked, Made())
    assert (found.verdict, found.parts, found.largest) == (verdict, parts, largest)


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"format": 2}, "format"), ({"stages": {"ingest": "x"}}, "stages"), ({"more": 1}, "more"),
        ({"measures": {"none": {"auc": {"value": float("nan"), "tolerance": 0.1}}}}, "measures"),
        ({"traces": {"ingest": {"aspect": "other", "rows": 1, "parts": ""}}}, "traces"),
    ],
)  # fmt: skip
def test_what_is_no_lock_is_refused_with_its_place(tmp_path, quickstart, change, names):
    file = tmp_path / "q.lock.yaml"
    file.write_text(dump_yaml({**quickstart.model_dump(mode="json"), **change}))
    with refused("lock-invalid", RecipeError, names=names):
        read_lock(file)


@pytest.mark.parametrize("recipe", ["../other.yaml", "/etc/passwd", "none.yaml", "library:none"])
def test_a_lock_names_no_recipe_elsewhere(tmp_path, quickstart, recipe):
    (tmp_path.parent / "other.yaml").write_text("extends: quickstart\n")
    with refused("path-missing", RecipeError):
        locked_recipe(tmp_path / "q.lock.yaml", quickstart.model_copy(update={"recipe": recipe}))


def test_every_difference_from_a_lock_is_named_with_both_values(tmp_path, quickstart):
    here = lock_of(variant(tmp_path, "mine", match={"k": 6}, seed=7), tmp_path)
    found = {(one.kind, one.name): (one.before, one.after) for one in lock_differences(quickstart, here)}
    assert found["setting", "match.k"] == (4, 6)
    assert found["setting", "seed"] == (2024, 7)
    assert not [kind for kind, _ in found if kind == "stage"], "settings explain the keys"
    with refused("lock-setting", RecipeError, names=r"match\.k is 6 here, but 4 in the lock"):
        refuse_differences(lock_differences(quickstart, here), tmp_path / "q.lock.yaml")


def test_a_key_that_nothing_else_explains_is_a_difference(quickstart):
    other = quickstart.model_copy(update={"stages": {**quickstart.stages, "match": "0" * 64}})
    (found,) = lock_differences(quickstart, other)
    assert (found.kind, found.name, found.after) == ("stage", "match", "0" * 64)


def test_pythons_third_number_does_not_matter_and_its_second_does(quickstart):
    def python(version):
        return quickstart.model_copy(update={"versions": {**quickstart.versions, "python": version}})

    assert lock_differences(python("3.11.7"), python("3.11.9")) == []
    (found,) = lock_differences(python("3.11.7"), python("3.12.7"))
    assert (found.kind, found.before, found.after) == ("version", "3.11", "3.12")


CHANGES = [
    {"match": {"k": 6}}, {"seed": 1}, {"rec": {"fit": {"epochs": 3}}}, {"cot": {"engine": {"max_new_tokens": 32}}},
    {"rec": {"backbone": {"type": "din"}}}, {"dataset": {"label": {"positive_from": 5}}}, {"description": "other"},
    {"rec": {"fit": {"evaluation_batch_size": 64}}}, {"cot": {"prompt": "prompts/no_label.yaml"}},
    {"match": {"space": {"encoder": {"type": "hashing", "dim": 64}}}},
    {"llm": {"count": 9}, "match": {"balance": "none"}},
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_differences_rerun_exactly_the_stages_whose_keys_change(tmp_path, change):
    one, other = side_of("quickstart", tmp_path), side_of(variant(tmp_path, "mine", **change), tmp_path)
    found = side_differences(one, other)
    changed, new, gone = stage_changes(one, other)
    told = {label for difference in found for label in difference.reruns}
    assert told - set(new) == set(changed)
    assert bool(new) == bool(gone) == ("seed" in change), "the stages of another seed are others"
    written = {difference.name: difference.origin_after for difference in found if difference.kind == "setting"}
    assert all("mine.yaml:" in origin or origin in ("default", "") for origin in written.values())


def test_a_lock_and_its_recipe_do_not_differ_and_a_lock_differs_as_its_recipe_does(tmp_path, quickstart):
    file = tmp_path / "q.lock.yaml"
    write_lock(quickstart, file)
    lock, mine = side_of(str(file)), variant(tmp_path, "mine", match={"k": 6})
    assert side_differences(lock, side_of("quickstart", tmp_path)) == []
    one, other = (side_differences(side, side_of(mine, tmp_path)) for side in (lock, side_of("quickstart", tmp_path)))
    assert [(d.name, d.before, d.after, d.reruns) for d in one] == [
        (d.name, d.before, d.after, d.reruns) for d in other
    ]
    assert {d.origin_before for d in one if d.name == "match.k"} == {str(file)}


def test_the_content_of_a_file_is_a_difference_that_reruns_what_reads_it(tmp_path):
    from llmcf_cli.recipe.library import library_dir

    text = (library_dir() / "prompts" / "single.yaml").read_text()
    sides = []
    for name, more in (("one", ""), ("two", "# another\n")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "p.yaml").write_text(more + text)
        sides.append(side_of(variant(folder, "r", cot={"prompt": "p.yaml"}), tmp_path))
    (found,) = side_differences(*sides)
    assert (found.kind, found.name) == ("content", "p.yaml")
    assert set(found.reruns) == set(stage_changes(*sides)[0])
    assert found.reruns[0] == "gen-cot"
