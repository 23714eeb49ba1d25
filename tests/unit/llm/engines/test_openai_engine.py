"""The engine `openai` against servers on loopback: one that answers as a script says, and a real one."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from refusals import refused

from llmcf_cli.core.errors import AccessError, ModelError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.llm.config import OpenAIEngineConfig, TransformersEngineConfig
from llmcf_cli.llm.engines.base import Completion, Failure
from llmcf_cli.llm.engines.openai import OpenAIEngine
from llmcf_cli.llm.engines.transformers import TransformersEngine

KEY = "sk-quite-secret-0123456789"


@dataclass
class Reply:
    """What a request is answered with: JSON data or raw bytes."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    hang_up: bool = False


@dataclass
class ChatServer:
    """A running server.

    Attributes:
        url: `base_url` of it.
        requests: Bodies received, in order, each with its headers under `headers` and its time under `at`.
        reply: Body of a request → its answer; replace it to change how the server behaves.
    """

    url: str
    requests: list[dict[str, Any]]
    reply: Callable[[dict[str, Any]], Reply]


def completion(*texts: str | None, finish: str = "stop", usage: bool = True) -> Reply:
    """A well-formed answer with these choices."""
    choices = [
        {"index": i, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
        for i, text in enumerate(texts)
    ]
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    counts = {"prompt_tokens": 21, "completion_tokens": 7 * len(texts), "total_tokens": 21 + 7 * len(texts)}
    return Reply({**body, "usage": counts} if usage else body)


def echo(request: dict[str, Any]) -> Reply:
    """Repeats the last message, once per asked choice."""
    return completion(*[f"re: {request['messages'][-1]['content']}"] * request.get("n", 1))


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A server that echoes until `reply` is replaced."""
    found = ChatServer("", [], echo)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found.requests.append({**body, "headers": dict(self.headers), "at": time.monotonic()})
            reply = found.reply(body)
            time.sleep(reply.delay)
            if reply.hang_up:
                self.close_connection = True
                return
            data = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{running.server_port}/v1"
        yield found
        running.shutdown()
        thread.join()


def chats(*texts: str) -> list[list[dict[str, str]]]:
    return [[{"role": "user", "content": text}] for text in texts]


@pytest.fixture
def ask(server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Completion | Failure]]:
    """Ask the server some texts, with settings of the engine."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    Permissions().allow_host(Host.of(server.url), "OPENAI_API_KEY")

    def generate(*texts: str, **settings: Any) -> list[Completion | Failure]:
        config = OpenAIEngineConfig(**{"model": "m", "base_url": server.url, "retries": 0, **settings})
        engine = OpenAIEngine(config)
        engine.open(None)
        return engine.generate(chats(*texts), list(range(40, 40 + len(texts))))

    return generate


def test_answers_come_in_order_with_the_servers_counts(ask, server: ChatServer) -> None:
    found = ask(*"abcdef", concurrency=3, extra={"top_k": 5}, max_new_tokens=9)
    assert [c.text for c in found] == [f"re: {letter}" for letter in "abcdef"]
    assert {(c.prompt_tokens, c.new_tokens, c.finish_reason) for c in found} == {(21, 7, "stop")}
    sent = next(r for r in server.requests if r["messages"] == [{"role": "user", "content": "c"}])
    assert (sent["model"], sent["max_tokens"], sent["top_k"], sent["temperature"]) == ("m", 9, 5, 0.6)
    assert {r["seed"] for r in server.requests} == set(range(40, 46))
    assert {k.lower(): v for k, v in sent["headers"].items()}["authorization"] == f"Bearer {KEY}"


def test_requests_run_side_by_side(ask, server: ChatServer) -> None:
    server.reply = lambda request: Reply(echo(request).body, delay=0.3)
    started = time.monotonic()
    ask(*"abcdef", concurrency=6)
    assert time.monotonic() - started < 1.5


def test_equal_prompts_share_a_request_where_allowed(ask, server: ChatServer) -> None:
    assert [c.text for c in ask("a", "a", "a", "b", max_choices=2)] == ["re: a", "re: a", "re: a", "re: b"]
    assert [(r["messages"][0]["content"], r.get("n")) for r in sorted(server.requests, key=lambda r: r["seed"])] == [
        ("a", 2), ("a", None), ("b", None),
    ]  # fmt: skip
    assert ask("a", "a", max_choices=2)[0].new_tokens == 7
    server.reply = lambda request: completion("only one")
    one, missing = ask("a", "a", max_choices=2)
    assert one.text == "only one"
    assert missing == Failure("the server sent 1 of 2 answers", retryable=True)


def test_a_busy_server_is_asked_again_after_the_time_it_names(ask, server: ChatServer) -> None:
    replies = iter([Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.4"}), completion("done")])
    server.reply = lambda request: next(replies)
    assert ask("a", retries=2)[0].text == "done"
    assert server.requests[1]["at"] - server.requests[0]["at"] >= 0.4


def test_the_rate_holds_for_all_threads(ask, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 100.0, sleep=waits.append, perf_counter=time.perf_counter)
    monkeypatch.setattr("llmcf_cli.llm.engines.openai.time", clock)
    ask(*"abcde", requests_per_minute=600, concurrency=5)
    assert sorted(waits) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


ROW_FAILURES = [
    (Reply({"error": {"message": "slow down"}}, 429), "answers 429", True),
    (Reply({"error": {"message": f"oh {KEY}"}}, 500), r"answers 500: .*\*\*\*", True),
    (Reply({"error": {"message": "prompt too long"}}, 400), "answers 400: .*too long", False),
    (Reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}), "no chat completion: <html>", True),
    (Reply(b"{not json"), "no chat completion", True),
    (Reply({"hello": 1}), "no chat completion", True),
    (Reply([]), "no chat completion", True),
    (completion(), "sent 0 of 1", True),
    (completion(None), "empty answer", True),
    (completion("  "), "empty answer", True),
    (completion("x", finish="content_filter"), "content filter", False),
    (Reply(b"", delay=1.0), "no answer within 0.3 s", True),
]


@pytest.mark.parametrize(("bad", "reason", "retryable"), ROW_FAILURES)
def test_a_row_that_fails_leaves_the_others(ask, server: ChatServer, bad: Reply, reason: str, retryable: bool) -> None:
    server.reply = lambda request: bad if request["messages"][0]["content"] == "b" else echo(request)
    first, failed, last = ask("a", "b", "c", timeout=0.3)
    assert (first.text, last.text) == ("re: a", "re: c")
    assert isinstance(failed, Failure)
    assert failed.retryable is retryable
    assert re.search(reason, failed.reason)
    assert KEY not in failed.reason


def test_answers_without_counts_are_estimated_and_cut_ones_are_marked(ask, server: ChatServer) -> None:
    server.reply = lambda request: completion("twelve chars", finish="length", usage=False)
    (found,) = ask("x" * 30)
    assert (found.prompt_tokens, found.new_tokens, found.finish_reason) == (18, 4, "length")


@pytest.mark.parametrize(("status", "code"), [(401, "server-refused"), (404, "server-model-unknown")])
def test_what_no_row_can_get_past_ends_the_run(ask, server: ChatServer, status: int, code: str) -> None:
    server.reply = lambda request: Reply({"error": {"message": f"no {KEY}"}}, status)
    with refused(code, ModelError) as error:
        ask(*"abcdefgh", concurrency=1)
    assert server.url in str(error.value)
    assert KEY not in str(error.value)
    assert len(server.requests) == 1  # the others are not sent


def test_a_missing_key_is_named(ask, server: ChatServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.reply = lambda request: Reply({}, 401)
    monkeypatch.delenv("OTHER_KEY", raising=False)
    Permissions().allow_host(Host.of(server.url), "OTHER_KEY")
    with refused("server-refused", ModelError):
        ask("a")
    Permissions().forget_host(Host.of(server.url))
    with pytest.raises(ModelError) as error:
        ask("a")
    assert error.value.hint == f"llmcf keys allow {Host.of(server.url)} --env VARIABLE_WITH_ITS_KEY"


def test_a_server_gets_only_the_key_that_was_allowed_it(ask, server: ChatServer, monkeypatch) -> None:
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY", "SECRET"):
        monkeypatch.setenv(name, f"private-{name}")
    ask("a")
    Permissions().forget_host(Host.of(server.url))
    ask("b")
    with_key, without = (str(request["headers"]) for request in server.requests)
    assert KEY in with_key
    assert KEY not in without
    assert "private-" not in with_key + without


def test_a_host_elsewhere_gets_nothing_unless_it_is_allowed(monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for address in ("https://api.example.com/v1", "http://192.0.2.7:8000/v1", "http://localhost.example.com/v1"):
        with pytest.raises(AccessError) as error:
            OpenAIEngine(OpenAIEngineConfig(model="m", base_url=address))
        assert str(Host.of(address)) in error.value.hint
    Permissions().allow_host(Host.of("api.example.com"), None)
    OpenAIEngine(OpenAIEngineConfig(model="m", base_url="https://API.example.com:443/v1"))


def test_prompts_do_not_follow_a_redirect(ask, server: ChatServer) -> None:
    elsewhere = f"http://127.0.0.1:{Host.of(server.url).port}/other/v1/chat/completions"
    server.reply = lambda request: Reply({}, 307, {"Location": elsewhere})
    with refused("server-redirect", ModelError):
        ask("a")
    assert len(server.requests) == 1


@pytest.mark.parametrize("how", ["nobody listens", "hangs up"])
def test_a_server_that_is_not_there_is_named(ask, server: ChatServer, how: str) -> None:
    url = "http://127.0.0.1:9/v1" if how == "nobody listens" else server.url
    server.reply = lambda request: Reply(b"", hang_up=True)
    with refused("server-unreachable", ModelError) as error:
        ask("a", "b", base_url=url)
    assert url in str(error.value)


def test_finished_rows_survive_a_server_that_goes_away(ask, server: ChatServer) -> None:
    server.reply = lambda request: Reply(b"", hang_up=True) if len(server.requests) > 2 else echo(request)
    found = ask(*"abcd", concurrency=1)
    assert [c.text for c in found[:2]] == ["re: a", "re: b"]
    assert all(isinstance(f, Failure) and f.retryable for f in found[2:])


def test_the_cache_knows_the_model_and_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def settings(**changes: Any) -> dict[str, Any]:
        config = OpenAIEngineConfig(**{"model": "m", "base_url": "http://localhost:1/v1", **changes})
        return OpenAIEngine(config).decode_settings(1)

    assert settings() == settings(concurrency=2, max_prompt_tokens=99)
    assert settings() != settings(base_url="http://localhost:2/v1")
    assert settings() != settings(model="n")
    assert settings() != settings(extra={"top_p": 0.9})
    assert KEY not in str(settings())


def test_prompts_are_counted_by_a_local_tokenizer(tiny_model: Path) -> None:
    engine = OpenAIEngine(OpenAIEngineConfig(model="m", base_url="http://localhost:1/v1", tokenizer=str(tiny_model)))
    engine.open(None)
    (found,) = engine.count_tokens(chats("why did the user like it"))
    assert (
        found
        != OpenAIEngine(OpenAIEngineConfig(model="m", base_url="http://localhost:1/v1")).count_tokens(chats("why"))[0]
    )
    assert found == len(engine._tokenizer.apply_chat_template(
        chats("why did the user like it")[0], add_generation_prompt=True)["input_ids"])  # fmt: skip


def test_settings_that_cannot_work_are_refused() -> None:
    for bad in ({"base_url": "localhost:8000"}, {"extra": {"stream": True}}, {"samples": 2, "temperature": 0}):
        with pytest.raises(ValidationError):
            OpenAIEngineConfig(**{"model": "m", "base_url": "http://a/v1", **bad})


@pytest.fixture(scope="module")
def served(smollm: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of `transformers serve` on loopback, and the folder of the SmolLM2 that it serves."""
    for package in ("fastapi", "uvicorn"):
        pytest.importorskip(package)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = "from transformers.cli.transformers import main; main()"
    command = [sys.executable, "-c", start, "serve", str(smollm), "--host", "127.0.0.1", "--port", str(port),
               "--device", "cpu", "--dtype", "float32"]  # fmt: skip
    log = tmp_path_factory.mktemp("server") / "log.txt"
    with log.open("w") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            deadline = time.monotonic() + 120
            while not _listens(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1", smollm
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.slow
def test_a_real_server_gives_the_texts_of_the_local_engine(served: tuple[str, Path]) -> None:
    url, folder = served
    asked = chats("What is the capital of France? Answer in one sentence.", "Name three films about space.")
    limits = {"max_new_tokens": 16, "temperature": 0.0}
    local = TransformersEngine(TransformersEngineConfig(**limits, precision="fp32"))
    local.open(folder)
    remote = OpenAIEngine(
        OpenAIEngineConfig(**limits, model=str(folder), base_url=url, tokenizer=str(folder), concurrency=1)
    )
    remote.open(None)
    expected, found = local.generate(asked, [0, 0]), remote.generate(asked, [0, 0])
    assert "Paris" in found[0].text
    assert [(c.text, c.finish_reason, c.prompt_tokens) for c in found] == [
        (c.text, c.finish_reason, c.prompt_tokens) for c in expected
    ]
    assert remote.count_tokens(asked) == local.count_tokens(asked)

    wrong = OpenAIEngine(OpenAIEngineConfig(model="no/such-model", base_url=url, retries=0))
    (failure,) = wrong.generate(asked[:1], [0])
    assert "the server answers 400" in failure.reason
    assert "no/such-model" in failure.reason


def message(content: Any, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content, **more}}
    return {"choices": [choice], "usage": {"prompt_tokens": 21, "completion_tokens": 7}}


SAID = "It fits."
USABLE = {
    "parts": message(
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": SAID}]
    ),
    "plain parts": message([SAID]),
    "think block": message(f"<think>\nhm\n</think>\n\n{SAID}"),
    "end of a think block": message(f"hm\n</think>\n{SAID}"),
    "with reasoning": message(SAID, reasoning_content="long", refusal=None),
    "no usage": message(SAID) | {"usage": None},
    "usage of texts": message(SAID) | {"usage": {"prompt_tokens": "21", "completion_tokens": "x"}},
    "usage of fractions": message(SAID) | {"usage": {"prompt_tokens": 21.0, "completion_tokens": 7.5}},
    "usage of nonsense": message(SAID) | {"usage": [1, 2]},
    "huge usage": message(SAID) | {"usage": {"prompt_tokens": 1e400, "completion_tokens": -3}},
    "no finish reason": {"choices": [{"message": {"content": SAID}}]},
}  # fmt: skip
ODD = {
    "nothing": message(None), "blank": message(" \n"),
    "only reasoning": message(None, reasoning_content="long thought"),
    "only a think block": message("<think>hm</think>"), "cut off in a think block": message("<think>hm, I should"),
    "refusal": message(None, refusal="I can't."), "a number": message(3),
    "odd parts": message([None, 3, {"type": "image_url"}]),
    "no choices": {"choices": []}, "null choices": {"choices": None}, "a null choice": {"choices": [None]},
    "choices of texts": {"choices": ["a"]}, "an object of choices": {"choices": {"0": "a"}},
    "null message": {"choices": [{"message": None}]}, "a text message": {"choices": [{"message": "a"}]},
    "an error": {"error": {"message": "overloaded", "code": 529}}, "a text error": {"error": "overloaded"},
    "an error of anything": {"error": {"message": ["x"], "code": None}},
    "text": "just text", "array": [message(SAID)], "null": None, "number": 3, "html": b"<html>busy</html>",
    "empty": b"", "no UTF-8": b"\xff\xfe{", "deep": b"[" * 100_000, "half": b'{"choices": [{"mess', "NaN": b"NaN",
}  # fmt: skip


@pytest.mark.parametrize("kind", USABLE)
def test_an_answer_in_an_odd_form_is_read(server: ChatServer, kind: str) -> None:
    server.reply = lambda request: Reply(USABLE[kind])
    engine = OpenAIEngine(OpenAIEngineConfig(model="m", base_url=server.url, retries=0))
    (found,) = engine.generate(chats("a"), [1])
    assert isinstance(found, Completion)
    assert (found.text, found.finish_reason) == (SAID, "stop")
    assert isinstance(found.prompt_tokens, int)
    assert isinstance(found.new_tokens, int)
    assert found.prompt_tokens > 0
    assert found.new_tokens > 0


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_answer_is_one_failure_and_the_others_are_kept(server: ChatServer, kind: str) -> None:
    def reply(request: dict[str, Any]) -> Reply:
        return Reply(ODD[kind]) if request["messages"][-1]["content"] == "odd" else echo(request)

    server.reply = reply
    engine = OpenAIEngine(OpenAIEngineConfig(model="m", base_url=server.url, retries=0))
    first, odd, last = engine.generate(chats("a", "odd", "b"), [1, 2, 3])
    assert (first.text, last.text) == ("re: a", "re: b")
    assert isinstance(odd, Failure)
    assert odd.reason


def test_what_no_text_can_hold_is_replaced(server: ChatServer) -> None:
    server.reply = lambda request: Reply(
        b'{"choices": [{"message": {"content": "a \\ud83d b \\u0000c \\ud83d\\ude00"}}]}'
    )
    engine = OpenAIEngine(OpenAIEngineConfig(model="m", base_url=server.url, retries=0))
    (found,) = engine.generate(chats("a"), [1])
    assert found.text == "a \ufffd b c \U0001f600"


def test_what_a_server_would_read_as_control_tokens_is_broken_up(server: ChatServer, tiny_model: Path) -> None:
    said = "the <|end|> </s> of <b>x</b> [INST]"
    for tokenizer in (None, str(tiny_model)):
        engine = OpenAIEngine(OpenAIEngineConfig(model="m", base_url=server.url, retries=0, tokenizer=tokenizer))
        engine.open(None)
        ((sent,), changed) = engine.as_sent([{"role": "user", "content": said}])
        assert sent["content"] == "the < |end|> < /s> of <b>x</b> [ INST]"
        assert changed
        assert engine.as_sent(chats("the <b>end</b>")[0]) == (chats("the <b>end</b>")[0], ())


ENDLESS = {
    "body": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n", 0.0),
    "error": (b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n", 0.0),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 9_000 + b"\r\n", 0.0),
    "answers before the answer": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000, 0.0),
    "drops of a body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b" ", 0.2),
    "drops of headers": (b"HTTP/1.1 200 OK\r\n", b"X", 0.2),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_answer_ends(ask, kind: str) -> None:
    """Whatever is sent without end, or slowly without end, is one row that failed, or a server that does not do."""
    start, rest, pause = ENDLESS[kind]
    sent = 0
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            nonlocal sent
            with contextlib.suppress(OSError), listening.accept()[0] as one:
                one.recv(1 << 16)
                one.sendall(start)
                while True:
                    one.sendall(rest)
                    sent += len(rest)
                    time.sleep(pause)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        started = time.monotonic()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        try:
            assert isinstance(ask("a", base_url=url, timeout=2)[0], Failure)
        except ModelError:  # the library's own limit
            assert "headers" in kind
        assert time.monotonic() - started < 20
        thread.join(20)
        assert not thread.is_alive()
    assert sent < 64 << 20


def test_a_packed_answer_is_not_unpacked(ask, server: ChatServer) -> None:
    body = gzip.compress(json.dumps(completion("x").body).encode() + b" " * (1 << 20))
    server.reply = lambda request: Reply(body, headers={"Content-Encoding": "gzip"})
    found = ask("a")
    assert (found[0].retryable, "packed" in found[0].reason) == (False, True)
    assert server.requests[0]["headers"]["Accept-Encoding"] == "identity"


def test_a_key_that_a_server_repeats_is_not_kept(ask, server: ChatServer) -> None:
    server.reply = lambda request: completion(f"your key is {KEY}")
    assert [c.text for c in ask("a")] == ["your key is ***"]
