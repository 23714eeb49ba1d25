"""The asset catalogue: what is accepted, what is refused, how catalogues merge."""

import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused

from llmcf_cli.core.errors import RecipeError
from llmcf_cli.core.hashing import digest_path, digest_text
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.store.catalogue import Asset, checked_member, load_catalogue

ZEROS = "0" * 64


def entry(**changes):
    file = {"path": "a.txt", "source": "https://example.org/a.txt", "sha256": ZEROS, "size": 1}
    return {"kind": "dataset", "description": "d", "licence": "CC0", "files": [{**file, **changes}]}


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "assets.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    "source",
    ["https://example.org/a.txt", "http://127.0.0.1:8000/a", "file:a.txt", "hf:org/repo@main/a/b.txt",
     "hf:datasets/org/repo@0123abc/data.parquet"],
)  # fmt: skip
def test_known_sources(tmp_path, source):
    assert load_catalogue(write(tmp_path, {"x": entry(source=source)}))["x"].name == "x"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"source": "ftp://example.org/a"}, "is not one of"), ({"source": "http://example.org/a"}, "not encrypted"),
        ({"source": "pypi:package/member"}, "is not one of"), ({"source": "pypi:--index-url=x==1/a"}, "is not one of"),
        ({"source": "pypi:package==1/../../etc/passwd"}, "relative path"),
        ({"source": "hf:repo@main/a"}, "is not one of"),
        ({"source": "hf:org/repo@main/../a"}, "relative path"), ({"source": "file:"}, "is not one of"),
        ({"path": "../a"}, "relative path"), ({"path": "/etc/passwd"}, "relative path"),
        ({"path": "a//b"}, "relative path"),
        ({"path": "C:\\a"}, "relative path"), ({"path": ""}, "relative path"), ({"sha256": "abc"}, "match pattern"),
        ({"size": -1}, "greater than or equal"), ({"extra": 1}, "not permitted"),
    ],
)  # fmt: skip
def test_refused_with_its_place(tmp_path, changes, what):
    path = write(tmp_path, {"x": entry(**changes)})
    with pytest.raises(RecipeError) as caught:
        load_catalogue(path)
    (problem,) = caught.value.problems
    assert what in problem.what
    assert str(problem.where).startswith(f"{path}: x.files.0.")


def test_every_problem_at_once(tmp_path):
    bad = {"x": entry(size=-1), "y": {**entry(), "kind": "song"}, "../z": entry()}
    with pytest.raises(RecipeError) as caught:
        load_catalogue(write(tmp_path, bad))
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize("size", [10**99, 2**70, "1e400"])
def test_a_size_that_no_disk_has_is_refused(tmp_path, size):
    with refused("catalogue-invalid", RecipeError):
        load_catalogue(write(tmp_path, {"x": entry(size=size)}))


def test_wheels_are_pinned_and_only_those_used(tmp_path):
    source = "pypi:package==1.0/member.txt"
    pinned = {**entry(source=source), "wheels": {"package==1.0": {"sha256": ZEROS, "size": 3}}}
    assert load_catalogue(write(tmp_path, {"x": pinned}))["x"].wheels["package==1.0"].size == 3
    for wrong in (entry(source=source), {**pinned, "wheels": {"other==1.0": {"sha256": ZEROS, "size": 3}}}):
        with refused("catalogue-invalid", RecipeError, names=r"1.*0"):
            load_catalogue(write(tmp_path, {"x": wrong}))


def test_no_yaml_and_no_mapping(tmp_path):
    path = tmp_path / "assets.yaml"
    for text in ("a: [", "- 1", "a: 1", "a: !!timestamp x", "a: !!bool x", "a: !!int x", "!!binary x", "\x00"):
        path.write_text(text)
        with pytest.raises(RecipeError):
            load_catalogue(path)
    path.write_text("")
    assert load_catalogue(path, tmp_path / "none.yaml") == {}


def test_a_catalogue_beside_the_recipe_adds_to_the_librarys(tmp_path):
    ours = write(tmp_path / "library", {"x": entry(), "y": entry()})
    theirs = write(tmp_path / "mine", {"x": {**entry(source="file:data/a.txt"), "licence": "theirs"}, "z": entry()})
    merged = load_catalogue(ours, theirs)
    assert sorted(merged) == ["x", "y", "z"]
    assert (merged["x"].licence, merged["x"].files[0].source) == ("CC0", "https://example.org/a.txt")
    alone = load_catalogue(theirs)
    assert alone["x"].files[0].source == f"file:{tmp_path / 'mine' / 'data' / 'a.txt'}"


def test_a_name_of_the_librarys_stands_for_its_bytes(tmp_path):
    ours = write(tmp_path / "library", {"x": entry(), "y": entry()})
    theirs = write(tmp_path / "mine", {"x": entry(sha256="1" * 64), "y": entry(size=2), "z": entry()})
    with pytest.raises(RecipeError) as caught:
        load_catalogue(ours, theirs)
    # Another size is the same name for the same digest, which no file has: it fails when it is fetched.
    assert [str(problem.where) for problem in caught.value.problems] == [f"{theirs}: x"]


@pytest.mark.parametrize("source", ["file:../a.txt", "file:/etc/passwd", "file:link", "file:folder/../../a.txt"])
def test_files_of_a_catalogue_lie_below_it(tmp_path, source):
    folder = tmp_path / "mine"
    path = write(folder, {"x": entry(source=source)})
    (folder / "link").symlink_to("/etc/passwd")
    with refused("catalogue-outside", RecipeError):
        load_catalogue(path)


def test_a_catalogue_of_any_size_is_refused_past_a_mebibyte(tmp_path):
    path = tmp_path / "assets.yaml"
    path.write_text("#" * (1 << 20) + "\n")
    with refused("file-limit", RecipeError):
        load_catalogue(path)


def test_digest_is_that_of_the_folder_it_becomes(tmp_path):
    names = ["b.txt", "a/z.txt", "a.txt", "a/b/c.txt", "a-1.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    files = [{"path": name, "source": f"file:{name}", "sha256": digest_text(name), "size": len(name)} for name in names]
    asset = Asset.model_validate({"name": "x", "kind": "model", "description": "", "licence": "", "files": files})
    assert asset.digest == digest_path(tmp_path)
    assert asset.size == sum(map(len, names))


@given(st.text("ab./\\:\0~ ", max_size=12))
def test_a_checked_member_stays_inside(tmp_path_factory, path):
    root = tmp_path_factory.getbasetemp()
    try:
        checked = checked_member(path)
    except ValueError:
        return
    assert (root / checked).resolve().is_relative_to(root.resolve())
    assert (root / checked).resolve() != root.resolve()


def test_the_bundled_catalogue_states_terms_and_citations():
    catalogue = load_catalogue(library_dir() / "assets.yaml")
    assert {"movielens-100k", "smollm2-135m-instruct", "minilm-l6-v2"} <= set(catalogue)
    assert all(asset.licence and asset.citation and asset.description for asset in catalogue.values())
    assert "Harper" in catalogue["movielens-100k"].citation


def _entry(path: str) -> str:
    return f'{{path: "{path}", source: "file:a", sha256: {"a" * 64}, size: 1}}'


@pytest.mark.parametrize(
    "text",
    [
        "[" + "1," * 100_000 + "]", "[" * 200_000,
        "a: {kind: dataset, description: d, licence: l, files: ["
        + ",".join(_entry(f"{n}") for n in range(2500)) + "]}",
        f"x: &x {_entry('p')}\nl: &l [" + "*x," * 2000 + "]\n"
        + "\n".join(f"b{n}: {{kind: dataset, description: d, licence: l, files: *l}}" for n in range(300)),
    ],
    ids=["values", "levels", "files", "aliases"],
)  # fmt: skip
def test_a_catalogue_that_is_work_to_read_is_refused_early(tmp_path, text):
    file = tmp_path / "assets.yaml"
    file.write_text(text)
    start = time.process_time()
    with pytest.raises(RecipeError):
        load_catalogue(file)
    assert time.process_time() - start < 10  # unguarded ones take minutes, a busy machine twice its usual time
