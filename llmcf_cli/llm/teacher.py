"""The language model as a teacher: its own answer to the recommendation question, for train samples.

The question is the one the model was tuned on (`llm.question`). Answers are cached by prompt, model and what counts as
an answer, and committed batch by batch: a killed run loses at most one batch, and more samples reuse what fewer asked.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.hashing import digest_json
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.answers import AnswerScorer
from llmcf_cli.llm.batches import by_length, unfinished
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.models import resolved_precision
from llmcf_cli.llm.question import questions
from llmcf_cli.llm.rows import SampleTexts, choose_train, sample_texts
from llmcf_cli.recipe.sections import TeacherSection
from llmcf_cli.store.open import connect_read, connect_write
from llmcf_cli.store.tables import ANSWER, TEACHER_SCORE

_BLOCK = 2048  # samples whose questions are held in memory, sorted by length, and share a prefix
_EXAMPLES = 3


@dataclass(frozen=True)
class TeacherReport:
    """What the teacher was asked.

    Attributes:
        wanted: Samples chosen.
        scored: Samples with a score.
        too_long: Samples without one, as their question does not fit even without any history.
        asked: Questions put to the model by this run.
        cached: Questions whose answer was in the cache.
        histories_shortened: Questions from which the oldest history was left out to fit.
        mass: Mean of P(yes) + P(no): near 1, the model gives one of the two answers.
        auc: Of its answers on the scored train samples; None if they have one label only.
        seconds: Time this run spent asking.
        questions_per_second: Of this run.
        examples: A few questions with P(yes) / (P(yes) + P(no)) and the label.
    """

    wanted: int
    scored: int
    too_long: int
    asked: int
    cached: int
    histories_shortened: int
    mass: float
    auc: float | None
    seconds: float
    questions_per_second: float
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Asked:
    """A sample with its question."""

    row: SampleTexts
    text: str
    prompt: list[int]
    prompt_hash: str


class _Tally:
    """Running counts of a report."""

    def __init__(self) -> None:
        self.asked = self.cached = self.shortened = self.too_long = 0
        self.seconds = 0.0
        self.blocks: list[np.ndarray] = []
        self.examples: list[dict[str, Any]] = []


def ask_teacher(
    section: TeacherSection, question: RecommendationMixConfig, *, data: Path, model: Path, model_digest: str,
    cache: Path, out: Path, seed: int, progress: Progress = SILENT,
) -> TeacherReport:  # fmt: skip
    """Write the teacher's score of each chosen train sample to Parquet (table `teacher_score`), by sample id.

    Args:
        section: The recipe's `teacher`.
        question: Wording, and the two answers.
        data: DuckDB file of ingest; only rows of the train split are read.
        model: Folder of the model in Hugging Face format.
        model_digest: Names the model's content in the cache.
        cache: DuckDB file of answers, shared between runs; one writer at a time.
        out: Parquet file to write.
        seed: The recipe's seed.
        progress: Where to report.

    Raises:
        LlmcfError: More samples are asked for than the train split has, or no question fits.
        ModelError: The model cannot be loaded, or an answer is no token of it.
        StoreError: Another process (named by pid) writes the cache.
    """
    scorer = AnswerScorer(model, question.positive, question.negative, section.precision)
    tally = _Tally()
    with connect_read(data) as reader, connect_write(cache) as store:
        ids = choose_train(reader, section.sample, derive_seed(seed, "teacher", "sample"), "teacher.sample")
        answers = _Answers(store, scorer, section, model_digest, tally)
        with (
            pq.ParquetWriter(out, TEACHER_SCORE.schema, compression="zstd") as writer,
            progress.task("teacher", len(ids), "samples") as task,
        ):
            for start in range(0, len(ids), _BLOCK):
                block = sample_texts(reader, ids[start : start + _BLOCK])
                asked = _questions(block, question, section, scorer, tally)
                task.advance(len(block) - len(asked))
                answers.complete(asked, task)
                _write(writer, asked, answers.of(asked), tally)
    logit_N, mass_N, label_N = np.concatenate(tally.blocks, axis=1)
    if not len(logit_N):
        raise LlmcfError(
            f"none of {len(ids)} questions fits, even without any history", where="teacher",
            hint="raise teacher.max_prompt_tokens, or shorten dataset.text.item",
        )  # fmt: skip
    return TeacherReport(
        wanted=len(ids), scored=len(logit_N), too_long=tally.too_long, asked=tally.asked, cached=tally.cached,
        histories_shortened=tally.shortened, mass=float(mass_N.mean()), auc=_auc(label_N, logit_N),
        seconds=tally.seconds, questions_per_second=tally.asked / tally.seconds if tally.seconds else 0.0,
        examples=tally.examples,
    )  # fmt: skip


def _questions(
    rows: Sequence[SampleTexts], config: RecommendationMixConfig, section: TeacherSection, scorer: AnswerScorer,
    tally: _Tally,
) -> list[_Asked]:  # fmt: skip
    longest = min(scorer.context, section.max_prompt_tokens or scorer.context)

    def count(indices: list[int], texts: list[str]) -> list[int]:
        return list(map(len, scorer.encode(texts)))

    found = questions(config, rows, longest, count)
    kept = [(row, q) for row, q in zip(rows, found, strict=True) if q.tokens <= longest]
    tally.too_long += len(rows) - len(kept)
    tally.shortened += sum(q.shortened for _, q in kept)
    prompts = scorer.encode([q.text for _, q in kept]) if kept else []
    return [_Asked(row, q.text, ids, digest_json(q.text)) for (row, q), ids in zip(kept, prompts, strict=True)]


class _Answers:
    """The cache of answers, and what fills it."""

    def __init__(
        self, store: Any, scorer: AnswerScorer, section: TeacherSection, model_digest: str, tally: _Tally
    ) -> None:
        store.execute(ANSWER.ddl(create="CREATE TABLE IF NOT EXISTS"))
        self._store, self._scorer, self._section, self._tally = store, scorer, section, tally
        tokens = {"positive": scorer.positive_Y, "negative": scorer.negative_N}
        self._key = [model_digest, digest_json({**tokens, "precision": resolved_precision(section.precision)})]

    def complete(self, asked: Sequence[_Asked], task: Any) -> None:
        """Ask whatever is missing, one transaction per batch."""
        wanted = {a.prompt_hash: a.prompt for a in asked}
        known = set(self.of(asked))
        copies = len(asked) / max(len(wanted), 1)  # samples to different questions, so that the bar ends at its total
        self._tally.cached += len(known)
        task.advance(copies * len(known))
        if len(known) == len(wanted):
            return
        started = time.perf_counter()
        prefix = self._scorer.read_prefix(list(wanted.values()))
        self._tally.seconds += time.perf_counter() - started

        def group(keys: Sequence[str]) -> list[list[str]]:
            lengths = [len(wanted[key]) for key in keys]
            budget = {"most_tokens": self._section.batch_tokens, "most": self._section.max_batch}
            return [[keys[i] for i in batch] for batch in by_length(lengths, answer=0, **budget)]

        for keys in unfinished(list(wanted), known, group):
            started = time.perf_counter()
            logit_B, mass_B = self._scorer.score([wanted[key] for key in keys], prefix)
            self._tally.seconds += time.perf_counter() - started
            self._commit(keys, logit_B.numpy(), mass_B.numpy())
            task.advance(copies * len(keys))
            task.note(f"{self._tally.asked / self._tally.seconds:,.1f} questions/s")

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


def _write(
    writer: pq.ParquetWriter, asked: Sequence[_Asked], found: dict[str, tuple[float, float]], tally: _Tally
) -> None:
    rows = [(*found[a.prompt_hash], a.row.label) for a in asked]
    answered_3N = np.array(rows, np.float32).reshape(-1, 3).T
    ids = pa.array([a.row.sample_id for a in asked], pa.int64())
    columns = [ids, pa.array(answered_3N[0]), pa.array(answered_3N[1])]
    writer.write_table(pa.table(columns, schema=TEACHER_SCORE.schema))
    tally.blocks.append(answered_3N)
    for a, (logit, _, label) in list(zip(asked, rows, strict=True))[: _EXAMPLES - len(tally.examples)]:
        yes = float(1 / (1 + np.exp(-logit)))
        tally.examples.append({"sample_id": a.row.sample_id, "question": a.text, "yes": yes, "label": label})


def _auc(label_N: np.ndarray, logit_N: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label_N, logit_N)) if len(np.unique(label_N)) == 2 else None
