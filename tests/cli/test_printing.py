"""`--json`: what commands print for programs is JSON, whatever is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = {
    "status": ("stage", "variant", "recipe", "key", "started", "seconds", "bytes", "folder"),
    "status planted/power": ("stage", "variant", "runs", "cause", "reason", "key", "folder"),
    "verify planted/power": ("label", "folder", "made", "bytes", "faults"),
    "runs": ("recipe", "key", "started", "measure", "values", "served", "changed"),
    "doctor": ("name", "ok", "found", "hint"),
    "plugins": ("kind", "name", "summary", "origin"),
    "recipe list": ("name", "description", "origin"),
    "recipe search planted": ("name", "description", "address", "licence", "size"),
    "assets list": ("name", "kind", "description", "licence", "bytes", "state"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_json(tmp_path: Path, command):
    done = subprocess.run(
        [sys.executable, "-m", "llmcf_cli", *command.split(), "--json"], capture_output=True, text=True, check=False,
        cwd=tmp_path, env={**os.environ, "COLUMNS": "30"},
    )  # fmt: skip
    rows = json.loads(done.stdout)
    assert (done.returncode in (0, 1), done.stderr.count("Traceback")) == (True, 0)
    assert rows or command in ("status", "runs")
    for row in rows:
        assert tuple(row) == COMMANDS[command]
