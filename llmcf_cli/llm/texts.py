"""Generated texts, each made once: the cache by prompt, model, decoding settings and index, and what fills it.

Texts are committed batch by batch: a killed run loses at most one batch, and whoever asks the same again pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.batches import unfinished
from llmcf_cli.llm.chat import fit_histories
from llmcf_cli.llm.engines.base import Completion, Engine, Failure
from llmcf_cli.store.tables import GENERATION

_Key = tuple[str, int]  # prompt hash and index of a text


@dataclass(frozen=True)
class Ask:
    """A prompt that fits the model.

    Attributes:
        messages: The chat.
        prompt_hash: Its digest.
        tokens: Its length.
        shortened: Whether the oldest of its history was left out.
    """

    messages: list[dict[str, str]]
    prompt_hash: str
    tokens: int
    shortened: bool


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


def fit_asks(
    engine: Engine,
    histories: Sequence[Sequence[str]],
    render: Callable[[int, list[str]], list[dict[str, str]]],
    fault: Fault,
) -> list[Ask]:
    """The prompts of some subjects, without the oldest of their history where they would be too long.

    Args:
        engine: What will be asked.
        histories: Each subject's history, oldest first; empty where it has none.
        render: (index of a subject, history) → chat.
        fault: Words the error.

    Raises:
        LlmcfError: A prompt is too long without any history.
    """

    def measure(indices: list[int], kept: list[list[str]]) -> list[int]:
        return engine.count_tokens([render(i, history) for i, history in zip(indices, kept, strict=True)])

    longest = engine.max_prompt_tokens()
    fitting, tokens = fit_histories(histories, longest, measure)
    asks = []
    for index, (history, count) in enumerate(zip(fitting, tokens, strict=True)):
        if count > longest:
            raise LlmcfError(
                f"the prompt of {fault.name(index)} has {count} tokens without any history, more than {longest}",
                where=fault.where, hint=fault.hint,
            )  # fmt: skip
        messages = render(index, history)
        asks.append(Ask(messages, digest_json(messages), count, len(history) < len(histories[index])))
    return asks


class TextCache:
    """The texts of an engine and a model in the table `generation`.

    Args:
        store: Writing connection to the cache's DuckDB file.
        engine: Opened with the model.
        model_digest: Names the model's content.
        seed: Of this use of the engine.

    Attributes:
        generated: Texts made so far.
        cached: Texts found so far.
        new_tokens: Tokens generated so far.
        seconds: Time spent generating so far.
    """

    def __init__(self, store: Any, engine: Engine, model_digest: str, seed: int) -> None:
        store.execute(GENERATION.ddl(create="CREATE TABLE IF NOT EXISTS"))
        self._store, self._engine, self._model, self._seed = store, engine, model_digest, seed
        self._decode = digest_json(engine.decode_settings(seed))
        self.generated = self.cached = self.new_tokens = 0
        self.seconds = 0.0

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second; 0 before any."""
        return self.new_tokens / self.seconds if self.seconds else 0.0

    def complete(self, asks: Sequence[Ask], task: Any) -> None:
        """Generate whatever of the asks' texts is missing, one transaction per batch."""
        known = self._known(asks)
        wanted = {(ask.prompt_hash, index): ask for ask in asks for index in range(self._engine.samples)}
        self.cached += len(known)
        share = len(asks) / max(len(wanted), 1)  # texts to prompts, so that the bar ends at the number of prompts
        task.advance(share * len(known))
        for chosen in unfinished(list(wanted), known, lambda keys: self._grouped(keys, wanted)):
            seeds = [derive_seed(self._seed, *key) for key in chosen]
            answers = self._engine.generate([wanted[key].messages for key in chosen], seeds)
            done = [(key, found) for key, found in zip(chosen, answers, strict=True) if isinstance(found, Completion)]
            if done:
                self._commit([key for key, _ in done], [found for _, found in done])
            failed = [found for found in answers if isinstance(found, Failure)]
            if failed:
                raise LlmcfError(
                    f"{len(failed)} of {len(answers)} texts of a batch failed: {failed[0].reason}", where="engine",
                    hint="run the same command again; finished texts are kept",
                )  # fmt: skip
            task.advance(share * len(chosen))
            if self.seconds:
                task.note(f"{self.tokens_per_second:,.0f} tokens/s")

    def of(self, asks: Sequence[Ask]) -> dict[str, list[tuple[str, str]]]:
        """(text, finish reason) of each prompt, by prompt hash and in the order of their index."""
        rows = self._store.execute(
            "SELECT prompt_hash, text, finish_reason FROM generation WHERE model_digest = ? AND decode_hash = ? "
            "AND sample_index < ? AND prompt_hash IN (SELECT unnest(?)) ORDER BY prompt_hash, sample_index",
            [self._model, self._decode, self._engine.samples, [ask.prompt_hash for ask in asks]],
        ).fetchall()
        found: dict[str, list[tuple[str, str]]] = {}
        for prompt_hash, text, reason in rows:
            found.setdefault(prompt_hash, []).append((text, reason))
        return found

    def _grouped(self, keys: Sequence[_Key], wanted: dict[_Key, Ask]) -> list[list[_Key]]:
        batches = self._engine.batches([wanted[key].tokens for key in keys])
        return [[keys[i] for i in batch] for batch in batches]

    def _known(self, asks: Sequence[Ask]) -> set[_Key]:
        rows = self._store.execute(
            "SELECT prompt_hash, sample_index FROM generation WHERE model_digest = ? AND decode_hash = ? "
            "AND sample_index < ? AND prompt_hash IN (SELECT unnest(?))",
            [self._model, self._decode, self._engine.samples, [ask.prompt_hash for ask in asks]],
        ).fetchall()
        return {(prompt_hash, index) for prompt_hash, index in rows}

    def _commit(self, keys: Sequence[_Key], done: Sequence[Completion]) -> None:
        rows = [
            (prompt_hash, self._model, self._decode, index, c.text, c.finish_reason, c.prompt_tokens, c.new_tokens,
             c.seconds)
            for (prompt_hash, index), c in zip(keys, done, strict=True)
        ]  # fmt: skip
        columns = [list(column) for column in zip(*rows, strict=True)]
        arrays = [pa.array(column, f.type) for column, f in zip(columns, GENERATION.schema, strict=True)]
        self._store.register("fresh", pa.Table.from_arrays(arrays, schema=GENERATION.schema))
        self._store.execute("INSERT INTO generation SELECT * FROM fresh")  # one statement, so one transaction
        self._store.unregister("fresh")
        self.generated += len(rows)
        self.new_tokens += sum(c.new_tokens for c in done)
        self.seconds += sum(c.seconds for c in done)
