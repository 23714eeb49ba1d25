"""A key that was allowed a server is in nothing that a run leaves, whatever the server does with it."""

from __future__ import annotations

import html
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote

import commands
import pytest

from llmcf_cli.core.permissions import Host, Permissions

CANARY = "canary-4711"
KEY = f"""sk-{CANARY}/a+b="q"&'x'<y>"""
RECIPE = """\
extends: base.yaml
name: canary
cot:
  sample: {{count: 20}}
  judge: {{type: rubric, min_words: 1, min_coherence: 0, max_echo: 1, truncated: keep}}
  engine: {{type: openai, model: m, base_url: "{url}", retries: 0, timeout: 20, concurrency: 1}}
rec:
  backbone: {{type: deepfm, embedding_dim: 4, hidden: [8]}}
"""


def said(headers: dict[str, str]) -> str:
    return f"refused: {headers} {json.dumps(headers)}"


def chosen(text: object) -> dict:
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}]}


Behaviour = Callable[[dict[str, str]], tuple[int, object, dict[str, str]]]
FATAL: dict[str, Behaviour] = {
    "401": lambda h: (401, {"error": {"message": said(h), "headers": h}}, {}),
    "403 as a text": lambda h: (403, said(h), {}),
    "404": lambda h: (404, {"error": {"message": said(h), "code": "model_not_found"}}, {}),
    "redirect": lambda h: (307, "", {"Location": f"http://127.0.0.1:9/?{quote(h['Authorization'], safe='')}"}),
}
OF_A_ROW: list[Behaviour] = [
    lambda h: (400, {"error": h}, {}),
    lambda h: (400, {"error": {"detail": json.dumps(h)}}, {}),
    lambda h: (429, {"error": {"message": said(h)}}, {"X-Echo": h["Authorization"]}),
    lambda h: (500, f"<h1>{html.escape(said(h))}</h1>", {"Content-Type": "text/html"}),
    lambda h: (200, {"error": h}, {}),
    lambda h: (200, {"echo": h}, {}),
    lambda h: (200, {"choices": [h]}, {}),
    lambda h: (200, {"choices": [{"message": {"content": "", "refusal": said(h)}}]}, {}),
    lambda h: (200, f"{{{said(h)}", {}),
    lambda h: (200, chosen(f"I think yes, as your key is {h['Authorization']} {json.dumps(h)}"), {}),
]


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.title(): value for name, value in self.headers.items()}
            running.asked.append(headers)  # type: ignore[attr-defined]
            status, body, more = running.behaviour(headers)  # type: ignore[attr-defined]
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **more}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.asked = []  # type: ignore[attr-defined]
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def data(write_ratings, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("canary")
    write_ratings(folder, users=14, items=12)
    return folder


def leaks(*folders: Path) -> list[str]:
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return [str(file) for file in files if CANARY.encode() in file.read_bytes()]


@pytest.mark.parametrize("name", [*FATAL, "each row another way"])
def test_no_output_log_artifact_or_cache_holds_the_key(data, server, tmp_path, monkeypatch, name):
    ways = itertools.cycle(OF_A_ROW if name not in FATAL else [FATAL[name]])
    server.behaviour = lambda headers: next(ways)(headers)
    url = f"http://127.0.0.1:{server.server_port}/v1"
    (data / "recipe.yaml").write_text(RECIPE.format(url=url))
    places = {"LLMCF_CONFIG": "config", "LLMCF_CACHE": "cache", "XDG_CACHE_HOME": "more", "TMPDIR": "tmp"}
    for place in places.values():
        (tmp_path / place).mkdir()
    env = {key: str(tmp_path / place) for key, place in places.items()} | {"THE_KEY": KEY}
    artifacts = tmp_path / "artifacts"
    monkeypatch.setenv("LLMCF_CONFIG", env["LLMCF_CONFIG"])
    Permissions().allow_host(Host.of(url), "THE_KEY")

    command = ["gen-cot", str(data / "recipe.yaml"), "--artifacts", str(artifacts)]
    if name in FATAL:
        made = commands.llmcf(*command, **env)
    else:  # from the start of the process, as libraries look for their folders when they are imported
        made = subprocess.run([sys.executable, "-m", "llmcf_cli", *command], env={**os.environ, **env},
                              capture_output=True, text=True, check=False)  # fmt: skip
    assert CANARY not in made.stdout + made.stderr
    assert "Traceback" not in made.stderr
    assert {asked.get("Authorization") for asked in server.asked} == {f"Bearer {KEY}"}, made.stderr
    assert bool(made.returncode) == (name in FATAL)
    if not made.returncode:
        assert any(b"***" in file.read_bytes() for file in artifacts.rglob("*") if file.is_file())
        assert "set aside" in made.stdout
    assert leaks(tmp_path) == []
