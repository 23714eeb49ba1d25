"""The recommendation question put to a model, each once: the cache of answers by prompt and model, and what fills it.

The question is the one a model is tuned on (`llm.question`). Answers are committed row by row: a killed run loses at
most one row, and more samples reuse what fewer asked.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmcf_cli.core.hashing import digest_json
from llmcf_cli.llm.asking.answers import AnswerScorer
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.models.load import resolved_precision
from llmcf_cli.llm.prompts.batches import unfinished
from llmcf_cli.llm.prompts.question import questions
from llmcf_cli.llm.prompts.rows import SampleTexts, by_user, sample_texts
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read, connect_write, intact
from llmcf_cli.store.tables import ANSWER

_BLOCK = 4096  # samples whose questions are held in memory and read together
_EXAMPLES = 3


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
        question: Wording, and the two answers.
        words: Of the label.
        max_prompt_tokens: Most tokens of a question, beyond which the oldest history is left out; None: what the
            model's context allows.
        precision: `auto`, `fp32` or `bf16`.
        batch_tokens: Most tokens of a row.
        max_batch: Most questions of a row.
    """

    question: RecommendationMixConfig
    words: Words
    max_prompt_tokens: int | None
    precision: str
    batch_tokens: int
    max_batch: int


@dataclass
class Tally:
    """Running counts of what was asked.

    Attributes:
        asked: Questions put to the model by this run.
        cached: Questions whose answer was in the cache.
        shortened: Questions from which the oldest history was left out to fit.
        too_long: Samples without an answer, as their question does not fit even without any history.
        seconds: Time spent asking.
        examples: A few questions with P(yes) / (P(yes) + P(no)) and the label.
    """

    asked: int = 0
    cached: int = 0
    shortened: int = 0
    too_long: int = 0
    seconds: float = 0.0
    examples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Questions per second; 0 before any."""
        return self.asked / self.seconds if self.seconds else 0.0


@dataclass(frozen=True)
class Answers:
    """What a model answered, by sample id.

    Attributes:
        sample_id_N: Samples whose question fits, ascending, int64.
        label_N: Their labels, int8.
        logit_N: log(P(yes) / P(no)), float32.
        mass_N: P(yes) + P(no), float32.
        tally: How they were come by.
    """

    sample_id_N: np.ndarray
    label_N: np.ndarray
    logit_N: np.ndarray
    mass_N: np.ndarray
    tally: Tally


@dataclass(frozen=True)
class _Asked:
    """A sample with its question."""

    row: SampleTexts
    text: str
    prompt: list[int]
    prompt_hash: str


def ask(
    asking: Asking, scorer: AnswerScorer, ids: np.ndarray, *, data: Path, model_digest: str, cache: Path, task: Any
) -> Answers:
    """Answers to the questions of some samples.

    Samples of a user are asked together: their questions begin alike, and what begins alike is read once.

    Args:
        asking: How.
        scorer: Of the model, for the question's two answers.
        ids: Sample ids.
        data: DuckDB file of ingest.
        model_digest: Names the model's content in the cache.
        cache: DuckDB file of answers, shared between runs; one writer at a time.
        task: Advanced by one per sample.

    Raises:
        StoreError: Another process (named by pid) writes the cache.
    """
    tally, columns = Tally(), []
    with connect_read(data) as reader, intact(cache), connect_write(cache) as store:
        known = _Known(store, scorer, asking, model_digest, tally)
        for block in _blocks(by_user(reader, ids)):
            asked = _questions(sample_texts(reader, block), asking, scorer, tally)
            task.advance(len(block) - len(asked))
            known.complete(asked, task)
            columns.append(_columns(asked, known.of(asked), tally))
    id_N, label_N, logit_N, mass_N = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order_N = np.argsort(id_N, kind="stable")
    return Answers(id_N[order_N], label_N[order_N], logit_N[order_N], mass_N[order_N], tally)


def _blocks(ids: np.ndarray) -> Iterator[np.ndarray]:
    yield from (ids[start : start + _BLOCK] for start in range(0, max(len(ids), 1), _BLOCK))


def _questions(rows: Sequence[SampleTexts], asking: Asking, scorer: AnswerScorer, tally: Tally) -> list[_Asked]:
    longest = min(scorer.context, asking.max_prompt_tokens or scorer.context)

    def count(indices: list[int], texts: list[str]) -> list[int]:
        return list(map(len, scorer.encode(texts)))

    found = questions(asking.question, rows, longest, count, asking.words)
    kept = [(row, q) for row, q in zip(rows, found, strict=True) if q.tokens <= longest]
    tally.too_long += len(rows) - len(kept)
    tally.shortened += sum(q.shortened for _, q in kept)
    prompts = scorer.encode([q.text for _, q in kept]) if kept else []
    return [_Asked(row, q.text, ids, digest_json(ids)) for (row, q), ids in zip(kept, prompts, strict=True)]


class _Known:
    """The cache of answers, and what fills it."""

    def __init__(self, store: Any, scorer: AnswerScorer, asking: Asking, model_digest: str, tally: Tally) -> None:
        store.execute(ANSWER.ddl(create="CREATE TABLE IF NOT EXISTS"))
        self._store, self._scorer, self._asking, self._tally = store, scorer, asking, tally
        tokens = {"positive": scorer.positive_Y, "negative": scorer.negative_N}
        self._key = [model_digest, digest_json({**tokens, "precision": resolved_precision(asking.precision)})]

    def complete(self, asked: Sequence[_Asked], task: Any) -> None:
        """Ask whatever is missing, one transaction per row."""
        wanted = {a.prompt_hash: a.prompt for a in asked}
        known = set(self.of(asked))
        copies = len(asked) / max(len(wanted), 1)  # samples to different questions, so that the bar ends at its total
        self._tally.cached += len(known)
        task.advance(copies * len(known))
        if len(known) == len(wanted):
            return

        def group(keys: Sequence[str]) -> list[list[str]]:
            limits = {"most_tokens": self._asking.batch_tokens, "most": self._asking.max_batch}
            rows = self._scorer.reader.rows([wanted[key] for key in keys], **limits)
            return [[keys[i] for i in row] for row in rows]

        for keys in unfinished(list(wanted), known, group):
            started = time.perf_counter()
            logit_B, mass_B = self._scorer.score([wanted[key] for key in keys])
            self._tally.seconds += time.perf_counter() - started
            self._commit(keys, logit_B.numpy(), mass_B.numpy())
            task.advance(copies * len(keys))
            task.note(f"{self._tally.rate:,.1f} questions/s")

    def of(self, asked: Sequence[_Asked]) -> dict[str, tuple[float, float]]:
        """(logit, mass) of the questions whose answer is known, by prompt hash."""
        rows = self._store.execute(
            "SELECT prompt_hash, logit, mass FROM answer WHERE model_digest = ? AND asking_hash = ? "
            "AND prompt_hash IN (SELECT unnest(?))",
            [*self._key, [a.prompt_hash for a in asked]],
        ).fetchall()
        return {prompt_hash: (logit, mass) for prompt_hash, logit, mass in rows}

    def _commit(self, keys: Sequence[str], logit_B: np.ndarray, mass_B: np.ndarray) -> None:
        same = [pa.array([value] * len(keys)) for value in self._key]
        fresh = pa.table([pa.array(keys), *same, pa.array(logit_B), pa.array(mass_B)], schema=ANSWER.schema)
        self._store.register("fresh", fresh)
        self._store.execute("INSERT INTO answer SELECT * FROM fresh")  # one statement, so one transaction
        self._store.unregister("fresh")
        self._tally.asked += len(keys)


def _columns(
    asked: Sequence[_Asked], found: dict[str, tuple[float, float]], tally: Tally
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sample ids, labels, logits and masses."""
    answered = np.array([found[a.prompt_hash] for a in asked], np.float32).reshape(-1, 2)
    for a, logit in list(zip(asked, answered[:, 0], strict=True))[: _EXAMPLES - len(tally.examples)]:
        yes = float(1 / (1 + np.exp(-logit)))
        tally.examples.append({"sample_id": a.row.sample_id, "question": a.text, "yes": yes, "label": a.row.label})
    ids = np.array([a.row.sample_id for a in asked], np.int64)
    return ids, np.array([a.row.label for a in asked], np.int8), answered[:, 0], answered[:, 1]
