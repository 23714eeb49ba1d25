"""The environment of the peers, and peers as processes in it.

A peer reads lines from its standard input and answers each with one number: the seconds an epoch took.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).parent
ENVIRONMENT = FOLDER.parent / ".venv-peers"


def peers_python(given: str | None) -> Path:
    """The Python that has the peers: the given one, that of `LLMCF_PEERS`, or `.venv-peers`, made if it is missing."""
    chosen = given or os.environ.get("LLMCF_PEERS")
    if chosen:
        return Path(chosen)
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / ".complete").is_file():
        print(f"installing the peers into {ENVIRONMENT} (or name a Python that has them: --peers)", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        command = [python, "-m", "pip", "install", "--quiet", "--requirement", FOLDER / "peers.txt"]
        subprocess.run(command, check=True)
        (ENVIRONMENT / ".complete").touch()
    return python


class Peer:
    """A peer that trains one epoch (or takes one step) whenever it is asked."""

    def __init__(self, python: Path, *arguments: str, script: str = "peers.py") -> None:
        command = [str(python), str(FOLDER / script), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def epoch(self) -> float:
        """Seconds of one epoch.

        Raises:
            RuntimeError: The peer ended; it has said why on standard error.
        """
        self.process.stdin.write("epoch\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer failed: {' '.join(self.process.args)}")
        return float(line)

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()
