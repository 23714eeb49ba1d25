"""Sentence vectors of texts.

Shapes: N texts, T dimension of a vector.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.llm.models import best_device, quiet_libraries

_BATCHES_PER_CALL = 16


class TextEncoder:
    """A sentence-transformers model.

    Args:
        path: Its folder.

    Raises:
        ModelError: The folder holds no sentence encoder.

    Attributes:
        dim: Numbers of a vector.
        seconds: Time spent encoding so far.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ModelError("a text encoder is a folder in sentence-transformers format", where=str(path))
        quiet_libraries()
        from sentence_transformers import SentenceTransformer

        try:
            self._model = SentenceTransformer(str(path), device=str(best_device()), local_files_only=True)
        except Exception as error:  # the library raises whatever its parsers raise
            raise ModelError(f"the text encoder cannot be loaded: {error}", where=str(path)) from error
        dim = self._model.get_embedding_dimension()
        if not dim:
            raise ModelError("the model gives no sentence vectors", where=str(path))
        self.dim = int(dim)
        self.seconds = 0.0

    def encode(
        self, texts: Sequence[str], *, progress: Progress = SILENT, what: str = "texts", batch: int = 64
    ) -> np.ndarray:
        """Vectors [N, T], float32, of unit L2 norm; zeros for a text of white space alone.

        Equal texts are encoded once; batches hold texts of similar length. The vector of a text depends on the
        other texts only through floating-point rounding.

        Args:
            texts: What to encode; longer ones than the model reads are cut by it.
            progress: Where to report.
            what: Name of the work in the progress display.
            batch: Texts per forward pass.
        """
        start = time.perf_counter()
        vectors_NT = np.zeros((len(texts), self.dim), dtype=np.float32)
        rows_of: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            if text.strip():
                rows_of.setdefault(text, []).append(row)
        order = sorted(rows_of, key=lambda text: (-len(text), text))
        with progress.task(f"encode {what}", len(texts), "texts", done=len(texts) - _total(rows_of)) as task:
            for first in range(0, len(order), batch * _BATCHES_PER_CALL):
                block = order[first : first + batch * _BATCHES_PER_CALL]
                encoded = self._model.encode(
                    block,
                    batch_size=batch,
                    show_progress_bar=False,
                    convert_to_numpy=True,
                    normalize_embeddings=True,
                )
                rows = [row for text in block for row in rows_of[text]]
                repeats = [len(rows_of[text]) for text in block]
                vectors_NT[rows] = np.repeat(encoded, repeats, axis=0)
                task.advance(len(rows))
        self.seconds += time.perf_counter() - start
        return vectors_NT

    def encode_stream(self, blocks: Iterable[Sequence[str]], *, batch: int = 64) -> Iterator[np.ndarray]:
        """The vectors of one block of texts after another, for more texts than memory holds."""
        for block in blocks:
            yield self.encode(block, batch=batch)


def _total(rows_of: dict[str, list[int]]) -> int:
    return sum(map(len, rows_of.values()))
