"""General instructions from files: pairs in columns (Alpaca) or conversations (chat messages, ShareGPT)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.llm.config import JsonlMixConfig, ParquetMixConfig
from llmcf_cli.llm.mix.mixture import MixContext, MixSample, measured
from llmcf_cli.llm.mix.records import Record, UnreadableError, list_of, read_records, text_of
from llmcf_cli.llm.prompts.chat import SYSTEM_JOINED, Messages, TemplateRefusal, chats_of

UNREADABLE, REFUSED = "unreadable", "refused by the chat template"
"""Reasons of rows that count against `max_bad_rows`."""

_BLOCK = 1024
_EXAMPLES = 3
_ROLES = {
    "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system", "developer": "system",
}  # fmt: skip
_CONVERSATIONS = ("messages", "conversations", "conversation")
_SPACE = re.compile(r"\W+")


@dataclass(frozen=True)
class _Pair:
    """A row's chat and answer.

    Attributes:
        row: Its number in the file, from 0.
        place: Where it stands.
        prompt: Empty where the row has none.
        completion: Empty where the row has none.
        problem: Why the row cannot be used; empty where it can.
    """

    row: int
    place: str
    prompt: Messages = ()
    completion: str = ""
    problem: str = ""


class FileSource:
    """Instruction–answer pairs of a Parquet or JSON file: equal ones once, none that an evaluation set holds.

    Attributes:
        counts: Rows left out, and chats changed, by reason.
        bad: A few rows that cannot be used, each with its place and reason.
    """

    def __init__(self, config: ParquetMixConfig | JsonlMixConfig, context: MixContext) -> None:
        self._config, self._context = config, context
        self._path = context.locate(config.path)
        self._chats = chats_of(context.tokenizer)
        self.counts = {
            UNREADABLE: 0, REFUSED: 0, "repeated": 0, "repeated but for case or spacing": 0, "empty": 0, "too long": 0,
            "in an evaluation set": 0, SYSTEM_JOINED: 0,
        }  # fmt: skip
        self.bad: list[str] = []
        self._first_bad: tuple[str, str] | None = None
        self._fitting: list[int] | None = None

    def capacity(self) -> int:
        """Different, non-empty pairs that fit into the length and are in no evaluation set.

        Raises:
            DataError: The file or a column is missing, or more rows than `max_bad_rows` cannot be used.
        """
        return len(self._usable())

    def draw(self, count: int) -> Iterator[MixSample]:
        """Up to `count` pairs, drawn by the seed."""
        usable = np.array(self._usable())
        order = np.random.default_rng(self._context.seed).permutation(len(usable))[:count]
        chosen = set(usable[order].tolist())
        pairs = (pair for pair in self._pairs() if pair.row in chosen)
        while block := list(islice(pairs, _BLOCK)):
            self.counts[SYSTEM_JOINED] += sum(len(self._chats.as_read(p.prompt)) < len(p.prompt) for p in block)
            yield from measured(self._context.tokenizer, [(p.prompt, p.completion) for p in block])

    def _usable(self) -> list[int]:
        if self._fitting is None:
            self._fitting, rows = [], 0
            pairs = self._pairs()
            while block := list(islice(pairs, _BLOCK)):
                rows += len(block)
                self._fitting += self._sift(block)
            self._stop_at_bad_rows(rows)
        return self._fitting

    def _sift(self, block: Sequence[_Pair]) -> list[int]:
        """The rows of a block that can be used; the others are counted."""
        context, left = self._context, []
        for pair in block:
            reason = self._against(pair)
            if reason:
                self.counts[reason] += 1
            else:
                left.append(pair)
        samples = measured(context.tokenizer, [(pair.prompt, pair.completion) for pair in left])
        fitting = []
        for pair, sample in zip(left, samples, strict=True):
            if sample.prompt_tokens + sample.completion_tokens > context.max_length:
                self.counts["too long"] += 1
            elif context.evaluation and context.evaluation.meet(_text(pair)):
                self.counts["in an evaluation set"] += 1
            else:
                fitting.append(pair.row)
        return fitting

    def _against(self, pair: _Pair) -> str:
        """Why a pair is not usable, whatever its length; empty if it may be."""
        if pair.problem:
            return self._is_bad(pair, UNREADABLE, pair.problem)
        if not pair.prompt or not pair.completion:
            return "empty"
        try:
            self._chats.as_read(pair.prompt)
        except TemplateRefusal as error:
            return self._is_bad(pair, REFUSED, error.what)
        exact, loose = _key(_text(pair)), _key(_SPACE.sub(" ", _text(pair).lower()))
        seen = self._context.seen
        if loose in seen:
            return "repeated" if exact in seen else "repeated but for case or spacing"
        seen.update((exact, loose))
        return ""

    def _is_bad(self, pair: _Pair, reason: str, why: str) -> str:
        self._first_bad = self._first_bad or (pair.place, why)
        if len(self.bad) < _EXAMPLES:
            self.bad.append(f"{pair.place}: {why}")
        return reason

    def _stop_at_bad_rows(self, rows: int) -> None:
        bad, most = self.counts[UNREADABLE] + self.counts[REFUSED], self._config.max_bad_rows
        if self._first_bad and bad > most * rows:
            place, why = self._first_bad
            raise DataError(
                f"{bad:,} of {rows:,} rows cannot be used; the first: {why}", code="rows-unusable", where=place,
                hint=f"correct the rows, or raise max_bad_rows ({most:g}) of this source in llm.mix to leave them out",
            )  # fmt: skip

    def _pairs(self) -> Iterator[_Pair]:
        """Every row, in the file's order.

        Raises:
            DataError: No row has a column that the source names.
        """
        known: dict[str, None] = {}
        first = ""
        for row, record in enumerate(read_records(self._path, self._config.type)):
            if record.problem:
                yield _Pair(row, record.place, problem=record.problem)
                continue
            first = first or record.place
            known.update(dict.fromkeys(map(str, record.values)))
            try:
                yield _Pair(row, record.place, *self._read(record))
            except UnreadableError as error:
                yield _Pair(row, record.place, problem=str(error))
        if known:
            _check_columns(self._wanted(), list(known), first)

    def _wanted(self) -> list[str]:
        """The columns that some row must have; the default `input` is none of them."""
        config = self._config
        if config.conversation:
            return [config.conversation]
        asked = [config.input] if config.input not in ("", type(config).model_fields["input"].default) else []
        return [config.instruction, *asked, config.output]

    def _read(self, record: Record) -> tuple[Messages, str]:
        config, values = self._config, record.values
        if config.conversation:
            return _last_answer(list_of(values.get(config.conversation)))
        texts = []
        for column in (config.instruction, config.input, config.output):
            try:
                texts.append(text_of(values.get(column)) if column else "")
            except UnreadableError as error:
                raise UnreadableError(f"{column}: {error}") from error
        question = "\n\n".join(filter(None, texts[:2]))
        return [{"role": "user", "content": question}] if texts[0] else [], texts[2]


def _last_answer(conversation: Sequence[Any]) -> tuple[Messages, str]:
    """A conversation up to its last answer, and that answer; empty where there is none."""
    messages = []
    for number, turn in enumerate(conversation, 1):
        if not isinstance(turn, dict):
            raise UnreadableError(f"turn {number} is not an object with role and content, or from and value")
        speaker = turn.get("role", turn.get("from"))
        role = _ROLES.get(str(speaker).strip().lower())
        if role is None:
            raise UnreadableError(f"turn {number} is by {speaker!r}, not by one of {', '.join(_ROLES)}")
        content = turn.get("content", turn.get("value"))
        try:
            said = "" if content == [] else text_of(content)
        except UnreadableError as error:
            raise UnreadableError(f"turn {number}: {error}") from error
        if said or role != "system":  # a system turn that says nothing is none
            messages.append({"role": role, "content": said})
    while messages and messages[-1]["role"] != "assistant":
        messages.pop()
    if len(messages) < 2 or not all(m["content"] for m in messages[:-1]):
        return [], ""
    return messages[:-1], messages[-1]["content"]


def _text(pair: _Pair) -> str:
    return "\x1f".join([*(message["content"] for message in pair.prompt), pair.completion])


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


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
        raise DataError(f'has no column "{name}"', code="column-missing", where=where, allowed=list(found), hint=hint)
