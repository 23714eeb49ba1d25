"""A real server under load, faults and signals: nothing that it accepted is lost, and nobody can stop it for others."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx2
import pytest
from rec_world import SERVED

from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, ICTConfig, NoneConfig, RankingConfig
from llmcf_cli.rec.model import RecModel
from llmcf_cli.recipe.promotion import PromoteSection
from llmcf_cli.serve.champion.pointer import read_pointer
from llmcf_cli.serve.champion.promote import promote, rollback

ASK = {"requests": [{"user_id": "u1", "candidates": ["i1", "i2", "i3"]}]}
KEY = "s3cret"
AUTH = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def bundles(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    for name, augment in (("ict", ICTConfig()), ("none", NoneConfig())):
        model = RecModel(world.data.resources, DeepFMConfig(), augment, (BCEConfig(),), seed=4)
        save_bundle(folder / name, model, task=RankingConfig(), recipe={}, clock="per_user", inputs=SERVED)
    return folder


@contextmanager
def running(*arguments, key=KEY):
    """A server: its process, and a client that knows its address. Its log is read to the end."""
    environment = os.environ | {"LLMCF_API_KEY": key, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "llmcf_cli", "serve", *map(str, arguments), "--port", "0", "--deadline", "120"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    lines, reading = [], None
    try:
        for line in process.stderr:
            lines.append(line)
            if '"listening"' in line:
                break
        assert '"listening"' in "".join(lines[-1:]), lines
        listening = json.loads(lines[-1])
        reading = threading.Thread(target=lambda: lines.extend(process.stderr))
        reading.start()
        with httpx2.Client(base_url=f"http://127.0.0.1:{listening['port']}", headers=AUTH, timeout=120) as client:
            client.port = listening["port"]
            client.log, client.process = lines, process
            wait_until(lambda: ready(client), "ready")
            yield process, client
    finally:
        process.terminate()
        process.wait(timeout=60)
        if reading:
            reading.join()
        process.stderr.close()


def wait_until(holds, what, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not {what} after {seconds} s"
        time.sleep(0.1)


def ready(client):
    assert client.process.poll() is None, client.log
    try:
        return client.get("/ready").status_code == 200
    except httpx2.TransportError:
        return False


def ask(client, body=ASK):
    return client.post("/v1/score", json=body)


@pytest.fixture(scope="module")
def server(bundles):
    with running(bundles / "ict") as (_, client):
        yield client


def raw(client, sent):
    """What comes back for bytes sent by hand."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(sent)
        found = []
        with suppress(ConnectionResetError):  # hung up on in the middle of what nobody wants to read
            found.extend(iter(lambda: connection.recv(1 << 16), b""))
        return b"".join(found)


def head(length):
    lines = [
        "POST /v1/score HTTP/1.1",
        "Host: here",
        f"Authorization: Bearer {KEY}",
        f"Content-Length: {length}",
        "Connection: close",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def test_it_refuses_what_would_take_it_from_others_and_goes_on(server):
    declared = raw(server, head(100 << 20))
    assert declared.startswith(b"HTTP/1.1 413")
    million = {"requests": [{"user_id": "u1", "candidates": ["i1"] * 1_000_000}]}
    assert ask(server, million).status_code == 413
    many = {"requests": [{"user_id": "u1", "candidates": ["i1"] * 20_001}]}
    assert ask(server, many).json()["error"]["code"] == "rows-too-many"
    for _ in range(20):  # clients that leave in the middle of a body, and before the answer
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(1000) + b'{"requ')
        body = json.dumps(ASK).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head(len(body)) + body)
    long = b"GET /live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"y" * 200_000 + b"\r\n\r\n"
    for nonsense in (b"\0\r\n\r\n" * 9, b"GET / HTTP/9.9\r\n\r\n", head(5) + b'"\0\0\0"', b"POST\r\n\r\n", long):
        assert b" 500 " not in raw(server, nonsense)
    assert httpx2.post(server.base_url.join("/v1/score"), json=ASK).status_code == 401
    assert ask(server).status_code == 200


def test_a_slow_client_holds_nobody_up(server):
    body = json.dumps(ASK).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as slow:
        for at, byte in enumerate(head(len(body)) + body):
            slow.sendall(bytes([byte]))
            if at % 100 == 0:
                assert ask(server).status_code == 200
        assert slow.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_a_crowd_that_leaves_or_dawdles_takes_nothing_from_others(server):
    body = json.dumps(ASK).encode()
    crowd = []
    try:
        for n in range(90):
            connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
            crowd.append(connection)
            if n % 3 == 0:  # half a body, and nothing more
                connection.sendall(head(len(body)) + body[: len(body) // 2])
            elif n % 3 == 1:  # asks and leaves at once
                connection.sendall(head(len(body)) + body)
                connection.close()
            else:  # asks, and does not read the answer
                connection.sendall(head(len(body)) + body)
        assert load(server, 60) == [200] * 60
    finally:
        for connection in crowd:
            connection.close()
    wait_until(lambda: "llmcf_queue_rows 0.0" in server.get("/metrics").text, "empty")
    assert not any('"fault"' in line for line in server.log)
    assert ask(server).status_code == 200


def test_the_log_names_no_user_and_no_item(server):
    response = server.post("/v1/score", json={"requests": [{"user_id": "secretuser", "candidates": ["secretitem"]}]},
                           headers={"X-Request-Id": "mine-1"})  # fmt: skip
    assert response.headers["x-request-id"] == "mine-1"
    wait_until(lambda: any('"mine-1"' in line for line in server.log), "logged")
    logged = "".join(server.log)
    assert not any(word in logged for word in ("secretuser", "secretitem", KEY))
    assert all(json.loads(line)["event"] for line in server.log)


def load(client, count, at_once=8):
    """Requests from several connections; what each got: its status, or None where the server did not take it.

    A stopping server closes connections on which no request has begun, so a client may see its own end unanswered.
    """

    def one(number):
        try:
            with httpx2.Client(base_url=client.base_url, headers=AUTH, timeout=120) as own:
                return ask(own).status_code
        except (httpx2.ConnectError, httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError):
            return None

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, range(count)))


def test_sigterm_under_load_loses_nothing_that_was_accepted(bundles):
    with running(bundles / "ict") as (process, client):
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(load, client, 150)
            wait_until(lambda: any('"/v1/score"' in line for line in client.log), "asked")
            process.send_signal(signal.SIGTERM)
            found = asking.result()
        assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    assert set(found) <= {200, 503, None}
    answered = [line for line in client.log if '"endpoint": "/v1/score", "status": 200' in line]
    assert found.count(200) == len(answered) > 0


def test_a_watched_bundle_is_followed_under_load_without_a_failed_request(bundles, tmp_path):
    pointer = tmp_path / "champion"
    pointer.write_text(str(bundles / "ict"))
    with running("--watch", pointer) as (_, client):
        first = ask(client).headers["x-bundle"]
        seen = set()
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(load, client, 200, 4)
            pointer.with_suffix(".new").write_text(str(bundles / "none"))
            pointer.with_suffix(".new").rename(pointer)
            wait_until(lambda: seen.add(ask(client).headers["x-bundle"]) or len(seen - {first}) == 1, "reloaded")
            assert set(asking.result()) == {200}
        pointer.write_text("nothing-there")
        wait_until(lambda: any('"reload failed"' in line for line in client.log), "told")
        assert ask(client).headers["x-bundle"] in seen - {first}


def test_a_promotion_and_a_rollback_are_followed(world, bundles, tmp_path):
    pointer = tmp_path / "champion"

    def promoted(name):
        section = PromoteSection(measures={"auc": {"at_least": 0.0}}, latency_ratio=1e9)
        return promote(bundles / name, pointer, section, world.database, recipe="r").moved

    assert promoted("none")
    with running("--watch", pointer) as (_, client):
        first = ask(client).headers["x-bundle"]
        assert promoted("ict")
        wait_until(lambda: ask(client).headers["x-bundle"] != first, "promoted")
        assert ask(client).headers["x-bundle"] == read_pointer(pointer).champion.digest
        rollback(pointer)
        wait_until(lambda: ask(client).headers["x-bundle"] == first, "rolled back")
        assert not any('"reload failed"' in line for line in client.log)


def test_two_workers_share_a_port_and_their_metrics(bundles):
    with running(bundles / "none", "--workers", "2") as (_, client):
        assert load(client, 40) == [200] * 40
        measured = client.get("/metrics").text
        assert 'llmcf_requests_total{endpoint="/v1/score",status="200"} 40.0' in measured


def test_a_server_that_others_reach_needs_a_key(bundles, tmp_path):
    command = [sys.executable, "-m", "llmcf_cli", "serve", str(bundles / "none"), "--host", "0.0.0.0", "--port", "0"]
    environment = {name: value for name, value in os.environ.items() if name != "LLMCF_API_KEY"}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert found.returncode == 7
    assert "LLMCF_API_KEY" in found.stderr


def test_a_broken_bundle_ends_the_command_with_a_word(bundles, tmp_path):
    shutil.copytree(bundles / "none", tmp_path / "broken")
    (tmp_path / "broken" / "weights.safetensors").write_bytes(b"")
    command = [sys.executable, "-m", "llmcf_cli", "serve", str(tmp_path / "broken"), "--port", "0"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert found.returncode == 6
    assert "Traceback" not in found.stderr
