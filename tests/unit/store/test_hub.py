"""Parcels on a hub: the hub's own client against a stand-in for its API, by commit and digest."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from llmcf_cli.core.progress import SILENT
from llmcf_cli.store.parcel import pack

WORK = """\
import sys
from pathlib import Path
from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.core.progress import SILENT
from llmcf_cli.store import hub
from llmcf_cli.store.parcel_source import open_parcel, take_in
from llmcf_cli.store.transfer import open_address
folder = Path(sys.argv[1])

def code(work, *given):
    try:
        return work(*given)
    except LlmcfError as error:
        return error.code

def pull(address, name):
    source = open_address(address, folder / "work")
    take_in(source, folder / name, SILENT)
    return source.manifest.digest
"""


class Hub:
    """A hub with one repository, kept in memory.

    Attributes:
        commits: Commit → file → content.
        stored: Digest → content of large files, which are no part of a commit's request (git-lfs).
        large: Bytes from which a file is large.
        full: Digest of a large file that is not taken.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.stored: dict[str, bytes] = {}
        self.large, self.full = 1 << 40, ""
        self.seen: list[tuple[str, str, str | None]] = []
        self.token, hub = "", self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self, status, body=b"", headers=()):
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **dict(headers)}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_POST(self):
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.seen.append((self.command, self.path, self.headers.get("Authorization")))
                if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    self.answer(401, b"{}")
                    return
                self.answer(200, json.dumps(hub.posted(self.path, content)).encode(),
                            {"Content-Type": "application/json"})  # fmt: skip

            def do_PUT(self):
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.seen.append((self.command, self.path, self.headers.get("Authorization")))
                digest = self.path.rpartition("/")[2]
                if digest == hub.full:
                    self.answer(403, b"full")
                    return
                assert hashlib.sha256(content).hexdigest() == digest
                hub.stored[digest] = content
                self.answer(200)

            def do_GET(self):
                hub.seen.append((self.command, self.path, self.headers.get("Authorization")))
                found = re.fullmatch(r"/datasets/me/shop/resolve/([0-9a-f]{40})/(.+)", self.path)
                files = hub.commits.get(found[1], {}) if found else {}
                if found is None or found[2] not in files:
                    self.answer(404, headers={"X-Error-Code": "EntryNotFound"})
                    return
                body = files[found[2]]
                etag = hashlib.sha256(body).hexdigest()
                self.answer(200, body, {"ETag": f'"{etag}"', "X-Repo-Commit": found[1]})

            do_HEAD = do_GET

            def log_message(self, *_):
                return

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def posted(self, path: str, content: bytes):
        if path == "/api/repos/create":
            return {"url": f"{self.address}/datasets/me/shop", "id": "me/shop"}
        if path == "/api/validate-yaml":
            return {"warnings": [], "errors": []}
        if path == "/api/datasets/me/shop/preupload/main":
            asked = json.loads(content)["files"]
            return {"files": [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] >= self.large else "regular",
                 "shouldIgnore": False} for f in asked
            ]}  # fmt: skip
        if path == "/datasets/me/shop.git/info/lfs/objects/batch":
            return {"transfer": "basic", "objects": [self.object(one) for one in json.loads(content)["objects"]]}
        if path == "/lfs/verify":
            return {}
        if path == "/api/datasets/me/shop/commit/main":
            lines = [json.loads(line) for line in content.splitlines()]
            before = [*self.commits.values()][-1] if self.commits else {}
            files = {l["value"]["path"]: base64.b64decode(l["value"]["content"]) for l in lines if l["key"] == "file"}  # noqa: E741
            files |= {l["value"]["path"]: self.stored[l["value"]["oid"]] for l in lines if l["key"] == "lfsFile"}  # noqa: E741
            sha = hashlib.sha1(content, usedforsecurity=False).hexdigest()
            self.commits[sha] = {**before, **files}
            return {"commitUrl": f"{self.address}/datasets/me/shop/commit/{sha}", "commitOid": sha, "success": True}
        raise AssertionError(path)

    def object(self, asked):
        """How a large file is to be sent; nothing to do for one that is there."""
        actions = {"upload": {"href": f"{self.address}/lfs/{asked['oid']}"},
                   "verify": {"href": f"{self.address}/lfs/verify"}}  # fmt: skip
        return asked if asked["oid"] in self.stored else {**asked, "actions": actions}


@pytest.fixture
def hub():
    running = Hub()
    yield running
    running.server.shutdown()


def packed(folder: Path) -> Path:
    (folder / "r.yaml").write_text("name: shop\n")
    (folder / "large.bin").write_bytes(os.urandom(100_000))
    files = {"r.yaml": ("recipe", folder / "r.yaml"), "r.lock.yaml": ("recipe", folder / "r.yaml"),
             "README.md": ("card", folder / "r.yaml"), "data/large.bin": ("data", folder / "large.bin")}  # fmt: skip
    pack(folder / "shop.zip", files, SILENT, name="shop", description="A shop", licence="CC0", llmcf="1",
         lock="r.lock.yaml")  # fmt: skip
    return folder / "shop.zip"


def run(hub: Hub, folder: Path, script: str, **more: str) -> list[str]:
    """What a process prints that has the hub's address from the start, as huggingface_hub reads it once."""
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "LLMCF_CONFIG": str(folder / "config"),
                   "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **more}  # fmt: skip
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run([sys.executable, "-c", WORK + script, str(folder)], env=environment, capture_output=True,
                          text=True, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_what_is_pulled_is_what_was_pushed_by_commit_and_digest(hub, tmp_path):
    packed(tmp_path)
    hub.token = "a-token-of-the-hub"
    first, address, digest = run(hub, tmp_path, f"""
parcel = open_parcel(folder / "shop.zip")
print(code(hub.push, parcel, "hf://datasets/me/shop", SILENT))
Permissions().allow_host(Host.of("{hub.address}"), "MY_TOKEN")
print(hub.push(parcel, "hf://datasets/me/shop", SILENT))
print(parcel.manifest.digest)
""", MY_TOKEN=hub.token)  # fmt: skip
    assert first == "host-refused"
    assert {sent for method, _, sent in hub.seen if method == "POST"} == {f"Bearer {hub.token}"}
    (commit,) = hub.commits
    assert address == f"hf://datasets/me/shop@{commit}#sha256={digest}"
    later = "f" * 40
    changed = {**hub.commits[commit], "data/large.bin": b"\0" * 100_000}
    hub.commits |= {later: changed, "e" * 40: {"MANIFEST.json": b"{}"}}
    pulled, *codes = run(hub, tmp_path, f"""
print(pull("{address}", "got"))
for other in ("hf://datasets/me/shop#sha256={digest}", "hf://datasets/me/shop@main#sha256={digest}",
              "hf://datasets/me/shop@{commit}", "hf://datasets/me/shop@{commit}#sha256={'0' * 64}",
              "hf://datasets/me/shop@{'d' * 40}#sha256={digest}", "hf://datasets/me/shop@{'e' * 40}#sha256={digest}",
              "hf://datasets/me/shop@{later}#sha256={digest}"):
    print(code(pull, other, "other"))
""")  # fmt: skip
    assert pulled == digest
    assert (tmp_path / "got" / "data" / "large.bin").read_bytes() == (tmp_path / "large.bin").read_bytes()
    assert codes == ["parcel-unpinned", "parcel-unpinned", "parcel-unpinned", "parcel-other", "asset-unfetchable",
                     "parcel-changed", "parcel-changed"]  # fmt: skip
    assert not (tmp_path / "other").exists()


def test_large_files_go_by_lfs_without_the_key_and_none_is_sent_twice(hub, tmp_path):
    """The second of two large files is refused; the push that goes on sends that one alone."""
    for name in ("large", "other"):
        (tmp_path / f"{name}.bin").write_bytes(os.urandom(300_000))
    (tmp_path / "r.yaml").write_text("name: shop\n")
    files = {"r.yaml": ("recipe", tmp_path / "r.yaml"), "r.lock.yaml": ("recipe", tmp_path / "r.yaml"),
             **{f"data/{one}.bin": ("data", tmp_path / f"{one}.bin") for one in ("large", "other")}}  # fmt: skip
    pack(tmp_path / "shop.zip", files, SILENT, name="shop", description="A shop", licence="CC0", llmcf="1",
         lock="r.lock.yaml")  # fmt: skip
    hub.token, hub.large = "a-token-of-the-hub", 100_000
    of = {name: hashlib.sha256((tmp_path / f"{name}.bin").read_bytes()).hexdigest() for name in ("large", "other")}
    hub.full = of["other"]
    script = f"""
parcel = open_parcel(folder / "shop.zip")
Permissions().allow_host(Host.of("{hub.address}"), "MY_TOKEN")
print(code(hub.push, parcel, "hf://datasets/me/shop", SILENT))
"""
    more = {"MY_TOKEN": hub.token, "HF_HUB_DISABLE_XET": "1"}
    (refused,) = run(hub, tmp_path, script, **more)
    assert refused == "asset-unfetchable"
    assert not hub.commits
    before = set(hub.stored)
    assert before <= {of["large"]}
    hub.full = ""
    hub.seen.clear()
    (address,) = run(hub, tmp_path, script, **more)
    sent = [path.rpartition("/")[2] for method, path, _ in hub.seen if method == "PUT"]
    assert sorted(sent) == sorted(set(of.values()) - before)
    assert {key for method, _, key in hub.seen if method == "PUT"} == {None}
    (pulled,) = run(hub, tmp_path, f'print(pull("{address}", "got"))', **more)
    assert address.endswith(pulled)
    for name in of:
        assert (tmp_path / "got" / "data" / f"{name}.bin").read_bytes() == (tmp_path / f"{name}.bin").read_bytes()
