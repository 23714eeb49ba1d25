"""Generation by a server that speaks OpenAI's chat completions.

The `openai` package does the requests and their retries (408, 409, 429, 5xx, no connection, too slow; after the
server's `Retry-After` or an exponential wait with jitter). What is here: many requests at a time, a limit per minute
that counts retries too, telling what ends the run (wrong key, model or address) from what one row failed of, and
reading whatever a server sends: an odd answer is one `Failure`.
"""

from __future__ import annotations

import html
import itertools
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
from openai import OpenAI

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.core.types import key_view
from llmcf_cli.llm.config import OpenAIEngineConfig
from llmcf_cli.llm.engines.base import Adjustable, Completion, Failure, answer
from llmcf_cli.llm.engines.bounded import bounded_client, is_too_long
from llmcf_cli.llm.models.load import load_tokenizer
from llmcf_cli.llm.prompts.chat import SYSTEM_JOINED, Messages, chats_of
from llmcf_cli.llm.prompts.control import COMMON, broken_up
from llmcf_cli.llm.prompts.spoken import storable

_CHARACTERS_PER_TOKEN = 3  # cautious for English, where a token is about four; so prompts rather end up too short
_TOKENS_PER_MESSAGE = 8  # role and separators
_NOT_DECODING = ("samples", "max_prompt_tokens", "tokenizer")
_SEEDS = 2**31  # servers take a signed 32-bit seed at least
_REDIRECTS = (301, 302, 303, 307, 308)
_SHOWN = 200  # characters of a server's answer in a message
_SHORTEST_KEY = 8  # characters; what is shorter is no secret, and may be a word
_THOUGHT = ("reasoning_content", "reasoning")
_TEXT_PARTS = ("text", "output_text")
BROKEN_UP = "control tokens in texts broken up by a blank"

Answer = Completion | Failure


class OpenAIEngine(Adjustable):
    """Chat completions over HTTP; a row whose request fails is a `Failure`, the others of its batch are kept."""

    def __init__(self, config: OpenAIEngineConfig) -> None:
        super().__init__(config)
        self._variable, self._key = Permissions().key_for(config.base_url)
        self._spellings = _spellings(self._key)
        self._tokenizer: Any = None
        pace = Pace(config.requests_per_minute)
        self._client = OpenAI(
            api_key=self._key or "none", base_url=config.base_url, timeout=config.timeout, max_retries=config.retries,
            http_client=bounded_client(config.timeout, pace.wait),
        )  # fmt: skip
        # The library sends these of the user's environment to whatever server it talks to.
        self._client.organization = self._client.project = self._client.admin_api_key = None

    def open(self, model: Path | None) -> None:
        """Load the tokenizer, where there is one; the server's model needs nothing from `model`.

        Raises:
            ModelError: The folder of `tokenizer` holds none with a chat template.
        """
        if self.config.tokenizer:
            self._tokenizer = load_tokenizer(Path(self.config.tokenizer))

    def decode_settings(self, seed: int) -> dict[str, Any]:
        """Model name and decoding settings; the seed counts only where something is drawn."""
        view = {k: v for k, v in key_view(self.config, str).items() if k not in _NOT_DECODING}
        return {**view, "seed": seed} if self.config.temperature > 0 else view

    def max_prompt_tokens(self) -> int:
        """The setting; what the server's context allows is not known here."""
        most: int = self.config.max_prompt_tokens
        return most

    def as_sent(self, chat: Messages) -> tuple[list[dict[str, str]], tuple[str, ...]]:
        """See `Engine.as_sent`: a server reads control tokens wherever they stand, so what looks like one is broken
        up."""
        read = [dict(m) for m in chat] if self._tokenizer is None else chats_of(self._tokenizer).as_read(chat)
        sent = [{**m, "content": self._plain(storable(m["content"]))} for m in read]
        broken = any(after["content"] != before["content"] for after, before in zip(sent, read, strict=True))
        joined = len(read) < len(chat)
        return sent, (*([SYSTEM_JOINED] if joined else []), *([BROKEN_UP] if broken else []))

    def _plain(self, text: str) -> str:
        text = broken_up(text, COMMON)
        return text if self._tokenizer is None else chats_of(self._tokenizer).control.broken_up(text)

    def count_tokens(self, chats: Sequence[Messages]) -> list[int]:
        """Tokens of each prompt by the local tokenizer, or an estimate: a third of the characters and 8 per message."""
        if self._tokenizer is None:
            return [
                sum(_TOKENS_PER_MESSAGE + math.ceil(len(m["content"]) / _CHARACTERS_PER_TOKEN) for m in chat)
                for chat in chats
            ]
        return [len(ids) for ids in chats_of(self._tokenizer).prompts(chats)]

    def batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices in their order, `max_batch` at a time: lengths do not matter here."""
        most = self.config.max_batch
        return [list(range(start, min(start + most, len(lengths)))) for start in range(0, len(lengths), most)]

    def generate(self, chats: Sequence[Messages], seeds: Sequence[int]) -> list[Answer]:
        """One answer, or what became of it, per chat.

        Raises:
            ModelError: No chat was answered, and for a reason that holds for all: key, model or address.
        """
        start = time.perf_counter()
        requests = list(_requests(chats, self.config.max_choices))
        fatal: list[LlmcfError] = []
        with ThreadPoolExecutor(self.config.concurrency) as pool:
            found = pool.map(lambda rows: self._ask(chats[rows[0]], seeds[rows[0]], len(rows), fatal), requests)
            answers: dict[int, Answer] = {}
            for rows, some in zip(requests, found, strict=True):
                answers.update(zip(rows, some, strict=True))
        if fatal and not any(isinstance(answer, Completion) for answer in answers.values()):
            raise fatal[0]
        seconds = (time.perf_counter() - start) / max(len(chats), 1)
        return [_lasting(answers[i], seconds) for i in range(len(chats))]

    def _ask(self, chat: Messages, seed: int, count: int, fatal: list[LlmcfError]) -> list[Answer]:
        """`count` answers to a chat by one request; none is sent once something fatal is known."""
        if fatal:
            return [Failure(f"not asked: {fatal[0].what}", retryable=True)] * count
        config = self.config
        options: dict[str, Any] = {config.limit_option: config.max_new_tokens}
        if config.temperature > 0:
            options["seed"] = seed % _SEEDS
        if count > 1:
            options["n"] = count
        try:
            reply = self._client.chat.completions.with_raw_response.create(
                model=config.model, messages=[dict(m) for m in chat], temperature=config.temperature,
                extra_body=config.extra or None, **options,
            )  # fmt: skip
        except openai.OpenAIError as error:
            return [self._failure(error, fatal)] * count
        try:
            body = json.loads(reply.content)
        except (ValueError, RecursionError):
            return [Failure(f"the server sent no chat completion: {self._shown(reply.text)}", retryable=True)] * count
        return self._read(body, self.count_tokens([chat])[0], count)

    def _read(self, body: Any, estimate: int, count: int) -> list[Answer]:
        """The answers in a server's reply, of whatever form it is."""
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list):
            wrong = body.get("error") if isinstance(body, dict) else None
            what = "an error instead of an answer" if wrong else "no chat completion"
            said = _words(wrong) if wrong else json.dumps(body)
            return [Failure(f"the server sent {what}: {self._shown(said)}", retryable=True)] * count
        usage = body.get("usage")
        used = _count(usage, "prompt_tokens") or estimate
        written = _count(usage, "completion_tokens")
        answers = [self._choice(choice, used, written // len(choices)) for choice in choices[:count]]
        missing = Failure(f"the server sent {len(choices)} of {count} answers", retryable=True)
        return answers + [missing] * (count - len(answers))

    def _choice(self, choice: Any, used: int, written: int) -> Answer:
        """One answer; `written` is 0 where the server does not count its tokens."""
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            return Failure(f"the server sent a choice without a message: {self._shown(json.dumps(choice))}", True)
        finish = choice.get("finish_reason")
        if finish == "content_filter":
            return Failure("the server's content filter held the answer back", retryable=False)
        if isinstance(refusal := message.get("refusal"), str) and refusal.strip():
            return Failure(f"the model refused: {self._shown(refusal)}", retryable=False)
        text = self._keyless(_text(message.get("content")))
        if not text.strip():
            thought = next((t for t in map(message.get, _THOUGHT) if isinstance(t, str) and t.strip()), "")
            if thought:
                hint = "raise max_new_tokens, or turn off the model's thinking (engine.extra)"
                return Failure(f"the server sent only what the model thought, no answer: {hint}", retryable=False)
            return Failure("the server sent an empty answer", retryable=True)
        return answer(
            text, "length" if finish == "length" else "stop", prompt_tokens=used,
            new_tokens=written or math.ceil(len(text) / _CHARACTERS_PER_TOKEN), seconds=0.0,
        )  # fmt: skip

    def _failure(self, error: Exception, fatal: list[LlmcfError]) -> Failure:
        """What a row failed of; what no other row can do better is noted in `fatal`."""
        config, status = self.config, getattr(error, "status_code", None)
        said = self._shown(_said(error))
        stop = None
        if status in (401, 403):
            host, name = Host.of(config.base_url), self._variable
            stop = ModelError(
                f"the server answers {status}: {_state(name, self._key)}", code="server-refused", where=config.base_url,
                hint=f"export {name}=… with a key of this server" if name
                else f"llmcf keys allow {host} --env VARIABLE_WITH_ITS_KEY",
            )  # fmt: skip
        elif status == 404:
            stop = ModelError(
                f"the server answers 404 for the model {config.model!r}: {said}",
                code="server-model-unknown", where=config.base_url,
                hint="correct the engine's model or base_url (for most servers, it ends in /v1)",
            )  # fmt: skip
        elif status in _REDIRECTS:
            target = getattr(error, "response").headers.get("location", "nowhere")  # noqa: B009
            stop = ModelError(
                f"the server answers {status} and redirects to {self._shown(target)}; prompts are not sent there",
                code="server-redirect", where=config.base_url, hint="if you trust it, set the engine's base_url to it",
            )  # fmt: skip
        elif status == 429 and getattr(error, "code", None) == "insufficient_quota":
            stop = ModelError(
                "the account has no quota left", code="server-quota", where=config.base_url, hint="add quota, or wait"
            )
        elif is_too_long(error):
            return Failure(f"the server sent {self._shown(_root(error))}", retryable=False)
        elif isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            cause = self._shown(error.__cause__ or error)
            stop = ModelError(
                f"the server cannot be reached: {cause}", code="server-unreachable", where=config.base_url,
                hint="start it, or correct the engine's base_url; finished texts are kept",
            )  # fmt: skip
        if stop is not None:
            fatal.append(stop)
            return Failure(stop.what, retryable=True)
        if isinstance(error, openai.APITimeoutError):
            return Failure(f"no answer within {config.timeout:g} s", retryable=True)
        if isinstance(error, openai.APIStatusError):
            retryable = error.status_code in (408, 409, 429) or error.status_code >= 500
            return Failure(f"the server answers {status}: {said}", retryable)
        return Failure(f"the server sent no chat completion: {said}", retryable=True)

    def _keyless(self, text: str) -> str:
        """A text without the key: a server that repeats it would have it kept, and passed on in a bundle."""
        for spelling in self._spellings:
            text = text.replace(spelling, "***")
        return text

    def _shown(self, found: Any) -> str:
        """The beginning of what came back, on one line, without the key."""
        text = self._keyless(" ".join(storable(str(found)).split()))
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _spellings(key: str) -> list[str]:
    """A key as it stands in a header, in JSON, in JSON within JSON, in an address and in HTML, longest first."""
    if len(key) < _SHORTEST_KEY:
        return []
    quoted = json.dumps(key)[1:-1]
    found = {key, quoted, json.dumps(quoted)[1:-1], repr(key)[1:-1], quote(key), quote(key, safe=""),
             html.escape(key), html.escape(key, quote=False)}  # fmt: skip
    return sorted(found, key=len, reverse=True)


def _state(variable: str | None, key: str) -> str:
    """What is the matter with a key, in words."""
    if variable is None:
        return "it requires a key, but you allowed it none"
    return f"the key in {variable} is {'rejected' if key else 'not set'}"


class Pace:
    """Lets threads go one after the other, evenly spread over the minute.

    Args:
        per_minute: How many; None: nobody waits.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._lock, self._next = threading.Lock(), 0.0

    def wait(self) -> None:
        """Return when it is the caller's turn."""
        if not self._gap:
            return
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap
        time.sleep(max(0.0, turn - time.monotonic()))


def _text(content: Any) -> str:
    """What a message says: its text, or that of its parts; what it thought is left out."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [
        part if isinstance(part, str) else part.get("text")
        for part in parts
        if isinstance(part, str) or (isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS)
    ]
    return "\n\n".join(text for text in texts if isinstance(text, str))


def _count(usage: Any, name: str) -> int:
    """A number of tokens as a server counts them; 0 where it does not."""
    try:
        found = float(usage[name])
    except (KeyError, IndexError, TypeError, ValueError, OverflowError):
        return 0
    return int(found) if math.isfinite(found) and found > 0 else 0


def _said(error: Exception) -> str:
    """What a server said of a failure: its message in OpenAI's form, or the body as it came."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and body.get("message"):
        return _words(body)
    response = getattr(error, "response", None)
    return (response.text if response is not None else "") or str(error)


def _root(error: BaseException) -> BaseException:
    """What an error was raised for, at the bottom."""
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _words(wrong: Any) -> str:
    """The message of an error in OpenAI's form, or all of it."""
    said = wrong.get("message") if isinstance(wrong, Mapping) else wrong
    return said if isinstance(said, str) else json.dumps(wrong)


def _requests(chats: Sequence[Messages], most: int) -> list[list[int]]:
    """Rows of neighbouring equal chats, at most `most` to a request."""
    runs = [list(rows) for _, rows in itertools.groupby(range(len(chats)), key=lambda row: chats[row])]
    return [run[start : start + most] for run in runs for start in range(0, len(run), most)]


def _lasting(answer: Answer, seconds: float) -> Answer:
    if isinstance(answer, Failure):
        return answer
    return Completion(answer.text, answer.finish_reason, answer.prompt_tokens, answer.new_tokens, seconds)
