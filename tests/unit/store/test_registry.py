"""Parcels through a real container registry on loopback: pinned, resumed, and nothing sent that was not allowed."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import random
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from loopback_registry import Running, started
from refusals import refused

from llmcf_cli.core.errors import AccessError, AssetError, DataError, LlmcfError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.core.progress import SILENT
from llmcf_cli.store import oci, registry
from llmcf_cli.store.oci import Place
from llmcf_cli.store.parcel import pack
from llmcf_cli.store.parcel_source import open_parcel, take_in
from llmcf_cli.store.registry import look_where, push
from llmcf_cli.store.transfer import open_address

LARGE, PIECES = 3 << 20, 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    yield from started(tmp_path_factory.mktemp("registry"))


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMCF_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("LLMCF_CACHE", str(tmp_path / "cache" / "assets"))


def packed(folder: Path, name: str = "shop", size: int = LARGE) -> Path:
    """A parcel of three files, two of the same content."""
    (folder / "large.bin").write_bytes(random.Random(name).randbytes(size))
    (folder / "r.yaml").write_text(f"name: {name}\n")
    files = {"r.yaml": ("recipe", folder / "r.yaml"), "r.lock.yaml": ("recipe", folder / "r.yaml"),
             "data/large.bin": ("data", folder / "large.bin")}  # fmt: skip
    pack(folder / f"{name}.zip", files, SILENT, name=name, description="A shop", licence="CC0", llmcf="1",
         lock="r.lock.yaml")  # fmt: skip
    return folder / f"{name}.zip"


def allow(server) -> None:
    Permissions().allow_host(Host.of(server.host), None)


def pulled(address: str, folder: Path) -> Path:
    take_in(open_address(address, folder.with_name("work")), folder, SILENT)
    return folder


def test_what_is_pulled_is_what_was_pushed(server, tmp_path):
    parcel = open_parcel(packed(tmp_path))
    with refused("host-refused", AccessError):  # of this machine's network
        look_where(parcel, f"oci://{server.host}/team/shop")
    allow(server)
    sending = look_where(parcel, f"oci://{server.host}/team/shop")
    assert (sending.files, sending.there) == (2, 0), "the file that is there twice is one"
    assert sending.bytes == sum(size for size in {f.sha256: f.size for f in parcel.manifest.files.values()}.values())
    place = push(parcel, f"oci://{server.host}/team/shop", SILENT)
    assert str(place) == f"oci://{server.host}/team/shop@sha256:{place.digest}"
    assert look_where(parcel, f"oci://{server.host}/team/shop").files == 0
    assert push(parcel, f"oci://{server.host}/team/shop", SILENT) == place
    Permissions().forget_host(Host.of(server.host))
    with refused("host-refused", AccessError):
        open_address(str(place), tmp_path / "work")
    allow(server)
    got = pulled(str(place), tmp_path / "got")
    assert open_parcel(got).manifest == parcel.manifest
    assert (got / "data" / "large.bin").read_bytes() == (tmp_path / "large.bin").read_bytes()
    raw = httpx2.get(f"http://{server.host}/v2/team/shop/manifests/sha256:{place.digest}",
                     headers={"Accept": "application/vnd.oci.image.manifest.v1+json"})  # fmt: skip
    assert hashlib.sha256(raw.content).hexdigest() == place.digest
    titles = {one["annotations"]["org.opencontainers.image.title"]: one for one in raw.json()["layers"]}
    assert titles.keys() == {"MANIFEST.json", *parcel.manifest.files}
    for path, file in parcel.manifest.files.items():
        assert (titles[path]["digest"], titles[path]["size"]) == (f"sha256:{file.sha256}", file.size)


def test_an_address_without_a_digest_or_with_another_is_refused(server, tmp_path):
    allow(server)
    for address in (f"oci://{server.host}/team/shop", f"oci://{server.host}/team/shop:latest", "oci://", "oci://h/N@x"):
        with refused("parcel-unpinned", LlmcfError):
            open_address(address, tmp_path)
    with refused("asset-unfetchable", AssetError):
        open_address(f"oci://{server.host}/team/shop@sha256:{'0' * 64}", tmp_path)
    Permissions().allow_host(Host.of("127.0.0.1:9"), None)
    with refused("asset-unfetchable", AssetError):
        open_address(f"oci://127.0.0.1:9/team/shop@sha256:{'0' * 64}", tmp_path)


def test_changed_bytes_are_refused_by_name(server, tmp_path):
    allow(server)
    parcel = open_parcel(packed(tmp_path, "torn"))
    place = push(parcel, f"oci://{server.host}/torn", SILENT)
    blob = server.blob(parcel.manifest.files["data/large.bin"].sha256)
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + b"\0")
    with refused("parcel-changed", DataError, names="data/large.bin"):
        pulled(str(place), tmp_path / "got")
    assert not (tmp_path / "got").exists()
    blob.write_bytes(content)
    pulled(str(place), tmp_path / "got")
    whole = server.blob(place.digest)
    whole.write_bytes(whole.read_bytes().replace(b"torn", b"born"))
    with refused("parcel-changed", DataError):
        open_address(str(place), tmp_path / "work")


CHILD = """\
import sys
from pathlib import Path
from llmcf_cli.core.progress import SILENT
from llmcf_cli.store import oci, registry
from llmcf_cli.store.parcel_source import open_parcel
registry.PIECE = 1 << 18
sent = oci.Registry._ask
def told(self, method, url, **rest):
    found = sent(self, method, url, **rest)
    if method == "PUT":
        print(method, flush=True)
    return found
oci.Registry._ask = told
registry.push(open_parcel(Path(sys.argv[1])), sys.argv[2], SILENT)
"""


def test_a_push_goes_on_after_a_kill_and_sends_nothing_twice(server, tmp_path, monkeypatch):
    allow(server)
    parcel = packed(tmp_path, "killed")
    address = f"oci://{server.host}/killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(parcel), address], stdout=subprocess.PIPE)
    for _ in range(5):
        assert child.stdout.readline()
    child.send_signal(signal.SIGKILL)
    child.wait()
    sent, ask = [], oci.Registry._ask

    def counted(self, method, url, **rest):
        sent.append(len(rest.get("content") or b"") if method == "PUT" and "blobs" in url else 0)
        return ask(self, method, url, **rest)

    monkeypatch.setattr(registry, "PIECE", 1 << 18)
    monkeypatch.setattr(oci.Registry, "_ask", counted)
    place = push(open_parcel(parcel), address, SILENT)
    size = (tmp_path / "large.bin").stat().st_size
    beside = len(open_parcel(parcel).manifest.text()) + len("{}")
    there = size - (sum(sent) - beside)
    assert (1 << 18) * 4 <= there <= (1 << 18) * 8, "whole pieces that came before the kill are not sent again"
    assert (pulled(str(place), tmp_path / "got") / "data" / "large.bin").stat().st_size == size


def test_a_pull_goes_on_with_the_byte_that_it_stopped_at(server, tmp_path, monkeypatch):
    allow(server)
    monkeypatch.setattr(registry, "PIECE", PIECES)
    parcel = open_parcel(packed(tmp_path, "broken"))
    place = push(parcel, f"oci://{server.host}/broken", SILENT)
    source = open_address(str(place), tmp_path / "work")
    half = PIECES // 2
    digest = hashlib.sha256((tmp_path / "large.bin").read_bytes()[PIECES : 2 * PIECES]).hexdigest()
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / f"{digest[:16]}.part").write_bytes((tmp_path / "large.bin").read_bytes()[PIECES:][:half])
    asked, stream = [], httpx2.Client.stream

    def told(self, method, url, **rest):
        asked.append((method, (rest.get("headers") or {}).get("Range")))
        return stream(self, method, url, **rest)

    monkeypatch.setattr(httpx2.Client, "stream", told)
    with SILENT.task("pull", None, "B") as task:
        source.fetch("data/large.bin", tmp_path / "file", task)
    assert ("GET", f"bytes={half}-") in asked
    assert not list((tmp_path / "work").iterdir())
    assert (tmp_path / "file").read_bytes() == (tmp_path / "large.bin").read_bytes()


@pytest.fixture
def guarded(server, tmp_path):
    """A registry that wants a name and a password."""
    bcrypt = pytest.importorskip("bcrypt")
    (tmp_path / "users").write_text(f"me:{bcrypt.hashpw(b'secret-password', bcrypt.gensalt(4)).decode()}\n")
    running = Running(tmp_path / "guarded", f"auth: {{htpasswd: {{realm: here, path: {tmp_path / 'users'}}}}}")
    yield running
    running.process.kill()


def test_a_key_goes_only_where_it_was_allowed_to(guarded, tmp_path, monkeypatch):
    parcel, address = open_parcel(packed(tmp_path, "mine", 1000)), f"oci://{guarded.host}/mine"
    with refused("host-refused", AccessError):
        push(parcel, address, SILENT)
    monkeypatch.setenv("REGISTRY_KEY", "me:secret-password")
    Permissions().allow_host(Host.of(guarded.host), "REGISTRY_KEY")
    assert look_where(parcel, address).variable == "REGISTRY_KEY"
    place = push(parcel, address, SILENT)
    assert open_parcel(pulled(str(place), tmp_path / "got")).manifest == parcel.manifest
    monkeypatch.setenv("REGISTRY_KEY", "me:another")
    with refused("host-refused", AccessError):
        open_address(str(place), tmp_path / "work")


@contextmanager
def answering(reply):
    """A server whose answers a function makes of a request; its address, and the `Authorization` that it saw."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.headers.get("Authorization"))
            status, headers, body = reply(self)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        do_HEAD = do_GET

        def log_message(self, *_):
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{running.server_port}", seen
        running.shutdown()


def test_tokens_come_from_the_registrys_own_server_and_the_key_goes_to_nobody_else(monkeypatch):
    monkeypatch.setenv("REGISTRY_KEY", "me:secret-password")
    key = "Basic " + base64.b64encode(b"me:secret-password").decode()
    with answering(lambda _: (200, {}, json.dumps({"token": "t"}).encode())) as (tokens, asked):

        def reply(request):
            if request.headers.get("Authorization") == "Bearer t":
                return 200, {}, b""
            challenge = f'Bearer realm="http://{tokens}/token",service="s",scope="repository:a:pull"'
            return 401, {"WWW-Authenticate": challenge}, b""

        with answering(reply) as (host, seen):
            Permissions().allow_host(Host.of(host), "REGISTRY_KEY")
            with refused("host-refused", AccessError):  # the server of tokens is not allowed
                oci.Registry(Place.of(f"oci://{host}/a")).has("blobs/x")
            assert asked == []
            Permissions().allow_host(Host.of(tokens), None)
            assert oci.Registry(Place.of(f"oci://{host}/a")).has("blobs/x")
            assert asked == [key]
            assert seen[-1] == "Bearer t"
            assert key not in seen


def test_nothing_is_sent_to_a_host_that_was_not_allowed(tmp_path):
    with refused("host-refused", AccessError):
        push(open_parcel(packed(tmp_path, "shop", 1000)), "oci://registry.example.com/shop", SILENT)


@pytest.mark.parametrize(("address", "host"), [
    ("oci://localhost:5000/a", "http://localhost:5000"), ("oci://example.com/a/b", "https://example.com"),
])  # fmt: skip
def test_addresses(address, host):
    assert str(Place.of(address).host) == host
    assert str(Place.of(address)) == address
