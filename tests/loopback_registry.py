"""Debian's container registry on loopback; tests that need it are skipped where it is not installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

SERVER = shutil.which("docker-registry")
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:{port}"}}
{auth}
"""


class Running:
    """A registry on loopback."""

    def __init__(self, folder: Path, auth: str = "") -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.root, self.host = folder / "store", f"127.0.0.1:{self.port}"
        folder.mkdir(exist_ok=True)
        (folder / "config.yml").write_text(CONFIG.format(root=self.root, port=self.port, auth=auth))
        self.process = subprocess.Popen([str(SERVER), "serve", str(folder / "config.yml")],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        for _ in range(300):
            try:
                httpx2.get(f"http://{self.host}/v2/")
                break
            except httpx2.HTTPError:
                time.sleep(0.05)
        else:
            raise TimeoutError("the registry does not answer")

    def blob(self, digest: str) -> Path:
        return self.root / f"docker/registry/v2/blobs/sha256/{digest[:2]}/{digest}/data"


def started(folder: Path) -> Iterator[Running]:
    """A registry until the fixture ends."""
    if SERVER is None:
        pytest.skip("docker-registry (a Debian package) is not installed")
    running = Running(folder)
    yield running
    running.process.kill()
