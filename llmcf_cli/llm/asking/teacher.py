"""The language model as a teacher: its own answer to the recommendation question, for train samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from llmcf_cli.core.errors import LlmcfError, ModelError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.asking.answers import AnswerScorer
from llmcf_cli.llm.asking.ask import Asking, ask
from llmcf_cli.llm.asking.reading import Reader
from llmcf_cli.llm.asking.reports import TeacherReport
from llmcf_cli.llm.asking.tables import mass_alarm
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.prompts.rows import choose_train
from llmcf_cli.recipe.asking import TeacherSection
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read, write_parquet
from llmcf_cli.store.tables import TEACHER_SCORE


def ask_teacher(
    section: TeacherSection, question: RecommendationMixConfig, *, data: Path, model: Path, model_digest: str,
    cache: Path, out: Path, seed: int, words: Words = Words(), progress: Progress = SILENT,
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
        words: Of the label.
        progress: Where to report.

    Raises:
        LlmcfError: More samples are asked for than the train split has, or no question fits.
        ModelError: The model cannot be loaded, an answer is no token of it, or it hardly ever gives one of the two.
        StoreError: Another process (named by pid) writes the cache.
    """
    scorer = AnswerScorer(Reader(model, section.precision), question.positive, question.negative)
    with connect_read(data) as reader:
        ids = choose_train(reader, section.sample, derive_seed(seed, "teacher", "sample"), "teacher.sample")
    asking = Asking(
        question, words, section.max_prompt_tokens, section.precision, batch_tokens=section.batch_tokens,
        max_batch=section.max_batch,
    )  # fmt: skip
    with progress.task("teacher", len(ids), "samples") as task:
        found = ask(asking, scorer, ids, data=data, model_digest=model_digest, cache=cache, task=task)
    if not len(found.logit_N):
        raise LlmcfError(
            f"none of {len(ids)} questions fits, even without history", code="prompt-too-long", where="teacher",
            hint="raise teacher.max_prompt_tokens, or shorten dataset.text.item",
        )  # fmt: skip
    mass = float(found.mass_N.mean())
    if mass < section.min_mass:
        raise ModelError(
            f"{mass_alarm('the teacher', mass, section.min_mass)}, so there is nothing to learn from them",
            code="teacher-no-answers", where="teacher",
            hint="tune the model longer on the recommendation question (llm.mix, llm.tune), or set "
            "teacher.min_mass: 0 to take the answers as they are",
        )  # fmt: skip
    columns = {"sample_id": found.sample_id_N, "logit": found.logit_N, "mass": found.mass_N}
    write_parquet(pa.table(columns), TEACHER_SCORE, out)
    tally = found.tally
    return TeacherReport(
        wanted=len(ids), scored=len(found.logit_N), too_long=tally.too_long, asked=tally.asked, cached=tally.cached,
        histories_shortened=tally.shortened, mass=mass, auc=_auc(found.label_N, found.logit_N),
        seconds=tally.seconds, questions_per_second=tally.rate, examples=tally.examples,
    )  # fmt: skip


def _auc(label_N: np.ndarray, logit_N: np.ndarray) -> float | None:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label_N, logit_N)) if len(np.unique(label_N)) == 2 else None
