"""`tests/commands.py`: what a command does in a fork, it does in a process of its own."""

import os
import subprocess
import sys

import commands

PLUGIN = '''
def crash():
    """Fail."""
    raise RuntimeError("a defect")

def register(registry):
    registry.add("command", "crash", target=":crash", summary="Fail.")
'''


def test_a_crash_is_a_traceback_and_a_refusal_is_none(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    crashed = commands.llmcf("crash", LLMCF_PLUGINS=str(tmp_path))
    assert crashed.returncode == 1
    assert "Traceback" in crashed.stderr
    assert "RuntimeError: a defect" in crashed.stderr
    for words in (["run", "quickstrat"], ["crash"], ["--version"]):  # nothing of the plugin is left
        forked = commands.llmcf(*words, cwd=tmp_path, COLUMNS="100")
        done = subprocess.run(
            [sys.executable, "-m", "llmcf_cli", *words], cwd=tmp_path, capture_output=True, text=True, check=False,
            env={**os.environ, "COLUMNS": "100"},
        )  # fmt: skip
        assert (forked.returncode, forked.stdout) == (done.returncode, done.stdout)
        assert forked.stderr.replace("Usage: llmcf", "Usage: python -m llmcf_cli") == done.stderr.replace(
            "'python -m llmcf_cli", "'llmcf"
        )
