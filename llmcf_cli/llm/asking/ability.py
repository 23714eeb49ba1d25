"""What a language model can do: recommend, by P(yes) against labels, and answer benchmarks of general ability.

Tables of several models side by side, with standard errors; a difference from the base model is taken question by
question, which is far more exact than two separate standard errors suggest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.core.progress import Progress
from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.asking.answers import AnswerScorer
from llmcf_cli.llm.asking.ask import Answers, Asking, ask
from llmcf_cli.llm.asking.benchmarks import BENCHMARKS, questions_of
from llmcf_cli.llm.asking.reading import Reader
from llmcf_cli.llm.asking.reports import Estimate
from llmcf_cli.llm.config import RecommendationMixConfig
from llmcf_cli.llm.prompts.rows import choose_held_out
from llmcf_cli.recipe.asking import AbilitySection
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.open import connect_read, read_parquet, write_parquet
from llmcf_cli.store.tables import ABILITY_ITEM

PERPLEXITY = "perplexity"


def recommendation_answers(
    section: AbilitySection, question: RecommendationMixConfig, reader: Reader, *, data: Path, model_digest: str,
    cache: Path, seed: int, progress: Progress, words: Words = Words(),
) -> Answers:  # fmt: skip
    """A model's yes or no to the recommendation question about held-out samples.

    Args:
        section: The recipe's `ability`.
        question: Wording, and the two answers.
        reader: The model.
        data: DuckDB file of ingest.
        model_digest: Names the model's content in the cache.
        cache: DuckDB file of answers, shared between runs.
        seed: The recipe's seed.
        progress: Where to report.
        words: Of the label.

    Raises:
        LlmcfError: No question fits, or all samples have one label.
        ModelError: An answer is no token of the model.
    """
    scorer = AnswerScorer(reader, question.positive, question.negative)
    with connect_read(data) as connection:
        ids = choose_held_out(connection, section.split, section.count, derive_seed(seed, "ability", "sample"))
    asking = Asking(
        question, words, section.max_prompt_tokens, section.precision, batch_tokens=section.batch_tokens,
        max_batch=section.max_batch,
    )  # fmt: skip
    with progress.task("recommendation", len(ids), "samples") as task:
        found = ask(asking, scorer, ids, data=data, model_digest=model_digest, cache=cache, task=task)
    if len(np.unique(found.label_N)) < 2:
        raise LlmcfError(
            f"the {len(found.label_N):,} {section.split} samples whose question fits have only one label",
            code="split-one-class", where="ability.count", hint="raise ability.count or ability.max_prompt_tokens",
        )  # fmt: skip
    return found


def general_answers(
    section: AbilitySection, folder: Path, reader: Reader, *, seed: int, work: Path, progress: Progress
) -> pa.Table:
    """A model's answers to the benchmarks (table `ability_item`); each benchmark is kept in `work` once it is done.

    Args:
        section: The recipe's `ability`.
        folder: Of the benchmarks' files.
        reader: The model.
        seed: The recipe's seed.
        work: Folder that survives an interruption.
        progress: Where to report.

    Raises:
        StoreError: A file is missing.
        DataError: A file lacks a column.
    """
    tables = []
    for name in section.tasks:
        questions = questions_of(name, folder, section.limit, derive_seed(seed, "ability", name))
        done = work / f"{name}.parquet"
        if not done.is_file():
            _answer(name, questions, reader, section, done, progress)
        tables.append(read_parquet(done))
    return pa.concat_tables(tables)


def _answer(
    name: str, questions: pa.Table, reader: Reader, section: AbilitySection, out: Path, progress: Progress
) -> None:
    from llmcf_cli.llm.asking.harness import answer

    limits = {"most_tokens": section.batch_tokens, "most": section.max_batch}
    found = answer(name, questions, reader, limits, progress)
    metrics = found.column_names[1:]
    long = pa.table({
        "task": [name] * (len(metrics) * found.num_rows), "row": pa.concat_arrays(
            [found["row"].combine_chunks()] * len(metrics)),
        "metric": np.repeat(metrics, found.num_rows), "value": np.concatenate([found[m].to_numpy() for m in metrics]),
    })  # fmt: skip
    partial = out.with_suffix(".partial")
    write_parquet(long, ABILITY_ITEM, partial)
    partial.replace(out)


@dataclass(frozen=True)
class Measured:
    """A model's answers, one by one.

    Attributes:
        name: Of the model in tables.
        label_N: Labels of the recommendation samples.
        logit_N: log(P(yes) / P(no)).
        mass_N: P(yes) + P(no).
        items: (benchmark, metric) → value of each question.
    """

    name: str
    label_N: NDArray[np.float32]
    logit_N: NDArray[np.float32]
    mass_N: NDArray[np.float32]
    items: Mapping[tuple[str, str], NDArray[np.float64]]

    @property
    def accuracies(self) -> dict[str, NDArray[np.float64]]:
        """Benchmark → 0 or 1 for each question, by the metric that counts."""
        return {task: v for (task, metric), v in self.items.items() if metric == BENCHMARKS[task].metric}

    @property
    def nats(self) -> NDArray[np.float64] | None:
        """Negative log-probability of each continuation that perplexity is made of; None if it was not asked for."""
        return next((-v for (_, metric), v in self.items.items() if metric == PERPLEXITY), None)


Contrast = Callable[[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], tuple[float, float]]
"""Labels, scores of base and other model → difference of AUC and its standard error."""


def measures(model: Measured, auc: Estimate) -> dict[str, Estimate]:
    """Every measure of a model by name: `auc`, `logloss`, `mass`, `general`, each benchmark, `perplexity` if there is
    one.

    Args:
        model: The answers.
        auc: Of the recommendation answers.
    """
    found = {"auc": auc, "logloss": _mean(_losses(model)), "mass": _mean(model.mass_N.astype(np.float64))}
    accuracies = {task: _mean(values) for task, values in model.accuracies.items()}
    if accuracies:
        found["general"] = _general(list(accuracies.values()))
    return found | accuracies | ({PERPLEXITY: _perplexity(model.nats)} if model.nats is not None else {})


def differences(model: Measured, base: Measured, contrast: Contrast) -> dict[str, Estimate]:
    """Every measure minus that of the base model, over the same samples and questions."""
    auc = Estimate(*contrast(base.label_N, base.logit_N, model.logit_N), len(base.label_N))
    found = {"auc": auc, "logloss": _mean(_losses(model) - _losses(base))}
    found["mass"] = _mean(model.mass_N.astype(np.float64) - base.mass_N.astype(np.float64))
    before = base.accuracies
    accuracies = {task: _mean(values - before[task]) for task, values in model.accuracies.items()}
    if accuracies:
        found["general"] = _general(list(accuracies.values()))
    found |= accuracies
    if model.nats is not None and base.nats is not None:
        found[PERPLEXITY] = _perplexity(model.nats, base.nats)
    return found


def choose(rows: Sequence[Mapping[str, Any]], tolerance: float) -> str | None:
    """The model of the best recommendation AUC whose general ability is not below the base's by more than allowed.

    Args:
        rows: Of `table`, the base model first.
        tolerance: In standard errors of the difference.

    Returns:
        Its name; None where general ability was not measured, or none keeps it.
    """
    kept = []
    for row in rows[1:]:
        general = row["differences"].get("general")
        if general and general["value"] >= -tolerance * (general["standard_error"] or 0.0):
            kept.append(row)
    return max(kept, key=lambda row: row["measures"]["auc"]["value"])["name"] if kept else None


def _mean(values: NDArray[np.floating[Any]]) -> Estimate:
    error = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
    return Estimate(float(np.mean(values)), error, len(values))


def _general(tasks: Sequence[Estimate]) -> Estimate:
    """The mean over benchmarks, each counting alike; their questions are independent."""
    error = math.sqrt(sum((task.standard_error or 0.0) ** 2 for task in tasks)) / len(tasks)
    return Estimate(float(np.mean([task.value for task in tasks])), error, sum(task.n for task in tasks))


def _perplexity(nats_N: NDArray[np.float64], base_N: NDArray[np.float64] | None = None) -> Estimate:
    """exp of the mean, or how much it exceeds that of the base model; the error by the delta method."""
    terms_N, value = math.exp(nats_N.mean()) * nats_N, math.exp(nats_N.mean())
    if base_N is not None:
        terms_N = terms_N - math.exp(base_N.mean()) * base_N
        value -= math.exp(base_N.mean())
    return Estimate(value, _mean(terms_N).standard_error, len(nats_N))


def _losses(model: Measured) -> NDArray[np.float64]:
    """Cross-entropy of each sample, in nats."""
    logit_N = model.logit_N.astype(np.float64)
    return np.logaddexp(0, logit_N) - model.label_N * logit_N
