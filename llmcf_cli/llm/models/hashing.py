"""Vectors of texts without a model: bags of hashed character n-grams.

Shapes: N texts, T dimension of a vector.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.llm.config import HashingEncoderConfig

_BLOCK = 4096


class HashingEncoder:
    """scikit-learn's `HashingVectorizer` over n-grams of 3 to 5 characters within words; sign by hash, length 1.

    Attributes:
        dim: T.
        seconds: Time spent encoding so far.
        texts: Texts encoded so far, without those of white space alone.
    """

    def __init__(self, config: HashingEncoderConfig) -> None:
        from sklearn.feature_extraction.text import HashingVectorizer

        self.dim, self.seconds, self.texts = config.dim, 0.0, 0
        self._vectorizer = HashingVectorizer(
            analyzer="char_wb", ngram_range=(3, 5), n_features=config.dim, norm="l2", dtype=np.float32
        )

    @property
    def counts(self) -> dict[str, Any]:
        """As `TextEncoder.counts`; nothing is ever cut."""
        return {"texts": self.texts, "cut": 0, "cut_share": 0.0, "longest": None}

    def encode(
        self, texts: Sequence[str] | pa.ChunkedArray, *, progress: Progress = SILENT, what: str = "texts",
    ) -> np.ndarray:  # fmt: skip
        """Vectors [N, T], float32, of unit L2 norm; zeros for a text of white space alone."""
        vectors_NT = np.zeros((len(texts), self.dim), np.float32)
        started = time.perf_counter()
        with progress.task(f"encode {what}", len(texts), "texts") as task:
            for start in range(0, len(texts), _BLOCK):
                block = texts[start : start + _BLOCK]
                block = block.to_pylist() if isinstance(block, pa.ChunkedArray) else list(block)
                self.texts += sum(bool(text.strip()) for text in block)
                vectors_NT[start : start + len(block)] = self._vectorizer.transform(block).toarray()
                task.advance(len(block))
        self.seconds += time.perf_counter() - started
        return vectors_NT
