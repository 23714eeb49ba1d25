"""Keeping evaluation texts out of the tuning mix, by the runs of words that they share.

After Brown et al., 2020, appendix C: a text is contaminated if a run of 13 words stands in an evaluation text too; of
an evaluation text of 8 to 12 words, the whole is one run. Shorter ones say too little.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError

LONGEST, SHORTEST = 13, 8
"""Words of a run, and least words of an evaluation text."""

_WORD = re.compile(r"[a-z0-9]+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 1024


class EvaluationRuns:
    """The runs of words of evaluation files: 8 bytes each.

    Args:
        files: Parquet, JSON lines or plain text; of a table every text column counts, all columns of a row together.

    Raises:
        DataError: A file cannot be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        found: dict[int, list[np.ndarray]] = {}
        for file in files:
            for text in _texts(file):
                words = _words(text)
                if len(words) >= SHORTEST:
                    length = min(len(words), LONGEST)
                    found.setdefault(length, []).append(np.unique(_runs(words, length)))
        self._runs = {length: np.unique(np.concatenate(parts)) for length, parts in found.items()}

    def __len__(self) -> int:
        return sum(len(runs) for runs in self._runs.values())

    def meet(self, text: str) -> bool:
        """Whether a text shares a run with an evaluation text."""
        words = _words(text)
        return any(
            bool(np.isin(_runs(words, length), known, assume_unique=False).any())
            for length, known in self._runs.items() if len(words) >= length
        )  # fmt: skip


def _words(text: str) -> np.ndarray:
    """The words of a text, without case and punctuation, as numbers (uint64)."""
    return np.array([_number(word) for word in _WORD.findall(text.lower())], dtype=np.uint64)


@lru_cache(maxsize=200_000)
def _number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big")


def _runs(words: np.ndarray, length: int) -> np.ndarray:
    """A number (uint64) for every run of `length` words."""
    windows = np.lib.stride_tricks.sliding_window_view(words, length)
    powers = _FACTOR ** np.arange(length, dtype=np.uint64)
    run_N: np.ndarray = (windows * powers).sum(axis=1, dtype=np.uint64)
    return run_N


def _texts(file: Path) -> Iterator[str]:
    try:
        if file.suffix == ".parquet":
            with pq.ParquetFile(file) as table:
                for batch in table.iter_batches(batch_size=_BLOCK):
                    yield from (" ".join(_strings(row)) for row in batch.to_pylist())
            return
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield " ".join(_strings(json.loads(line))) if file.suffix in (".jsonl", ".json") else line
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot be read as Parquet, JSON lines or text: {error}", code="file-format", where=str(file)
        ) from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for below in value.values():
            yield from _strings(below)
    elif isinstance(value, list):
        for below in value:
            yield from _strings(below)
