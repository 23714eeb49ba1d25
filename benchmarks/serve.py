"""Serving over HTTP: what LLM-CF adds to the plain backbone, what batching across requests gives, and reloads.

    python benchmarks/serve.py [--quick] [--scorer | --engine onnx]

Bundles in the shape of MovieLens-100K (DeepFM; `none`, and `ict` with K = 4 of 2,000 examples): examples that depend on
user and target (`ict`), or on the user alone (`ict, user`: item weight 0). The server has the first core, the load the
last one, over loopback. Latencies of one client, 1, 100 and 1,000 candidates; throughput of 32 clients with 10
candidates each, against the same server that scores one request at a time, and against a bare FastAPI handler around
the same scorer; a reload every two seconds under the load of 4 clients. Ratios of medians and 99th percentiles, in one
run. Only answers with status 200 count. `--scorer` measures the scorer alone, in this process, in CPU time. `--engine
onnx` exports the bundles and compares the two engines instead: the scorer alone, and latencies through HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from synthetic import Size, task_data

from llmcf_cli.match.config import TextSpaceConfig
from llmcf_cli.match.space import TextSpace
from llmcf_cli.rec.bundle.bundle import save_bundle
from llmcf_cli.rec.config import BCEConfig, DeepFMConfig, ICTConfig, NoneConfig, RankingConfig
from llmcf_cli.rec.input.config import ExamplesInputConfig
from llmcf_cli.rec.model import RecModel

EXAMPLES, CLIENTS, SHARED = 2_000, 32, 10
TARGETS = {"ict, user: 100": 1.5, "ict: 100": 3.0, "ict, user: 1000": 2.0, "ict: 1000": 4.0}
"""p99 against `none`, by arm and candidates."""
BATCHING, RELOAD = 3.0, 2.0
LONGEST = 60.0
"""Seconds for the latencies of one number of candidates; a busy machine measures fewer requests."""
SIZES = (1, 100, 1000)
"""Candidates of a request."""
WEIGHTS = {"none": (0.5, 0.5), "ict": (0.5, 0.5), "ict, user": (1.0, 0.0)}


def main() -> None:
    """Run, print the tables and the JSON line, exit 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--scorer", action="store_true", help="only the scorer, without HTTP, in CPU time")
    parser.add_argument("--engine", choices=["onnx"], help="compare it with torch")
    parser.add_argument("--server", nargs=3, metavar=("KIND", "BUNDLE", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.server:
        run_server(*options.server)
        return
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    count, seconds = (50, 2.0) if options.quick else (300, 8.0)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        make_bundles(folder)
        if options.scorer:
            scorers(folder, count)
            return
        if options.engine:
            engines(folder, count)
            return
        p50, p99 = latencies({arm: ("llmcf", folder / arm) for arm in WEIGHTS}, count)
        rates = throughputs(folder, seconds)
        reload = reloads(folder, seconds)
    ratios, medians = ({name: found[name] / found[f"none: {name.split(': ')[1]}"] for name in found}
                       for found in (p99, p50))  # fmt: skip
    batching = rates["batched"] / rates["one by one"]
    bare = rates["batched"] / rates["bare handler"]
    ok = {name: ratios[name] <= most for name, most in TARGETS.items()}
    ok |= {"batching": batching >= BATCHING, "bare": bare >= 1.0}
    ok |= {"reload": reload["failed"] == 0 and reload["p99 ratio"] <= RELOAD}
    print(f"batching {batching:.2f} × one by one, {bare:.2f} × a bare handler; while reloading: {reload}")
    detail = {"p50_ms": p50, "p99_ms": p99, "per_second": rates, "reload": reload, "ok": ok}
    detail |= {name: {arm: round(ratio, 2) for arm, ratio in found.items() if not arm.startswith("none")}
               for name, found in (("p50_ratio", medians), ("p99_ratio", ratios))}  # fmt: skip
    ratio = max(ratios[name] / most for name, most in TARGETS.items())
    print(json.dumps({"name": "serve", "ratio": round(ratio, 2), "target": 1.0, "ok": all(ok.values()),
                      "detail": detail}))  # fmt: skip
    sys.exit(0 if all(ok.values()) else 1)


def make_bundles(folder: Path) -> None:
    """One bundle for each arm."""
    data = task_data(Size(train=20_000, examples=EXAMPLES))
    resources = data.resources
    bank = resources.get("examples")
    samples = bank.samples
    for name, (history, item) in WEIGHTS.items():
        section = {"type": "text", "encoder": "asset:any", "history_weight": history, "item_weight": item}
        space = TextSpace(TextSpaceConfig.model_validate(section))
        vector_ES = space.example_vectors(resources.get("text"), samples.item_row_N, samples.history_row_NL)
        augment = NoneConfig() if name == "none" else ICTConfig()
        own = resources.holding(examples=replace(bank, vector_ES=vector_ES))
        model = RecModel(own, DeepFMConfig(), augment, (BCEConfig(),))
        served = (ExamplesInputConfig.model_validate({"space": section, "k": 4, "balance": "labels"}),)
        save_bundle(folder / name, model, task=RankingConfig(), recipe={}, clock="global", inputs=served)


def scorers(folder: Path, count: int) -> None:
    """Print medians of the CPU time of a request, ms, by arm, number of candidates and step."""
    from llmcf_cli.serve.requests import to_lists
    from llmcf_cli.serve.scorer import Scorer

    torch.set_num_threads(1)
    rng, clock = np.random.default_rng(1), time.process_time
    arms = {arm: Scorer.load(folder / arm) for arm in WEIGHTS}
    steps = ("encode", "match", "model")
    print(f"{'candidates':>10}{'arm':>16}{'p50 ms':>9}{'/ none':>8}" + "".join(f"{step:>9}" for step in steps))
    for candidates in SIZES:
        found: dict[str, list[list[float]]] = {arm: [] for arm in arms}
        for number in range(count // (3 if candidates == 1000 else 1) + 5):
            lists = to_lists(json.loads(body_of(rng, candidates))["requests"], arms["none"].form)
            for arm, scorer in arms.items():
                spent = dict.fromkeys(steps, 0.0)

                @contextmanager
                def step(name: str, spent: dict[str, float] = spent) -> Iterator[None]:
                    begun = clock()
                    yield
                    spent[name] += clock() - begun

                begun = clock()
                scorer.score_lists(lists, step)
                if number >= 5:
                    found[arm].append([clock() - begun, *spent.values()])
        whole = float(np.median([row[0] for row in found["none"]]))
        for arm, rows in found.items():
            total, *parts = np.median(rows, 0)
            shown = "".join(f"{1000 * part:>9.2f}" for part in parts)
            print(f"{candidates:>10,}{arm:>16}{1000 * total:>9.2f}{total / whole:>8.2f}{shown}", flush=True)


def engines(folder: Path, count: int) -> None:
    """Print what the engine onnx takes beside torch, the scorer alone and through HTTP, and the JSON line."""
    from llmcf_cli.rec.onnx.export import export_onnx
    from llmcf_cli.serve.core import EXPORTED
    from llmcf_cli.serve.requests import to_lists
    from llmcf_cli.serve.scorer import Scorer

    torch.set_num_threads(1)
    for arm in WEIGHTS:
        scorer, begun = Scorer.load(folder / arm), time.process_time()
        export_onnx(scorer.model, scorer.values_of, folder / arm / EXPORTED, scorer.digest)
        print(f"export of {arm}: {time.process_time() - begun:.1f} s of CPU time", flush=True)
    rng, clock = np.random.default_rng(1), time.process_time
    both = {arm: {kind: Scorer.load(folder / arm, engine=kind) for kind in ("torch", "onnx")} for arm in WEIGHTS}
    print(f"{'CPU, ms':>10}{'arm':>16}{'torch':>8}{'onnx':>8}{'torch / onnx':>14}, median of a request; model alone:")
    for candidates in SIZES:
        spent: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for number in range(count // (3 if candidates == 1000 else 1) + 5):
            lists = to_lists(json.loads(body_of(rng, candidates))["requests"], both["none"]["torch"].form)
            for arm, kinds in both.items():
                for kind, scorer in kinds.items():
                    model = [0.0]

                    @contextmanager
                    def step(name: str, model: list[float] = model) -> Iterator[None]:
                        begun = clock()
                        yield
                        model[0] += clock() - begun if name == "model" else 0.0

                    begun = clock()
                    scorer.score_lists(lists, step)
                    if number >= 5:
                        spent.setdefault((arm, kind), []).append((clock() - begun, model[0]))
        for arm in both:
            (plain, plain_model), (fast, fast_model) = (
                1000 * np.median(spent[arm, kind], 0) for kind in ("torch", "onnx")
            )
            print(f"{candidates:>10,}{arm:>16}{plain:>8.2f}{fast:>8.2f}{plain / fast:>14.2f}   "
                  f"{plain_model:.2f} {fast_model:.2f} {plain_model / fast_model:.2f}", flush=True)  # fmt: skip
    servers = {
        f"{arm}{of}": (kind, folder / arm) for arm in WEIGHTS for of, kind in (("", "llmcf"), (", onnx", "onnx"))
    }
    p50, p99 = latencies(servers, count)
    ratio = {name: {arm: round(found[arm] / found[arm.replace(", onnx", "")], 2) for arm in found if ", onnx" in arm}
             for name, found in (("p50", p50), ("p99", p99))}  # fmt: skip
    print(json.dumps({"name": "serve onnx", "ratio": ratio, "detail": {"p50_ms": p50, "p99_ms": p99}}))


def latencies(servers: dict[str, tuple[str, Path]], count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Medians and 99th percentiles in ms by arm and number of candidates.

    Arms take turns, so that a slow minute is all theirs.

    Args:
        servers: Name of an arm → kind of server, and bundle.
        count: Requests.
    """
    rng = np.random.default_rng(1)
    p50: dict[str, float] = {}
    p99: dict[str, float] = {}
    print(f"{'candidates':>10}{'arm':>16}{'p50 ms':>9}{'p99 ms':>9}{'p50 / none':>12}{'p99 / none':>12}")
    with ExitStack() as stack:
        ports = {arm: stack.enter_context(server(*of)) for arm, of in servers.items()}
        for candidates in SIZES:
            times: dict[str, list[float]] = {arm: [] for arm in ports}
            end = time.perf_counter() + LONGEST
            for number in range(count // (3 if candidates == 1000 else 1) + 5):
                if time.perf_counter() > end:
                    break
                body = body_of(rng, candidates)
                for arm, port in ports.items():
                    took = asyncio.run(one(port, body))
                    if number >= 5:
                        times[arm].append(took)
            for arm, found in times.items():
                name = f"{arm}: {candidates}"
                p50[name], p99[name] = (round(1000 * float(np.percentile(found, q)), 2) for q in (50, 99))
                over = "".join(f"{of[name] / of[f'none: {candidates}']:>12.2f}" for of in (p50, p99))
                print(f"{candidates:>10,}{arm:>16}{p50[name]:>9.1f}{p99[name]:>9.1f}{over}", flush=True)
    return p50, p99


def throughputs(folder: Path, seconds: float) -> dict[str, float]:
    """Requests a second of many clients, by kind of server."""
    rates = {}
    for kind in ("llmcf", "one by one", "bare handler"):
        with server(kind, folder / "ict") as port:
            asyncio.run(load(port, CLIENTS, 1.0))
            found = [took for took in asyncio.run(load(port, CLIENTS, seconds)) if np.isfinite(took)]
        name = "batched" if kind == "llmcf" else kind
        rates[name] = round(len(found) / seconds, 1)
        print(f"{name:>14}: {rates[name]:,.0f} requests/s, p99 {1000 * np.percentile(found, 99):.0f} ms", flush=True)
    return rates


def reloads(folder: Path, seconds: float) -> dict[str, float]:
    """Failed requests, and p99 while another bundle is loaded every second, against p99 without."""
    pointer = folder / "champion"
    pointer.write_text("ict")
    with server("watch", pointer) as port:
        asyncio.run(load(port, 4, 1.0))
        calm = asyncio.run(load(port, 4, seconds))

        async def both() -> list[float]:
            async def change() -> None:
                for number in range(int(seconds / 2)):
                    await asyncio.sleep(2.0)
                    pointer.write_text("ict, user" if number % 2 == 0 else "ict")

            changing = asyncio.create_task(change())
            found = await load(port, 4, seconds)
            changing.cancel()
            return found

        moved = asyncio.run(both())
    ratio = float(np.percentile(moved, 99) / np.percentile(calm, 99))
    return {"failed": int(np.isinf(moved).sum()), "p99 ratio": round(ratio, 2)}


def body_of(rng: np.random.Generator, candidates: int) -> bytes:
    """A request of a known user."""
    items = [f"i{n}" for n in rng.integers(0, 1682, candidates)]
    history = [f"i{n}" for n in rng.integers(0, 1682, 20)]
    return json.dumps(
        {"requests": [{"user_id": f"u{rng.integers(943)}", "candidates": items, "history": history}]}
    ).encode()


async def one(port: int, body: bytes) -> float:
    """Seconds of one request on a connection of its own."""
    client = await Client.connect(port)
    try:
        return await client.ask(body)
    finally:
        client.close()


async def load(port: int, clients: int, seconds: float) -> list[float]:
    """Seconds of every request of clients that ask one after the other; infinite where one failed."""
    end, found = time.perf_counter() + seconds, []

    async def client(number: int) -> None:
        rng, connection = np.random.default_rng(number), await Client.connect(port)
        while time.perf_counter() < end:
            found.append(await connection.ask(body_of(rng, SHARED)))
        connection.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return found


class Client:
    """A connection that is kept; no library, as its cost would be measured too."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        """A new connection."""
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))

    async def ask(self, body: bytes) -> float:
        """Seconds until the answer is there; infinite where it is no success."""
        begun = time.perf_counter()
        self.writer.write(
            b"POST /v1/score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = (
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        await self.reader.readexactly(length)
        return time.perf_counter() - begun if head.startswith(b"HTTP/1.1 200") else float("inf")

    def close(self) -> None:
        """Hang up."""
        self.writer.close()


@contextmanager
def server(kind: str, bundle: Path) -> Iterator[int]:
    """The port of a server of its own process, on the first core."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    core = min(os.sched_getaffinity(os.getppid()) | {0})
    command = [sys.executable, __file__, "--server", kind, str(bundle), str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: os.sched_setaffinity(0, {core}))  # fmt: skip
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def run_server(kind: str, bundle: str, port: str) -> None:
    """One of the servers, in this process."""
    from llmcf_cli.serve.http.run import serve
    from llmcf_cli.serve.http.settings import Limits, ServeSettings

    if kind == "bare handler":
        run_bare(Path(bundle), int(port))
        return
    limits = Limits(batch_rows=1) if kind == "one by one" else Limits()
    watch = Path(bundle) if kind == "watch" else None
    serve(
        ServeSettings(
            None if watch else Path(bundle), watch, limits=limits, engine="onnx" if kind == "onnx" else "torch"
        ),
        host="127.0.0.1",
        port=int(port),
        workers=1,
    )


def run_bare(bundle: Path, port: int) -> None:
    """What one writes first: a handler that calls the scorer."""
    import uvicorn
    from fastapi import FastAPI

    from llmcf_cli.serve.http.bodies import ScoreBody
    from llmcf_cli.serve.scorer import Scorer

    scorer, app = Scorer.load(bundle), FastAPI()

    def score(body):  # type: ignore[no-untyped-def]  # a local class: FastAPI takes it from `__annotations__` alone
        rows = [
            {"user_id": request.user_id, "item_id": item, "history": request.history}
            for request in body.requests for item in request.candidates
        ]  # fmt: skip
        return scorer.score(rows).to_pylist()

    score.__annotations__ = {"body": ScoreBody}
    app.post("/v1/score")(score)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main()
