"""Generation by a server that speaks OpenAI's chat completions.

The `openai` package does the requests and their retries (408, 409, 429, 5xx, no connection, too slow; after the
server's `Retry-After` or an exponential wait with jitter). What is here: many requests at a time, a limit per minute
that counts retries too, and telling what ends the run (wrong key, model or address) from what one row failed of.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from math import ceil
from pathlib import Path
from typing import Any

import openai
from openai import DefaultHttpxClient, OpenAI

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.core.types import key_view
from llmcf_cli.llm.config import OpenAIEngineConfig
from llmcf_cli.llm.engines.base import Adjustable, Completion, Failure, Messages
from llmcf_cli.llm.models import load_tokenizer

_CHARACTERS_PER_TOKEN = 3  # cautious for English, where a token is about four; so prompts rather end up too short
_TOKENS_PER_MESSAGE = 8  # role and separators
_NOT_DECODING = ("samples", "max_prompt_tokens", "tokenizer")
_SEEDS = 2**31  # servers take a signed 32-bit seed at least
_SHOWN = 200  # characters of a server's answer in a message

Answer = Completion | Failure


class OpenAIEngine(Adjustable):
    """Chat completions over HTTP; a row whose request fails is a `Failure`, the others of its batch are kept."""

    def __init__(self, config: OpenAIEngineConfig) -> None:
        super().__init__(config)
        self._key = os.environ.get(config.api_key_env, "")
        self._tokenizer: Any = None
        pace = Pace(config.requests_per_minute)
        self._client = OpenAI(
            api_key=self._key or "none", base_url=config.base_url, timeout=config.timeout, max_retries=config.retries,
            http_client=DefaultHttpxClient(event_hooks={"request": [lambda request: pace.wait()]}),
        )  # fmt: skip

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
        return self.config.max_prompt_tokens

    def count_tokens(self, chats: Sequence[Messages]) -> list[int]:
        """Tokens of each prompt by the local tokenizer, or an estimate: a third of the characters and 8 per message."""
        if self._tokenizer is None:
            return [
                sum(_TOKENS_PER_MESSAGE + ceil(len(m["content"]) / _CHARACTERS_PER_TOKEN) for m in chat)
                for chat in chats
            ]
        rendered = self._tokenizer.apply_chat_template(
            [list(chat) for chat in chats], tokenize=False, add_generation_prompt=True
        )
        return [len(ids) for ids in self._tokenizer(rendered, add_special_tokens=False)["input_ids"]]

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
            reply = self._client.chat.completions.create(
                model=config.model, messages=[dict(m) for m in chat], temperature=config.temperature,
                extra_body=config.extra or None, **options,
            )  # fmt: skip
        except (openai.OpenAIError, ValueError) as error:  # ValueError: the body is no JSON
            return [self._failure(error, fatal)] * count
        return self._read(reply, self.count_tokens([chat])[0], count)

    def _read(self, reply: Any, estimate: int, count: int) -> list[Answer]:
        choices = getattr(reply, "choices", None)
        if not isinstance(choices, list):
            return [Failure(f"the server sent no chat completion: {self._shown(reply)}", retryable=True)] * count
        usage = getattr(reply, "usage", None)
        used = getattr(usage, "prompt_tokens", None) or estimate
        written = getattr(usage, "completion_tokens", None)
        answers: list[Answer] = []
        for choice in choices[:count]:
            text = (getattr(choice.message, "content", None) or "").strip() if choice.message else ""
            if choice.finish_reason == "content_filter":
                answers.append(Failure("the server's content filter held the answer back", retryable=False))
            elif not text:
                answers.append(Failure("the server sent an empty answer", retryable=True))
            else:
                tokens = written // len(choices) if written else ceil(len(text) / _CHARACTERS_PER_TOKEN)
                reason = "length" if choice.finish_reason == "length" else "stop"
                answers.append(Completion(text, reason, used, tokens, 0.0))
        missing = Failure(f"the server sent {len(choices)} of {count} answers", retryable=True)
        return answers + [missing] * (count - len(answers))

    def _failure(self, error: Exception, fatal: list[LlmcfError]) -> Failure:
        """What a row failed of; what no other row can do better is noted in `fatal`."""
        config, status = self.config, getattr(error, "status_code", None)
        said = self._shown(_words(error))
        stop = None
        if status in (401, 403):
            state = "is refused" if self._key else "is not set"
            stop = ModelError(
                f"the server answers {status}: the key in {config.api_key_env} {state}", where=config.base_url,
                hint=f"export {config.api_key_env}=… with a key of this server",
            )  # fmt: skip
        elif status == 404:
            stop = ModelError(
                f"the server answers 404 for the model {config.model!r}: {said}", where=config.base_url,
                hint="correct model or base_url (most servers' ends in /v1) of the engine",
            )  # fmt: skip
        elif status == 429 and getattr(error, "code", None) == "insufficient_quota":
            stop = ModelError("the account has no quota left", where=config.base_url, hint="add some, or wait")
        elif isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError):
            cause = self._shown(error.__cause__ or error)
            stop = ModelError(
                f"the server cannot be reached: {cause}", where=config.base_url,
                hint="start it, or correct base_url of the engine; finished texts are kept",
            )  # fmt: skip
        if stop is not None:
            fatal.append(stop)
            return Failure(stop.what, retryable=True)
        if isinstance(error, openai.APITimeoutError):
            return Failure(f"no answer within {config.timeout:g} s", retryable=True)
        if isinstance(error, openai.APIStatusError):
            retryable = status in (408, 409, 429) or status >= 500
            return Failure(f"the server answers {status}: {said}", retryable)
        return Failure(f"the server sent no chat completion: {said}", retryable=True)

    def _shown(self, found: Any) -> str:
        """The beginning of what came back, on one line, without the key."""
        text = " ".join(str(found).split())
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


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


def _words(error: Exception) -> str:
    """What a server said of a failure: its message in OpenAI's form, or the body as it came."""
    body = getattr(error, "body", None)
    if isinstance(body, dict) and isinstance(body.get("message"), str):
        return body["message"]
    response = getattr(error, "response", None)
    return (response.text if response is not None else "") or str(error)


def _requests(chats: Sequence[Messages], most: int) -> list[list[int]]:
    """Rows of neighbouring equal chats, at most `most` to a request."""
    runs = [list(rows) for _, rows in itertools.groupby(range(len(chats)), key=lambda row: chats[row])]
    return [run[start : start + most] for run in runs for start in range(0, len(run), most)]


def _lasting(answer: Answer, seconds: float) -> Answer:
    if isinstance(answer, Failure):
        return answer
    return Completion(answer.text, answer.finish_reason, answer.prompt_tokens, answer.new_tokens, seconds)
