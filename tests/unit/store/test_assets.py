"""The life of an asset: fetched, verified, mended, refused; and what references mean."""

import json
import os
import shutil
from pathlib import Path

import pytest
from asset_world import Lines, asset, sha
from refusals import refused

from llmcf_cli.core.errors import AccessError, AssetError, DataError, StoreError, UnknownNameError
from llmcf_cli.core.hashing import digest_path
from llmcf_cli.core.permissions import Readable
from llmcf_cli.store.assets import AssetStore, Locator, cache_dir
from llmcf_cli.store.fetch import MismatchError


@pytest.fixture
def simple(store, source):
    """A store with the asset `x` of two files, and where its first file comes from."""
    first = source("a", b"alpha")
    made = asset("x", {"a.txt": (first, b"alpha"), "sub/b.txt": (source("b", b"beta"), b"beta")})
    return store(made), Path(first.removeprefix("file:"))


# ---- life of an asset


def test_fetch_verify_use(simple):
    store, first = simple
    assert store.status("x") == "absent"
    progress = Lines()
    folder = store.path("x", progress)
    assert (folder / "a.txt").read_bytes() == b"alpha"
    assert (folder / "sub/b.txt").read_bytes() == b"beta"
    assert folder == store.cache / "x" / store.get("x").digest
    assert digest_path(folder) == store.get("x").digest
    assert store.status("x") == "ready"
    assert store.verify("x") == ()
    assert progress.tasks == [("fetch x", 9, "B")]
    assert progress.moved == 9
    assert sorted(path.name for path in (store.cache / "x").iterdir() if path.name != ".lock") == [
        folder.name, f"{folder.name}.json"
    ]  # fmt: skip
    shutil.rmtree(first.parent)
    assert store.path("x") == store.fetch("x") == folder, "offline after the first time"


def test_unknown_asset(simple):
    with refused("unknown-name", UnknownNameError, names='"xx".*"x"'):
        simple[0].get("xx")


def test_a_damaged_file_is_found_and_only_it_is_fetched_again(simple):
    store, first = simple
    folder = store.fetch("x")
    (first.parent / "b").unlink()
    (folder / "a.txt").write_bytes(b"ALPHA")
    assert store.status("x") == "damaged"
    (problem,) = store.verify("x")
    assert problem.exit_code == 4
    assert str(problem.where) == str(folder / "a.txt")
    assert problem.hint == "llmcf assets fetch x"
    progress = Lines()
    assert (store.path("x", progress) / "a.txt").read_bytes() == b"alpha"
    assert progress.said == ["x: a.txt is damaged; fetching it again"]
    assert progress.moved == 5
    assert store.status("x") == "ready"


def test_damage_that_keeps_size_and_time_is_found_by_verify_and_then_mended(simple):
    store, _ = simple
    path = store.fetch("x") / "a.txt"
    before = path.stat()
    path.write_bytes(b"ALPHA")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert store.status("x") == "ready"
    assert [problem.code for problem in store.verify("x")] == ["asset-changed"]
    assert store.status("x") == "damaged"
    assert (store.path("x") / "a.txt").read_bytes() == b"alpha"


def test_a_touched_file_is_verified_not_fetched(simple):
    store, first = simple
    folder = store.fetch("x")
    os.utime(folder / "a.txt")
    assert store.status("x") == "damaged"
    shutil.rmtree(first.parent)
    assert store.path("x") == folder
    assert store.status("x") == "ready"


def test_deleted_files_and_stamps_are_mended(simple):
    store, _ = simple
    folder = store.fetch("x")
    (folder / "sub/b.txt").unlink()
    assert [problem.code for problem in store.verify("x")] == ["asset-file-missing"]
    assert (store.path("x") / "sub/b.txt").read_bytes() == b"beta"
    stamp = folder.with_name(f"{folder.name}.json")
    stamp.write_text("{broken")
    assert store.path("x") == folder
    assert json.loads(stamp.read_text())["a.txt"][0] == 5


def test_verify_of_what_is_not_here(simple):
    (problem,) = simple[0].verify("x")
    assert (problem.code, problem.hint) == ("asset-absent", "llmcf assets fetch x")


def test_another_digest_is_another_folder(simple, store, source):
    old = simple[0].fetch("x")
    new = store(asset("x", {"a.txt": (source("a", b"gamma"), b"gamma")}))
    assert new.status("x") == "absent"
    assert new.fetch("x") != old
    assert (old / "a.txt").read_bytes() == b"alpha"


# ---- sources that fail


def test_wrong_bytes_are_fetched_once_more_and_then_refused(store, source):
    x = store(asset("x", {"good": (source("g", b"good"), b"good"), "bad": (source("b", b"evil"), b"nice")}))
    progress = Lines()
    with pytest.raises(MismatchError) as caught:
        x.fetch("x", progress)
    assert str(caught.value.where) == "asset:x"
    assert len(progress.said) == 1
    assert x.status("x") == "partial"
    files = x.folder("x").with_name(x.folder("x").name + ".partial") / "files"
    assert [path.name for path in files.iterdir()] == ["good"], "what is verified is kept, nothing else"


def test_more_bytes_than_declared_are_not_read(store, source):
    x = store(asset("x", {"a": (source("a", b"x" * 3_000_000), b"x" * 10)}))
    progress = Lines()
    with pytest.raises(MismatchError):
        x.fetch("x", progress)
    assert progress.moved == 0


def test_missing_source_names_the_command(store, tmp_path):
    x = store(asset("x", {"a": (f"file:{tmp_path / 'none'}", b"a")}))
    with refused("asset-unfetchable", AssetError) as caught:
        x.fetch("x")
    assert "llmcf assets fetch x" in caught.value.hint


def test_a_disk_without_room_is_said_before_anything_is_fetched(store, source):
    huge = asset("x", {"a": (source("a", b"a"), b"a")})
    huge = huge.model_copy(update={"files": (huge.files[0].model_copy(update={"size": 1 << 60}),)})
    with refused("disk-full", StoreError):
        store(huge).fetch("x")


def test_a_write_to_a_full_device(store, source, monkeypatch):
    import llmcf_cli.store.fetch as fetch

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch, "copy_verified", full)
    with pytest.raises(StoreError) as caught:
        store(asset("x", {"a": (source("a", b"a"), b"a")})).fetch("x")
    assert caught.value.exit_code == 6
    assert "LLMCF_CACHE" in caught.value.hint


def test_a_cache_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    x = AssetStore({"x": asset("x", {"a": (source("a", b"a"), b"a")})}, tmp_path / "file")
    with refused("cache-unwritable", StoreError):
        x.fetch("x")


def test_the_hub_is_not_asked_when_offline(store):
    x = store(asset("x", {"a": ("hf:org/repo@main/a.txt", b"a")}))
    with refused("asset-unfetchable", AssetError, names="hf:org/repo@main/a.txt") as caught:
        x.fetch("x")
    assert str(caught.value.where) == "asset:x"


# ---- references


def test_references(simple, tmp_path):
    store, _ = simple
    recipe, library = tmp_path / "recipe", tmp_path / "library"
    for folder, name in ((recipe, "mine.yaml"), (library, "prompts/p.yaml"), (library, "mine.yaml")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(folder))
    locate = Locator(recipe, store, [library], allowed=Readable([recipe, library, store.cache]))
    assert locate.path("mine.yaml") == recipe / "mine.yaml"
    assert locate.path("prompts/p.yaml") == library / "prompts/p.yaml"
    assert locate.path(str(library / "mine.yaml")) == library / "mine.yaml"
    assert locate.digest("asset:x") == store.get("x").digest
    assert locate.digest("asset:x/sub/b.txt") == sha(b"beta")
    assert store.status("x") == "absent", "a digest needs no fetch"
    assert locate.path("asset:x/sub/b.txt").read_bytes() == b"beta"
    assert locate.digest("asset:x") == locate.digest(str(locate.path("asset:x")))
    assert locate.digest("prompts") == digest_path(library / "prompts")


def test_files_elsewhere_are_not_read(simple, tmp_path):
    secret = tmp_path / "home" / "id"
    secret.parent.mkdir()
    secret.write_text("private")
    folder = tmp_path / "recipe"
    (folder / "data").mkdir(parents=True)
    (folder / "link").symlink_to(secret)
    (folder / "data" / "link").symlink_to(secret.parent)
    locate = Locator(folder, simple[0], allowed=Readable([folder]))
    for name in ("../home/id", str(secret), "link", "data", "data/link/id", "data/../../home"):
        for ask in (locate.path, locate.digest):
            with pytest.raises(AccessError) as error:
                ask(name)
            assert f"--allow-read '{secret}'" in error.value.hint or f"'{secret.parent}'" in error.value.hint
    assert [type(problem) for problem in locate.check(["link"])] == [AccessError]
    assert Locator(folder, simple[0], allowed=Readable([folder, secret])).path("link") == folder / "link"
    assert Locator(folder, simple[0], allowed=Readable([folder, secret.parent])).path("data").is_dir()


def test_digests_are_computed_once(simple, tmp_path):
    path = tmp_path / "data.txt"
    path.write_text("one")
    locate = Locator(tmp_path, simple[0])
    before = locate.digest("data.txt")
    path.write_text("two")
    assert locate.digest("data.txt") == locate.digest(str(path)) == before
    assert Locator(tmp_path, simple[0]).digest("data.txt") != before


def test_wrong_references(simple, tmp_path):
    (tmp_path / "general.parquet").write_text("")
    locate = Locator(tmp_path, simple[0])
    with refused("path-missing", DataError, names=r"genral\.parquet.*general\.parquet"):
        locate.path("genral.parquet")
    with refused("path-missing", DataError):
        locate.digest("none/at/all")
    with refused("unknown-name", UnknownNameError):
        locate.digest("asset:y")
    with refused("unknown-name", UnknownNameError, names=r'"a\.txt"'):
        locate.path("asset:x/b.txt")
    found = locate.check(["asset:x", "asset:y", "gone", "general.parquet", "gone"])
    assert [type(problem) for problem in found] == [UnknownNameError, DataError]


def test_the_cache_can_be_placed(monkeypatch, tmp_path):
    monkeypatch.setenv("LLMCF_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path / "assets"
    monkeypatch.delenv("LLMCF_CACHE")
    assert cache_dir().parts[-2:] == ("llmcf", "assets")


# ---- the real ones


@pytest.mark.parametrize("name", ["movielens-100k", "minilm-l6-v2", "smollm2-135m-instruct"])
def test_the_bundled_assets_can_be_fetched_and_hold_what_they_declare(assets, name):
    from llmcf_cli.recipe.library import library_dir
    from llmcf_cli.store.assets import open_assets

    folder = assets.path(f"asset:{name}")
    store = open_assets(library_dir())
    assert folder == store.folder(name)
    assert store.verify(name) == ()


def test_a_folder_named_by_a_short_digest_is_taken_over_if_it_is_whole(simple):
    store, _ = simple
    folder = store.fetch("x")
    earlier = folder.with_name(folder.name[:12])
    folder.rename(earlier)
    (folder.parent / f"{folder.name}.json").unlink()
    names = sorted(path.name for path in earlier.iterdir())
    (earlier / names[0]).write_bytes(b"of another asset")
    assert store.fetch("x") == folder
    assert not store.verify("x")
    assert not earlier.exists()


def test_the_home_of_nobody_is_an_error(simple, tmp_path):
    assert [type(problem) for problem in Locator(tmp_path, simple[0]).check(["~nosuchuser/x"])] == [DataError]
