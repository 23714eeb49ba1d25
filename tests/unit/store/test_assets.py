"""Fetching for real: wheels through pip, files, a loopback web server; damage, kills, concurrency, hostile sources."""

import hashlib
import http.server
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from llmcf_cli.core.errors import AssetError, DataError, StoreError, UnknownNameError
from llmcf_cli.core.hashing import digest_path
from llmcf_cli.store.assets import AssetStore, Locator, cache_dir
from llmcf_cli.store.catalogue import Asset
from llmcf_cli.store.fetch import MismatchError


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def asset(name, files, wheels=None):
    """An asset from {path: (source, content it should have)}."""
    listed = [
        {"path": path, "source": source, "sha256": sha(content), "size": len(content)}
        for path, (source, content) in files.items()
    ]
    common = {"kind": "dataset", "description": "d", "licence": "CC0"}
    return Asset.model_validate({"name": name, **common, "files": listed, "wheels": wheels or {}})


class Lines:
    """Progress that remembers."""

    def __init__(self):
        self.said, self.moved, self.tasks = [], 0, []

    def say(self, text):
        self.said.append(text)

    def task(self, name, total, unit, done=0):
        self.tasks.append((name, total, unit))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def advance(self, amount=1):
        self.moved += amount

    def note(self, text):
        pass


@pytest.fixture
def store(tmp_path):
    """Make a store of the given assets in the test's own cache."""
    return lambda *assets: AssetStore({found.name: found for found in assets}, tmp_path / "cache")


@pytest.fixture
def source(tmp_path):
    """Write a file to fetch and return its `file:` source."""

    def source(name: str, content: bytes) -> str:
        path = tmp_path / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return f"file:{path}"

    return source


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
    assert folder == store.cache / "x" / store.get("x").digest[:12]
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
    with pytest.raises(UnknownNameError, match='unknown asset "xx"; did you mean "x"'):
        simple[0].get("xx")


def test_a_damaged_file_is_found_and_only_it_is_fetched_again(simple):
    store, first = simple
    folder = store.fetch("x")
    (first.parent / "b").unlink()
    (folder / "a.txt").write_bytes(b"ALPHA")
    assert store.status("x") == "damaged"
    (problem,) = store.verify("x")
    assert problem.exit_code == 4
    assert problem.where == str(folder / "a.txt")
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
    assert [problem.what for problem in store.verify("x")] == ["does not hold the declared bytes"]
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
    assert [problem.what for problem in store.verify("x")] == ["is missing"]
    assert (store.path("x") / "sub/b.txt").read_bytes() == b"beta"
    stamp = folder.with_name(f"{folder.name}.json")
    stamp.write_text("{broken")
    assert store.path("x") == folder
    assert json.loads(stamp.read_text())["a.txt"][0] == 5


def test_verify_of_what_is_not_here(simple):
    (problem,) = simple[0].verify("x")
    assert (problem.what, problem.hint) == ("is not fetched", "llmcf assets fetch x")


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
    assert caught.value.where == "asset:x"
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
    with pytest.raises(AssetError) as caught:
        x.fetch("x")
    assert "cannot be fetched" in caught.value.what
    assert "llmcf assets fetch x" in caught.value.hint


def test_a_disk_without_room_is_said_before_anything_is_fetched(store, source):
    huge = asset("x", {"a": (source("a", b"a"), b"a")})
    huge = huge.model_copy(update={"files": (huge.files[0].model_copy(update={"size": 1 << 60}),)})
    with pytest.raises(StoreError, match="the disk is full: x needs"):
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
    with pytest.raises(StoreError, match="cannot write the cache"):
        x.fetch("x")


def test_the_hub_is_not_asked_when_offline(store):
    x = store(asset("x", {"a": ("hf:org/repo@main/a.txt", b"a")}))
    with pytest.raises(AssetError) as caught:
        x.fetch("x")
    assert caught.value.where == "asset:x"
    assert "hf:org/repo@main/a.txt cannot be fetched" in caught.value.what


# ---- wheels


def build_wheel(folder: Path, members: dict[str, bytes], name="tinydata", version="1.0") -> Path:
    """A minimal valid wheel."""
    info = f"{name}-{version}.dist-info"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    texts = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in {**members, **texts}.items():
            archive.writestr(member, content)
    return path


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A folder that pip finds wheels in, and nowhere else."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel_asset(wheel: Path, members: dict[str, bytes], requirement="tinydata==1.0"):
    pinned = {requirement: {"sha256": sha(wheel.read_bytes()), "size": wheel.stat().st_size}}
    return asset("x", {m.rsplit("/", 1)[-1]: (f"pypi:{requirement}/{m}", c) for m, c in members.items()}, pinned)


MEMBERS = {"tinydata/a.txt": b"alpha" * 1000, "tinydata/b.txt": b"beta"}


def test_members_of_a_wheel(store, wheels):
    wheel = build_wheel(wheels, {**MEMBERS, "tinydata/unused.txt": b"x"})
    progress = Lines()
    folder = store(wheel_asset(wheel, MEMBERS)).fetch("x", progress)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.txt": b"alpha" * 1000,
        "b.txt": b"beta",
    }
    assert progress.tasks == [("fetch x", wheel.stat().st_size + 5004, "B")]


def test_the_wheel_is_kept_by_a_failed_fetch_and_not_downloaded_again(store, wheels):
    wheel = build_wheel(wheels, MEMBERS)
    wrong = wheel_asset(wheel, {**MEMBERS, "tinydata/none.txt": b"x"})
    with pytest.raises(AssetError, match=r"tinydata==1\.0 has no member tinydata/none\.txt"):
        store(wrong).fetch("x")
    partial = next((store(wrong).cache / "x").glob("*.partial"))
    assert (partial / "wheels" / "tinydata==1.0.whl").is_file()
    wheel.unlink()
    with pytest.raises(AssetError, match="has no member"):
        store(wrong).fetch("x")


def test_a_wheel_of_another_digest_is_refused(store, wheels):
    honest = wheel_asset(build_wheel(wheels, MEMBERS), MEMBERS)
    build_wheel(wheels, {**MEMBERS, "tinydata/extra.txt": b"swapped"})
    with pytest.raises(MismatchError, match="another digest"):
        store(honest).fetch("x")


def test_a_wheel_that_does_not_exist(store, wheels):
    made = wheel_asset(build_wheel(wheels, MEMBERS), MEMBERS)
    next(wheels.glob("*.whl")).unlink()
    with pytest.raises(AssetError) as caught:
        store(made).fetch("x")
    assert "pip cannot download tinydata==1.0" in caught.value.what
    assert "llmcf assets fetch x" in caught.value.hint


def test_hostile_members_write_nothing_outside(store, wheels, tmp_path):
    hostile = {**MEMBERS, "../../evil.txt": b"evil", "/tmp/llmcf-evil.txt": b"evil"}
    wheel = build_wheel(wheels, hostile)
    store(wheel_asset(wheel, MEMBERS)).fetch("x")
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/llmcf-evil.txt").exists()
    with pytest.raises(ValueError, match="no relative path inside a folder"):
        wheel_asset(wheel, {"../../evil.txt": b"evil"})


# ---- web


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`; can ignore ranges and can cut a transfer short."""

    content = b""
    ranges = True
    cut_after: int | None = None
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        kind, start = type(self), 0
        kind.asked.append(self.headers.get("Range"))
        if kind.ranges and (wanted := self.headers.get("Range")):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        body = kind.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if kind.cut_after is None else body[: kind.cut_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def web():
    """A loopback web server; its class holds the settings."""
    kind = type("Kind", (Server,), {"asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kind.url = f"http://127.0.0.1:{server.server_port}/a.bin"
    yield kind
    server.shutdown()
    server.server_close()


CONTENT = bytes(range(256)) * 12_000  # about 3 MB, several blocks


def test_download(store, web):
    web.content = CONTENT
    progress = Lines()
    folder = store(asset("x", {"a.bin": (web.url, CONTENT)})).fetch("x", progress)
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert web.asked == [None]


def test_a_download_cut_short_goes_on_where_it_stopped(store, web):
    web.content, web.cut_after = CONTENT, 2_500_000
    x = store(asset("x", {"a.bin": (web.url, CONTENT)}))
    with pytest.raises(AssetError, match="cannot be fetched"):
        x.fetch("x")
    assert x.status("x") == "partial"
    web.cut_after = None
    assert (x.fetch("x") / "a.bin").read_bytes() == CONTENT
    assert web.asked[0] is None
    assert int(web.asked[1].removeprefix("bytes=").removesuffix("-")) >= 1 << 20


def test_a_server_without_ranges_is_asked_again_for_the_whole(store, web):
    web.content, web.cut_after, web.ranges = CONTENT, 2_500_000, False
    x = store(asset("x", {"a.bin": (web.url, CONTENT)}))
    with pytest.raises(AssetError):
        x.fetch("x")
    web.cut_after = None
    assert (x.fetch("x") / "a.bin").read_bytes() == CONTENT
    assert web.asked[-1] is None


def test_a_download_with_other_bytes(store, web):
    web.content = CONTENT[::-1]
    x = store(asset("x", {"a.bin": (web.url, CONTENT)}))
    with pytest.raises(MismatchError):
        x.fetch("x")
    assert len(web.asked) == 2
    web.content = CONTENT
    assert (x.fetch("x") / "a.bin").read_bytes() == CONTENT


def test_an_endless_download_stops_at_the_declared_size(store, web):
    web.content = CONTENT
    x = store(asset("x", {"a.bin": (web.url, CONTENT[:1000])}))
    with pytest.raises(MismatchError):
        x.fetch("x")


def test_no_server(store, web):
    x = store(asset("x", {"a.bin": ("http://127.0.0.1:9/a", b"a")}))
    with pytest.raises(AssetError, match="cannot be fetched"):
        x.fetch("x")


# ---- processes

FETCH = """
import json, sys
from pathlib import Path
from llmcf_cli.store.assets import AssetStore
from llmcf_cli.store.catalogue import Asset
made = Asset.model_validate_json(Path(sys.argv[1]).read_text())
print(AssetStore({"x": made}, Path(sys.argv[2])).fetch("x"))
"""


def start_fetch(made, store, tmp_path):
    described = tmp_path / "asset.json"
    described.write_text(made.model_dump_json())
    command = [sys.executable, "-c", FETCH, str(described), str(store.cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_killed_fetch_resumes_with_what_it_finished(store, source, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # its reader waits: the fetch is caught between its first and its second file
    first = source("a", b"alpha")
    made = asset("x", {"a.txt": (first, b"alpha"), "b.txt": (f"file:{pipe}", b"beta")})
    x = store(made)
    process = start_fetch(made, x, tmp_path)
    finished = x.folder("x").with_name(x.folder("x").name + ".partial") / "files" / "a.txt"
    deadline = time.monotonic() + 20
    while not finished.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert x.status("x") == "partial"
    Path(first.removeprefix("file:")).unlink()
    pipe.unlink()
    pipe.write_bytes(b"beta")
    progress = Lines()
    folder = x.fetch("x", progress)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a.txt": b"alpha",
        "b.txt": b"beta",
    }
    assert progress.moved == 4


def test_two_processes_fetch_once(store, web, tmp_path):
    web.content = CONTENT
    made = asset("x", {"a.bin": (web.url, CONTENT)})
    x = store(made)
    processes = [start_fetch(made, x, tmp_path) for _ in range(3)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert {out.strip() for out, _ in outputs} == {str(x.folder("x"))}
    assert web.asked == [None]


# ---- references


def test_references(simple, tmp_path):
    store, _ = simple
    recipe, library = tmp_path / "recipe", tmp_path / "library"
    for folder, name in ((recipe, "mine.yaml"), (library, "prompts/p.yaml"), (library, "mine.yaml")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(str(folder))
    locate = Locator(recipe, store, [library])
    assert locate.path("mine.yaml") == recipe / "mine.yaml"
    assert locate.path("prompts/p.yaml") == library / "prompts/p.yaml"
    assert locate.path(str(library / "mine.yaml")) == library / "mine.yaml"
    assert locate.digest("asset:x") == store.get("x").digest
    assert locate.digest("asset:x/sub/b.txt") == sha(b"beta")
    assert store.status("x") == "absent", "a digest needs no fetch"
    assert locate.path("asset:x/sub/b.txt").read_bytes() == b"beta"
    assert locate.digest("asset:x") == locate.digest(str(locate.path("asset:x")))
    assert locate.digest("prompts") == digest_path(library / "prompts")


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
    with pytest.raises(DataError, match=r"no such file or folder: genral\.parquet .*did you mean general\.parquet"):
        locate.path("genral.parquet")
    with pytest.raises(DataError, match="no such file"):
        locate.digest("none/at/all")
    with pytest.raises(UnknownNameError, match="unknown asset"):
        locate.digest("asset:y")
    with pytest.raises(UnknownNameError, match=r'did you mean "a\.txt"'):
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
