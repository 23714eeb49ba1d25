"""Sentence vectors of texts.

Shapes: N texts, T dimension of a vector.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.llm.models.load import best_device, check_network, quiet_libraries
from llmcf_cli.llm.models.packed import pack_linears
from llmcf_cli.llm.models.trusted import LOCAL, check_encoder, modules_of
from llmcf_cli.plugin import Kind

_BATCHES_PER_BLOCK = 16
_NO_LIMIT = 10**9  # tokenizers say 10³⁰ where they know none


class Encoder(Protocol):
    """What turns texts into vectors: a `TextEncoder`, or a component of the kind `encoder`, built as `Class(config)`.

    Attributes:
        dim: T.
        seconds: Time spent encoding so far.
    """

    dim: int
    seconds: float

    @property
    def counts(self) -> dict[str, Any]:
        """What a report says of the texts encoded so far, see `TextEncoder.counts`."""

    def encode(
        self, texts: Sequence[str] | pa.ChunkedArray, *, progress: Progress = SILENT, what: str = "texts"
    ) -> np.ndarray:
        """Vectors [N, T], float32, of unit L2 norm; zeros for a text of white space alone."""


ENCODER: Kind[Encoder] = Kind("encoder")


class TextEncoder:
    """A sentence-transformers model.

    Args:
        path: Its folder.

    Raises:
        ModelError: The folder holds no sentence encoder.

    Attributes:
        dim: Numbers of a vector.
        longest: Tokens that it reads of a text; None: all.
        seconds: Time spent encoding so far.
        texts: Texts encoded so far, without those of white space alone.
        cut: Those of them with more tokens than `longest`, of which the vector knows the beginning only.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise ModelError(
                "a text encoder must be a folder in sentence-transformers format",
                code="encoder-unusable",
                where=str(path),
            )
        check_encoder(path)
        quiet_libraries()
        from sentence_transformers import SentenceTransformer
        from transformers import AutoModel

        for place, kind in modules_of(path):
            if kind == "Transformer" and (place / "config.json").is_file():
                check_network(place, AutoModel)
        try:
            self._model = SentenceTransformer(
                str(path), device=str(best_device()), **LOCAL, model_kwargs={"use_safetensors": True}
            )
        except Exception as error:  # the library raises whatever its parsers raise
            raise ModelError(
                f"the text encoder cannot be loaded: {error}", code="encoder-unusable", where=str(path)
            ) from error
        _read_marks_as_text(self._model.tokenizer)
        dim = self._model.get_embedding_dimension()
        given = self._model.encode(["a"], show_progress_bar=False).shape[-1]
        if dim != given:  # as a module's settings say, and as it is
            what = f"the model's vectors should have {dim} numbers, but have {given}"
            raise ModelError(what, code="encoder-unusable", where=str(path))
        if self._model.device.type == "cpu":
            pack_linears(self._model)
        self.dim = int(dim)
        longest = self._model.max_seq_length
        self.longest = int(longest) if longest is not None and longest < _NO_LIMIT else None
        prompts = self._model.prompts or {}
        self._prompt = prompts.get(self._model.default_prompt_name) or ""
        self.seconds, self.texts, self.cut = 0.0, 0, 0

    @property
    def counts(self) -> dict[str, Any]:
        """What a report says of the texts encoded so far: `texts`, `cut`, `cut_share` of them, and `longest`."""
        share = self.cut / self.texts if self.texts else 0.0
        return {"texts": self.texts, "cut": self.cut, "cut_share": share, "longest": self.longest}

    def encode(
        self, texts: Sequence[str] | pa.ChunkedArray, *, progress: Progress = SILENT, what: str = "texts",
        batch: int = 64,
    ) -> np.ndarray:  # fmt: skip
        """Vectors [N, T], float32, of unit L2 norm; zeros for a text of white space alone.

        Texts are read a block at a time, so that of an Arrow column no more than one block becomes Python strings. In a
        block, equal texts are encoded once, and batches hold texts of similar length. The vector of a text depends on
        the other texts only through floating-point rounding.

        Args:
            texts: What to encode; longer ones than the model reads are cut by it, and counted.
            progress: Where to report.
            what: Name of the work in the progress display.
            batch: Texts per forward pass.
        """
        vectors_NT = np.zeros((len(texts), self.dim), dtype=np.float32)
        size = batch * _BATCHES_PER_BLOCK
        starts = range(0, len(texts), size)
        blocks = (_strings(texts[start : start + size]) for start in starts)
        with progress.task(f"encode {what}", len(texts), "texts") as task:
            for start, block_NT in zip(starts, self.encode_stream(blocks, batch=batch), strict=True):
                vectors_NT[start : start + len(block_NT)] = block_NT
                task.advance(len(block_NT))
        return vectors_NT

    def encode_stream(self, blocks: Iterable[Sequence[str]], *, batch: int = 64) -> Iterator[np.ndarray]:
        """The vectors of one block of texts after another, see `encode`; a block is let go before the next is read."""
        for block in blocks:
            start = time.perf_counter()
            vectors_NT = self._block(block, batch)
            del block
            self.seconds += time.perf_counter() - start
            yield vectors_NT

    def _block(self, texts: Sequence[str], batch: int) -> np.ndarray:
        rows_of: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            if text.strip():
                rows_of.setdefault(text, []).append(row)
        vectors_NT = np.zeros((len(texts), self.dim), dtype=np.float32)
        self.texts += sum(map(len, rows_of.values()))
        self.cut += sum(len(rows_of[text]) for text in self._too_long(rows_of))
        if rows_of:
            encoded = self._model.encode(
                list(rows_of), batch_size=batch, show_progress_bar=False, convert_to_numpy=True,
                normalize_embeddings=True,
            )  # fmt: skip
            rows = [row for rows in rows_of.values() for row in rows]
            vectors_NT[rows] = np.repeat(encoded, [len(rows) for rows in rows_of.values()], axis=0)
        return vectors_NT

    def _too_long(self, texts: Iterable[str]) -> Iterator[str]:
        """Those with more tokens than are read."""
        if self.longest is None:
            return
        tokenizer = self._model.tokenizer
        own = tokenizer.num_special_tokens_to_add()
        # No token is shorter than a character of ASCII, which no normalisation makes longer.
        asked = [t for t in texts if not t.isascii() or len(self._prompt) + len(t) + own > self.longest]
        if not asked:
            return
        tokens = tokenizer([self._prompt + text for text in asked], truncation=False, verbose=False)["input_ids"]
        yield from (text for text, ids in zip(asked, tokens, strict=True) if len(ids) > self.longest)


def _read_marks_as_text(tokenizer: Any) -> None:
    """Have a tokenizer of transformers or tokenizers take `[SEP]` in a title for the text that it is."""
    for setting in ("split_special_tokens", "encode_special_tokens"):
        if hasattr(tokenizer, setting):
            setattr(tokenizer, setting, True)


def _strings(texts: Sequence[str] | pa.ChunkedArray) -> Sequence[str]:
    return texts.to_pylist() if isinstance(texts, pa.ChunkedArray) else texts
