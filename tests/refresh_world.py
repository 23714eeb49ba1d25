"""A tiny shop whose recipe trains in seconds without a language model, and rows that come later."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from typer.testing import CliRunner

from llmcf_cli.cli.app import app
from llmcf_cli.cli.console import console

WORDS = ["red", "blue", "cold", "warm", "fast", "slow", "old", "new", "deep", "high"]
RECIPE = """\
name: shop
description: A tiny shop.
seed: 1
dataset:
  source: {type: csv, interactions: events.csv, items: items.csv, columns: {time: t, rating: rating}}
  label: {type: rating, positive_from: 3}
  split: {type: fixed_cut, validation_from: 600, test_from: 750}
  history: {max_length: 5}
  text: {item: "{{title}}", user: ""}
  features: {item: {genre: categorical}}
  conflicts: {items: last}
  limits: {per_class: 0, unjoined: 1, empty_histories: 1}
cot:
  sample: {fraction: 0.5}
  engine: {type: facts}
  judge: {type: rubric, min_words: 1, min_coherence: 0, max_echo: 1}
match:
  space: {type: text, encoder: {type: hashing}, history_weight: 0.5, item_weight: 0.5}
  k: 2
rec:
  backbone: {type: deepfm, embedding_dim: 4, hidden: [8]}
  augment: ict
  fit: {epochs: 1, batch_size: 64}
serve: {reasoning: true}
"""
LATER = [("u1", "i20", 5, 1000), ("u2", "i21", 4, 1001), ("new", "i3", 5, 1002), ("u1", "i4", 2, 1003)]


def first_events(seed: int = 3) -> list[tuple[str, str, int, int]]:
    """The rows that the model is trained on; none later than 900."""
    chance = random.Random(seed)
    pairs = {(chance.randrange(30), chance.randrange(20)): chance.randint(1, 900) for _ in range(320)}
    return [(f"u{u}", f"i{i}", chance.randint(1, 5), t) for (u, i), t in sorted(pairs.items())]


def item(number: int, genre: str = "", title: str = "") -> tuple[str, str, str]:
    """A row of the table of items."""
    chance = random.Random(number)
    return f"i{number}", title or " ".join(chance.sample(WORDS, 3)), genre or "abc"[number % 3]


def write_events(path: Path, rows: list[tuple[str, str, int, int]]) -> Path:
    """Write a table of interactions."""
    path.write_text("\n".join(["user_id,item_id,rating,t", *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def write_items(path: Path, rows: list[tuple[str, str, str]]) -> Path:
    """Write a table of items."""
    path.write_text("\n".join(["item_id,title,genre", *map(",".join, rows)]) + "\n")
    return path


def write_shop(folder: Path) -> Path:
    """Write the shop's files, and `more.csv` and `more_items.csv`; the recipe."""
    write_events(folder / "events.csv", first_events())
    write_items(folder / "items.csv", [item(n) for n in range(20)])
    write_events(folder / "more.csv", LATER)
    write_items(folder / "more_items.csv", [item(20), item(21, genre="z")])
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder / "recipe.yaml"


def invoke(*words):
    """Run a command; what it said."""
    console.cache_clear()  # it keeps the stream and width that it was made with
    try:
        done = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "200"}, catch_exceptions=False)
    finally:
        console.cache_clear()
    assert done.exit_code == 0, done.output
    return done.output


def refresh(folder, *words):
    """Refresh a folder's shop."""
    return invoke("refresh", folder / "recipe.yaml", "--artifacts", folder / "artifacts", *words)


def bundle(folder, stage="refresh") -> Path:
    """The one bundle that a stage made."""
    (found,) = (folder / "artifacts" / stage).glob("*/bundle")
    return found


def contents(folder):
    """File → digest, of all files but locks."""
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix not in (".lock", ".pid")
    }


def killed_at(folder: Path, line: str, *words) -> None:
    """Add the later rows in a process of its own, and kill it a random moment after a line that begins so."""
    command = [sys.executable, "-m", "llmcf_cli", "refresh", folder / "recipe.yaml", "--artifacts",
               folder / "artifacts", "--add", folder / "more.csv", "--items", folder / "more_items.csv",
               *words]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}) as run:
        for said in run.stdout:
            if said.startswith(line):
                break
        with suppress(subprocess.TimeoutExpired):
            run.wait(random.Random(line).random() * 0.2)
        run.send_signal(signal.SIGKILL)


@contextmanager
def chat_server() -> Iterator[tuple[str, list[str]]]:
    """A server that writes a text of its own for each prompt: its address, and the prompts that it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["messages"][-1]["content"])
            text = f"The user may like it, because of {len(asked[-1])} reasons that are new."
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
            data = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 9}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/v1", asked
        running.shutdown()
