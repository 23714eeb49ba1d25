"""General instructions from files: pairs in columns (Alpaca) or conversations (chat messages, ShareGPT)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.llm.config import JsonlMixConfig, ParquetMixConfig
from llmcf_cli.llm.engines.base import Messages
from llmcf_cli.llm.mixture import MixContext, MixSample, measured

_BLOCK = 1024
_ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "model": "assistant", "system": "system",
}  # fmt: skip
_CONVERSATIONS = ("messages", "conversations", "conversation")
_SPACE = re.compile(r"\W+")


class FileSource:
    """Instruction–answer pairs of a Parquet or JSON file: equal ones once, none that an evaluation set holds."""

    def __init__(self, config: ParquetMixConfig | JsonlMixConfig, context: MixContext) -> None:
        self._config, self._context = config, context
        self._path = context.locate(config.path)
        self.counts = {"repeated": 0, "repeated but for case or spacing": 0, "empty": 0, "too long": 0,
                       "in an evaluation set": 0}  # fmt: skip
        self._fitting: list[int] | None = None

    def capacity(self) -> int:
        """Different, non-empty pairs that fit into the length and are in no evaluation set."""
        return len(self._usable())

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` pairs, drawn by the seed."""
        usable = np.array(self._usable())
        order = np.random.default_rng(self._context.seed).permutation(len(usable))[:count]
        chosen = set(usable[order].tolist())
        for row, prompt, completion in self._pairs():
            if row in chosen:
                yield measured(self._context.tokenizer, prompt, completion)

    def _usable(self) -> list[int]:
        """Numbers of the usable rows, by one pass over the file."""
        if self._fitting is None:
            self._fitting = []
            for row, prompt, completion in self._pairs():
                reason = self._against(prompt, completion)
                if reason:
                    self.counts[reason] += 1
                else:
                    self._fitting.append(row)
        return self._fitting

    def _against(self, prompt: Messages, completion: str) -> str:
        """Why a pair is not usable; empty if it is."""
        context = self._context
        if not prompt or not completion:
            return "empty"
        text = "\x1f".join([*(message["content"] for message in prompt), completion])
        exact, loose = _key(text), _key(_SPACE.sub(" ", text.lower()))
        if loose in context.seen:
            return "repeated" if exact in context.seen else "repeated but for case or spacing"
        context.seen.update((exact, loose))
        sample = measured(context.tokenizer, prompt, completion)
        if sample.prompt_tokens + sample.completion_tokens > context.max_length:
            return "too long"
        return "in an evaluation set" if context.evaluation and context.evaluation.meet(text) else ""

    def _pairs(self) -> Iterator[tuple[int, Messages, str]]:
        """(row number, prompt, answer) of every row, in the file's order; empty where a row has none."""
        config = self._config
        pair = [name for name in (config.instruction, config.input, config.output) if name]
        columns = [config.conversation] if config.conversation else pair
        rows = _parquet_rows if config.type == "parquet" else _json_rows
        for row, values in enumerate(rows(self._path, columns)):
            if config.conversation:
                yield row, *_last_answer(values[config.conversation], f"{self._path}: row {row + 1}")
                continue
            texts = {name: str(values[name] or "").strip() for name in columns}
            about = texts.get(config.input, "")
            question = "\n\n".join(filter(None, [texts[config.instruction], about]))
            yield row, [{"role": "user", "content": question}] if question else [], texts[config.output]


def _last_answer(conversation: Any, where: str) -> tuple[Messages, str]:
    """A conversation up to its last answer, and that answer; empty where there is none."""
    messages = []
    for turn in conversation or ():
        if not isinstance(turn, dict):
            raise DataError("a conversation is a list of {role, content} or {from, value}", where=where)
        speaker = turn.get("role", turn.get("from"))
        role = _ROLES.get(str(speaker))
        if role is None:
            raise DataError(f"a turn is said by {speaker!r}", where=where, allowed=tuple(_ROLES))
        messages.append({"role": role, "content": str(turn.get("content", turn.get("value")) or "").strip()})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    return (messages[:-1], messages[-1]["content"]) if len(messages) > 1 else ([], "")


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"is no readable Parquet file: {error}", where=str(path)) from error
    with file:
        _check_columns(columns, file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=_BLOCK, columns=list(columns)):
            yield from batch.to_pylist()


def _json_rows(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for where, values in _json_values(path):
        if not isinstance(values, dict):
            raise DataError("is no JSON object", where=where)
        _check_columns(columns, list(values), where)
        yield values


def _json_values(path: Path) -> Iterator[tuple[str, Any]]:
    """(place, value) of every line, or of every element of the one array that the file holds."""
    try:
        with path.open(encoding="utf-8") as handle:
            if handle.read(1) == "[":
                handle.seek(0)
                yield from ((f"{path}: element {n}", value) for n, value in enumerate(_array(handle.read(), path), 1))
                return
            handle.seek(0)
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    yield where, json.loads(line)
                except ValueError as error:
                    raise DataError(f"is no JSON: {error}", where=where) from error
    except FileNotFoundError as error:
        raise DataError("no such file", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"is not UTF-8: {error.reason}", where=str(path)) from error


def _array(text: str, path: Path) -> list[Any]:
    try:
        found: list[Any] = json.loads(text)
    except ValueError as error:
        raise DataError(f"is no JSON: {error}", where=str(path)) from error
    return found


def _check_columns(wanted: Sequence[str], found: Sequence[str], where: str) -> None:
    for name in wanted:
        if name in found:
            continue
        talk = next((column for column in _CONVERSATIONS if column in found), None)
        near = closest(name, found)
        if talk:
            hint = f"set the source's conversation: {talk}"
        elif near:
            hint = f'set the source\'s column to "{near}"'
        else:
            hint = "name the file's columns in the source"
        raise DataError(f'has no column "{name}"', where=where, allowed=list(found), hint=hint)
