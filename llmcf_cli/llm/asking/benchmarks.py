"""Benchmarks of general ability, on local Parquet files, as tasks of EleutherAI's lm-evaluation-harness.

Prompts and metrics are the harness's own of the same name, without examples in the prompt. Where a file holds prompts
already (`query`), they are taken as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.hashing import digest_text
from llmcf_cli.store.open import read_parquet

_MMLU = (
    "The following are multiple choice questions (with answers) about {{subject|replace('_', ' ')}}.\n\n"
    "{{question.strip()}}\nA. {{A}}\nB. {{B}}\nC. {{C}}\nD. {{D}}\nAnswer:"
)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
        file: Its Parquet file.
        metric: What counts as its accuracy: `acc`, or `acc_norm` by answers' length.
        settings: Of the harness's task.
        columns: The columns that the prompts read.
        split: Only rows whose column `split` says so; empty: all.
    """

    file: str
    metric: str
    settings: dict[str, Any]
    columns: tuple[str, ...]
    split: str = ""


def _choices(text: str, choices: str | list[str], gold: str | int) -> dict[str, Any]:
    return {
        "output_type": "multiple_choice", "doc_to_text": text, "doc_to_choice": choices, "doc_to_target": gold,
        "metric_list": [_mean("acc"), _mean("acc_norm")],
    }  # fmt: skip


def _mean(metric: str) -> dict[str, Any]:
    return {"metric": metric, "aggregation": "mean", "higher_is_better": True}


_PERPLEXITY = {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}
_READY = ("query", "choices", "gold")

BENCHMARKS = {
    "mmlu": Benchmark(
        "mmlu.parquet", "acc", _choices(_MMLU, ["A", "B", "C", "D"], "answer"),
        ("subject", "question", "A", "B", "C", "D", "answer"), split="test",
    ),
    "lambada_openai": Benchmark(
        "lambada_openai.parquet", "acc",
        {"output_type": "loglikelihood", "doc_to_text": "{{context}}", "doc_to_target": "{{' ' + continuation}}",
         "metric_list": [_mean("acc"), _PERPLEXITY]},
        ("context", "continuation"),
    ),
    "piqa": Benchmark("piqa.parquet", "acc", _choices("{{query.strip()}}\nAnswer:", "choices", "gold"), _READY),
    "arc_easy": Benchmark("arc_easy.parquet", "acc", _choices("{{query}}\nAnswer:", "choices", "gold"), _READY),
    "hellaswag": Benchmark(
        "hellaswag_val_1000.parquet", "acc_norm", _choices("{{query}}", "choices", "gold"), _READY
    ),
    "sciq": Benchmark(
        "sciq_val.parquet", "acc",
        _choices("{{support.lstrip()}}\nQuestion: {{question}}\nAnswer:",
                 "{{[distractor1, distractor2, distractor3, correct_answer]}}", 3),
        ("support", "question", "distractor1", "distractor2", "distractor3", "correct_answer"),
    ),
}  # fmt: skip
"""Name → benchmark."""


def questions_of(name: str, folder: Path, limit: int | None, seed: int) -> pa.Table:
    """Questions of a benchmark, in the order of its file, with their row numbers there (`row`, int64).

    Args:
        name: Of the benchmark.
        folder: That holds the files.
        limit: Most questions; a larger number contains those of a smaller one.
        seed: Determines which.

    Raises:
        StoreError: The file is missing or no Parquet.
        DataError: It lacks a column, or contains no questions.
    """
    benchmark = BENCHMARKS[name]
    path = folder / benchmark.file
    table = read_parquet(path)
    needed = {*benchmark.columns, *(["split"] if benchmark.split else [])}
    if missing := sorted(needed - set(table.column_names)):
        raise DataError(f"no column {missing[0]!r}", code="column-missing", where=str(path), allowed=table.column_names)
    table = table.append_column("row", pa.array(range(table.num_rows), pa.int64()))
    if benchmark.split:
        table = table.filter(pc.equal(table["split"], benchmark.split))
    if not table.num_rows:
        raise DataError("contains no questions", code="benchmark-empty", where=str(path))
    rows = table["row"].to_pylist()
    order = sorted(range(len(rows)), key=lambda i: digest_text(f"{seed}:{rows[i]}"))
    return table.take(sorted(order[:limit])).select([*benchmark.columns, "row"])
