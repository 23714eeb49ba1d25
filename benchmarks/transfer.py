"""Bytes that a push to and a pull from a container registry take when they are killed halfway and started again.

    python benchmarks/transfer.py [--megabytes 1000]

A parcel with one file of random bytes goes through Debian's docker-registry on loopback. A proxy between the two counts
every byte of both directions, questions and headers included. Half of the file is through when the process is killed
(SIGKILL); the same call then goes on. The ratio is that of all bytes, before and after the kill, to those of the
parcel: 1 is nothing twice. A registry keeps whole blobs only, so a push may send one of 32 MiB again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

TARGET_BYTES = (32 << 20) + (4 << 20)
"""What may come twice: one blob, and some buffers and headers."""
CONFIG = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""
PUSH = """\
import sys
from pathlib import Path
from llmcf_cli.core.progress import SILENT
from llmcf_cli.store.parcel_source import open_parcel
from llmcf_cli.store.registry import push
print(push(open_parcel(Path(sys.argv[1])), sys.argv[2], SILENT))
"""
PULL = """\
import sys
from pathlib import Path
from llmcf_cli.core.progress import SILENT
from llmcf_cli.store.parcel_source import take_in
from llmcf_cli.store.transfer import open_address
take_in(open_address(sys.argv[1], Path(sys.argv[2] + ".work")), Path(sys.argv[2]), SILENT)
"""


class Proxy:
    """Hands bytes through to a port and counts them.

    Attributes:
        up: Bytes from clients.
        down: Bytes to clients.
    """

    def __init__(self, port: int) -> None:
        self.up = self.down = 0
        self._port = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._server.accept()
            server = socket.create_connection(("127.0.0.1", self._port))
            for pair, name in (((client, server), "up"), ((server, client), "down")):
                threading.Thread(target=self._hand, args=(*pair, name), daemon=True).start()

    def _hand(self, source: socket.socket, target: socket.socket, name: str) -> None:
        try:
            while data := source.recv(1 << 16):
                setattr(self, name, getattr(self, name) + len(data))
                target.sendall(data)
        except OSError:
            pass
        for one in (source, target):
            one.close()


def main() -> None:
    """Run, print the table and the JSON line, exit 1 if more came twice than may."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    size = parser.parse_args().megabytes * 1_000_000
    program = shutil.which("docker-registry")
    if program is None:
        sys.exit("docker-registry (a Debian package) is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"LLMCF_CONFIG": str(folder / "config"), "LLMCF_CACHE": str(folder / "cache" / "assets")}
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (folder / "config.yml").write_text(CONFIG.format(root=folder / "store", port=port))
        registry = subprocess.Popen([program, "serve", str(folder / "config.yml")], stderr=subprocess.DEVNULL)
        try:
            rows = measure(folder, Proxy(port), size)
        finally:
            registry.kill()
    print(f"{'':<6}{'before the kill':>18}{'after it':>14}{'twice':>12}{'seconds':>10}")
    for what, (before, after, seconds) in rows.items():
        twice = before + after - size
        print(f"{what:<6}{before / 1e6:>15,.1f} MB{after / 1e6:>11,.1f} MB{twice / 1e6:>9,.1f} MB{seconds:>10.1f}")
    twice = {what: before + after - size for what, (before, after, _) in rows.items()}
    ratio = max((size + more) / size for more in twice.values())
    ok = all(more <= TARGET_BYTES for more in twice.values())
    print(json.dumps({"name": "transfer", "ratio": round(ratio, 4), "target": round(1 + TARGET_BYTES / size, 4),
                      "ok": ok, "detail": {"bytes": size, "twice": twice}}))  # fmt: skip
    sys.exit(0 if ok else 1)


def measure(folder: Path, proxy: Proxy, size: int) -> dict[str, tuple[int, int, float]]:
    """Of push and pull: bytes before the kill, bytes after it, seconds of both."""
    from llmcf_cli.core.permissions import Host, Permissions
    from llmcf_cli.core.progress import SILENT
    from llmcf_cli.store.parcel import pack

    Permissions().allow_host(Host.of(proxy.host), None)
    large = folder / "large.bin"
    chance = np.random.default_rng(1)
    with large.open("wb") as out:
        for start in range(0, size, 1 << 24):
            out.write(chance.bytes(min(1 << 24, size - start)))
    (folder / "r.yaml").write_text("name: large\n")
    files = {"r.yaml": ("recipe", folder / "r.yaml"), "r.lock.yaml": ("recipe", folder / "r.yaml"),
             "data/large.bin": ("data", large)}  # fmt: skip
    pack(folder / "large.zip", files, SILENT, name="large", description="", licence="", llmcf="1", lock="r.lock.yaml")
    time.sleep(1)  # for the registry to listen
    sent = killed_and_resumed((PUSH, str(folder / "large.zip"), f"oci://{proxy.host}/large"), proxy, "up", size)
    address = sent[3].strip()
    came = killed_and_resumed((PULL, address, str(folder / "got")), proxy, "down", size)
    for file in (large, folder / "got" / "data" / "large.bin"):
        with file.open("rb") as stream:
            print(hashlib.file_digest(stream, "sha256").hexdigest(), file.name)
    return {"push": sent[:3], "pull": came[:3]}


def killed_and_resumed(words: tuple[str, ...], proxy: Proxy, counter: str, size: int) -> tuple[int, int, float, str]:
    """Bytes of a call until it is killed, and of the call that goes on; seconds; what the latter prints."""
    begin, clock = getattr(proxy, counter), time.perf_counter()
    first = subprocess.Popen([sys.executable, "-c", *words])
    while getattr(proxy, counter) - begin < size // 2:
        if first.poll() is not None:
            raise RuntimeError("ended before half of it was through")
        time.sleep(0.005)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(0.5)  # for what is on its way
    middle = getattr(proxy, counter)
    done = subprocess.run([sys.executable, "-c", *words], capture_output=True, text=True, check=True)
    return middle - begin, getattr(proxy, counter) - middle, time.perf_counter() - clock, done.stdout


if __name__ == "__main__":
    main()
