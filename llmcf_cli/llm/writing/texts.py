"""Generated texts, each made once: the cache by prompt, model, decoding settings and index, and what fills it.

Texts are committed batch by batch: a killed run loses at most one batch, and whoever asks the same again pays nothing.
Calls that fail are made again after all others; one that keeps failing is set aside, and the rest goes on. Several
processes may fill the same cache (`llm.workers`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.engines.base import Completion, Engine, Failure
from llmcf_cli.llm.prompts.batches import unfinished
from llmcf_cli.llm.prompts.chat import fit_histories
from llmcf_cli.llm.prompts.spoken import spoken
from llmcf_cli.llm.writing.workers import Call, CallState, SharedTexts
from llmcf_cli.scale import LocalPool, Pool

TRIES = 3
"""Failures after which a call is set aside, where a recipe does not say."""

_POLL = 0.2  # seconds between two looks at what other workers are making
_RECENT = 1024  # texts that a rate is taken from
_TEXTS = """
SELECT prompt_hash, sample_index, text, finish_reason, prompt_tokens, new_tokens FROM generation
WHERE model_digest = ? AND decode_hash = ? AND sample_index < ? AND prompt_hash IN (SELECT value FROM json_each(?))
ORDER BY prompt_hash, sample_index
"""
_PACE = """
SELECT count(*), avg(prompt_tokens), avg(new_tokens), avg(seconds) FROM (
    SELECT * FROM generation WHERE model_digest = ? AND decode_hash = ? AND finished IS NOT NULL
    ORDER BY finished DESC, prompt_hash LIMIT ?
)
"""


@dataclass(frozen=True)
class Ask:
    """A prompt that fits the model.

    Attributes:
        messages: The chat.
        prompt_hash: Its digest.
        tokens: Its length.
        shortened: Whether the oldest of its history was left out.
        changed: What the engine changed in it, in words.
    """

    messages: list[dict[str, str]]
    prompt_hash: str
    tokens: int
    shortened: bool
    changed: tuple[str, ...] = ()

    @property
    def readable(self) -> str:
        """The chat as one text."""
        return "\n\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True)
class Fault:
    """How to word that a prompt is too long even without any history.

    Attributes:
        name: Index of the prompt → what it is about, e.g. `sample 7`.
        where: Stage.
        hint: What to change.
    """

    name: Callable[[int], str]
    where: str
    hint: str


Render = Callable[[int, list[str]], list[dict[str, str]]]
"""(Index of a subject, as much of its history as is kept) → chat."""


def fitted(engine: Engine, histories: Sequence[Sequence[str]], render: Render) -> list[Ask]:
    """The prompts of some subjects, without the oldest of their history where they would be too long.

    Args:
        engine: What will be asked.
        histories: Each subject's history, oldest first; empty where it has none.
        render: Makes a prompt.

    Returns:
        One per subject. One that is too long even without any history has more tokens than the engine allows.
    """

    def measure(indices: list[int], kept: list[list[str]]) -> list[int]:
        return engine.count_tokens(
            [engine.as_sent(render(i, history))[0] for i, history in zip(indices, kept, strict=True)]
        )

    fitting, tokens = fit_histories(histories, engine.max_prompt_tokens(), measure)
    asks = []
    for index, (history, count) in enumerate(zip(fitting, tokens, strict=True)):
        messages, changed = engine.as_sent(render(index, history))
        asks.append(Ask(messages, digest_json(messages), count, len(history) < len(histories[index]), changed))
    return asks


def fit_asks(engine: Engine, histories: Sequence[Sequence[str]], render: Render, fault: Fault) -> list[Ask]:
    """`fitted`, where a prompt that does not fit is an error, worded by `fault`.

    Raises:
        LlmcfError: A prompt is too long without any history.
    """
    asks = fitted(engine, histories, render)
    longest = engine.max_prompt_tokens()
    for index, ask in enumerate(asks):
        if ask.tokens > longest:
            raise LlmcfError(
                f"the prompt of {fault.name(index)} has {ask.tokens} tokens without any history; at most {longest} fit",
                code="prompt-too-long", where=fault.where, hint=fault.hint,
            )  # fmt: skip
    return asks


@dataclass(frozen=True)
class Candidate:
    """A text for a prompt.

    Attributes:
        index: Its place among the prompt's texts.
        text: The answer.
        finish_reason: `stop` or `length`.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens generated.
    """

    index: int
    text: str
    finish_reason: str
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class CallPace:
    """What a call took on average, over the last texts of a model and its settings.

    Attributes:
        calls: How many texts that is.
        prompt_tokens: Mean tokens of a prompt.
        new_tokens: Mean tokens of an answer.
        seconds: Mean seconds of a call; of calls that ran together, each one's share.
    """

    calls: int
    prompt_tokens: float
    new_tokens: float
    seconds: float


@dataclass(frozen=True)
class Batch:
    """Leased calls that are made together.

    Attributes:
        calls: What they are.
        chats: Their prompts.
        seeds: One per call.
        longest: Most tokens of an answer; 0 where the engine does not say.
    """

    calls: list[Call]
    chats: list[list[dict[str, str]]]
    seeds: list[int]
    longest: int


Answers = list[Completion | Failure]


class TextCache:
    """The texts of an engine and a model in the table `generation`.

    Args:
        store: The cache's file.
        engine: Opened with the model.
        model_digest: Names the model's content.
        seed: Of this use of the engine.
        tries: Failures after which a call is set aside.
        pool: Who makes batches, if not this process with the engine; each answers as `Writer` does.

    Attributes:
        samples: Texts per prompt and round.
        generated: Texts made so far.
        failed: Failures so far; a call may have several.
        prompt_tokens: Tokens read so far.
        new_tokens: Tokens generated so far.
        seconds: Time spent generating so far.
    """

    def __init__(
        self, store: SharedTexts, engine: Engine, model_digest: str, seed: int, *, tries: int = TRIES,
        pool: Pool[Batch, Answers] | None = None,
    ) -> None:  # fmt: skip
        self._pool = pool or LocalPool(lambda batch: engine.generate(batch.chats, batch.seeds))
        self._store, self._engine, self._model, self._seed, self._tries = store, engine, model_digest, seed, tries
        settings = engine.decode_settings(seed)
        self._decode, self._settings = digest_json(settings), json.dumps(settings, sort_keys=True)
        self.samples = engine.samples
        self.generated = self.failed = self.prompt_tokens = self.new_tokens = self._finished = 0
        self.seconds = 0.0
        self._starting: Callable[[], None] | None = None

    def before_first(self, starting: Callable[[], None]) -> None:
        """Have something done, once, before the next text is made; it may make some itself by `warm_up`."""
        self._starting = starting

    @property
    def cached(self) -> int:
        """Texts found so far, made by earlier runs or, meanwhile, by other workers."""
        return self._finished - self.generated

    @property
    def longest(self) -> int:
        """Most tokens of an answer; 0 where the engine does not say."""
        return int(json.loads(self._settings).get("max_new_tokens", 0))

    @property
    def names(self) -> tuple[str, str, str]:
        """Digest of the model, digest of the settings, and the settings as JSON: what its texts are named by."""
        return self._model, self._decode, self._settings

    @property
    def draws(self) -> bool:
        """Whether another seed gives another text."""
        return self._engine.decode_settings(self._seed) != self._engine.decode_settings(self._seed + 1)

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second; 0 before any."""
        return self.new_tokens / self.seconds if self.seconds else 0.0

    def complete(self, asks: Sequence[Ask], task: Any, *, round_: int = 0) -> None:
        """Make whatever of the asks' texts is missing; return once each is there or set aside.

        Args:
            asks: Prompts.
            task: Told of each prompt that is done.
            round_: 0: the first `samples` texts of each prompt; 1: the next as many; and so on.
        """
        samples = self.samples
        wanted = self._calls(asks, range(round_ * samples, (round_ + 1) * samples))
        open_ = self._open(wanted)
        if open_ and self._starting:
            starting, self._starting = self._starting, None
            starting()
            open_ = self._open(wanted)
        # Prompts to texts, so that the bar ends at the number of prompts; further rounds are of prompts it has counted.
        share = 0 if round_ else len(asks) / max(len(wanted), 1)
        left = len(open_)
        task.skip(share * (len(wanted) - left))
        while open_:
            before = self.generated + self.failed
            for done in self._make(self._batches(wanted, open_), wanted):
                left -= done
                task.advance(share * done)
                task.note(self._note())
            if self.generated + self.failed == before:
                task.note("waiting for another worker's texts")
                time.sleep(_POLL)
            open_ = self._open(wanted)
        task.skip(share * left)
        self._finished += sum(state.finished for state in self._store.states(list(wanted)).values())

    def warm_up(self, asks: Sequence[Ask]) -> None:
        """Make one batch of middling length, so that there is a pace; one that `complete` would make too."""
        wanted = self._calls(asks, range(self.samples))
        batches = list(self._batches(wanted, self._open(wanted)))
        if batches:
            for _ in self._make([batches[len(batches) // 2]], wanted):
                pass

    def of(self, asks: Sequence[Ask]) -> dict[str, list[tuple[str, str]]]:
        """(text, finish reason) of each prompt's first texts, by prompt hash; a prompt that failed has none."""
        return {key: [(c.text, c.finish_reason) for c in found] for key, found in self.candidates(asks).items()}

    def candidates(self, asks: Sequence[Ask], *, rounds: int = 1) -> dict[str, list[Candidate]]:
        """The texts of so many rounds by prompt hash, in the order of their index; a prompt that failed has none."""
        hashes = [ask.prompt_hash for ask in asks]
        with self._store.transaction() as connection:
            values = [self._model, self._decode, rounds * self.samples, json.dumps(hashes)]
            rows = connection.execute(_TEXTS, values).fetchall()
        found: dict[str, list[Candidate]] = {}
        for prompt_hash, index, text, *rest in rows:
            said, _ = spoken(text)  # earlier versions kept think blocks
            found.setdefault(prompt_hash, []).append(Candidate(index, said, *rest))
        return found

    def set_aside(self, asks: Sequence[Ask]) -> dict[str, CallState]:
        """The last failure of each prompt of which some first text was set aside, by prompt hash."""
        calls = self._calls(asks, range(self.samples))
        states = self._store.states(list(calls))
        return {call[0]: state for call, state in states.items() if state.is_set_aside(self._tries)}

    def forget_failures(self) -> None:
        """Give what was set aside, of this model with these settings, all its tries again."""
        with self._store.transaction() as connection:
            connection.execute(
                "DELETE FROM generation_failure WHERE model_digest = ? AND decode_hash = ?", [self._model, self._decode]
            )

    def missing(self, asks: Sequence[Ask]) -> list[Ask]:
        """The prompts whose first texts are still to be made, once for each text."""
        wanted = self._calls(asks, range(self.samples))
        return [wanted[call] for call in self._open(wanted)]

    def pace(self) -> CallPace | None:
        """Of the last texts that this model wrote with these settings, whatever the prompt; None before any."""
        with self._store.transaction() as connection:
            calls, *means = connection.execute(_PACE, [self._model, self._decode, _RECENT]).fetchone()
        return CallPace(calls, *means) if calls else None

    def _calls(self, asks: Sequence[Ask], indices: range) -> dict[Call, Ask]:
        return {(ask.prompt_hash, self._model, self._decode, index): ask for ask in asks for index in indices}

    def _open(self, wanted: dict[Call, Ask]) -> dict[Call, CallState]:
        states = self._store.states(list(wanted))
        return {
            call: states[call]
            for call in wanted
            if not (states[call].finished or states[call].is_set_aside(self._tries))
        }

    def _batches(self, wanted: dict[Call, Ask], open_: dict[Call, CallState]) -> Iterator[list[Call]]:
        def group(calls: Sequence[Call]) -> list[list[Call]]:
            batches = self._engine.batches([wanted[call].tokens for call in calls])
            return [[calls[i] for i in batch] for batch in batches]

        return unfinished(list(wanted), wanted.keys() - open_.keys(), group)

    def _make(self, batches: Iterable[list[Call]], wanted: dict[Call, Ask]) -> Iterator[int]:
        """Lease, generate and commit the texts of calls; how many got one, batch by batch as they come."""
        for batch, answers in self._pool.map(self._leased(batches, wanted)):
            yield self._keep(batch, answers)

    def _leased(self, batches: Iterable[list[Call]], wanted: dict[Call, Ask]) -> Iterator[Batch]:
        for batch in batches:
            calls = self._store.claim(batch, self._tries)
            if calls:
                seeds = [derive_seed(self._seed, call[0], call[3]) for call in calls]
                yield Batch(calls, [wanted[call].messages for call in calls], seeds, self.longest)

    def _keep(self, batch: Batch, done: Answers) -> int:
        """Commit what came of a batch; how many calls got a text."""
        texts, failures = {}, {}
        for call, seed, answer in zip(batch.calls, batch.seeds, done, strict=True):
            if isinstance(answer, Failure):
                failures[call] = (answer.reason, answer.retryable)
            else:
                texts[call] = (*_columns(answer), self._settings, seed)
        self._store.commit(texts, failures)
        completions = [answer for answer in done if isinstance(answer, Completion)]
        self.generated += len(completions)
        self.failed += len(failures)
        self.prompt_tokens += sum(c.prompt_tokens for c in completions)
        self.new_tokens += sum(c.new_tokens for c in completions)
        self.seconds += sum(c.seconds for c in completions)
        return len(completions)

    def _note(self) -> str:
        failed = f", {self.failed:,} failed" if self.failed else ""
        return f"{self.tokens_per_second:,.0f} tokens/s{failed}" if self.seconds else failed.removeprefix(", ")


def _columns(answer: Completion) -> tuple[Any, ...]:
    return answer.text, answer.finish_reason, answer.prompt_tokens, answer.new_tokens, answer.seconds
