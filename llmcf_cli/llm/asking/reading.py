"""What a causal model predicts after token sequences, each beginning that they share read once.

Sorted, sequences that begin alike stand together. A row holds a run of them, of each only the tokens that it does not
share with the one before: a tree, in which a token sees the tokens on its own path and stands at its depth. What the
first sequence of a row shares with the last one read, it takes from the model's cache. So every prediction is what the
sequence alone would get, whatever else was read with it or before.

Legend: S sequences, T tokens of a row, C of these from the cache, W places asked for, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.models.load import context_length, load_to_ask, load_tokenizer

Tokens = Sequence[int]

_CPU_ROW, _GPU_ROW = 512, 4096  # fresh tokens: more would spend on attention between strangers what a pass costs less
_PROBE = 6  # tokens of the sequences that a model's masks are tried with
_ALIKE = 0.05  # of the logits' spread: bf16 differs by 0.01, a token that sees a stranger by 0.3 and more


@dataclass(frozen=True)
class Row:
    """Sequences as one row of tokens.

    Attributes:
        ids_T: Tokens, int64.
        position_T: How many tokens stand before each on its path, int64.
        seen_TT: Whether the token of the row sees that of the column.
        paths: Places in the row of every sequence's tokens, in the order they were given.
    """

    ids_T: NDArray[np.int64]
    position_T: NDArray[np.int64]
    seen_TT: NDArray[np.bool_]
    paths: list[NDArray[np.int64]]


def shared_length(first: Tokens, second: Tokens) -> int:
    """Tokens that both begin with."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


def pack(sequences: Sequence[Tokens]) -> Row:
    """Sequences as one row, a beginning that neighbours share once: sort them to share the most."""
    shared_S = [shared_length(before, tokens) for before, tokens in pairwise([(), *sequences])]
    total = sum(len(tokens) - shared for tokens, shared in zip(sequences, shared_S, strict=True))
    ids_T, position_T = np.zeros(total, np.int64), np.zeros(total, np.int64)
    seen_TT = np.zeros((total, total), bool)
    paths: list[NDArray[np.int64]] = []
    used, path = 0, np.zeros(0, np.int64)
    for tokens, shared in zip(sequences, shared_S, strict=True):
        fresh = np.arange(used, used + len(tokens) - shared)
        path = np.concatenate([path[:shared], fresh])
        ids_T[fresh] = tokens[shared:]
        position_T[fresh] = np.arange(shared, len(tokens))
        seen_TT[np.ix_(fresh, path)] = np.tri(len(fresh), len(path), shared, dtype=bool)
        paths.append(path)
        used += len(fresh)
    return Row(ids_T, position_T, seen_TT, paths)


def rows_of(sequences: Sequence[Tokens], *, most_tokens: int, most: int) -> list[list[int]]:
    """Indices of `sequences`, sorted, in rows of at most so many fresh tokens and sequences; one too long stands alone.

    Fresh is what a sequence does not share with the one before, be that in the same row or the one before it.
    """
    rows: list[list[int]] = []
    size = 0
    before: Tokens = ()
    for index in sorted(range(len(sequences)), key=lambda i: (list(sequences[i]), i)):
        tokens = sequences[index]
        fresh = len(tokens) - shared_length(before, tokens)
        if rows and size + fresh <= most_tokens and len(rows[-1]) < most:
            rows[-1].append(index)
            size += fresh
        else:
            rows.append([index])
            size = fresh
        before = tokens
    return rows


class Reader:
    """A causal model on the best device, loaded when it is first needed.

    Args:
        folder: Model in Hugging Face format, with a chat template.
        precision: `auto`, `fp32` or `bf16`, see `resolved_precision`.

    Attributes:
        tokenizer: The model's.
        context: Most tokens of a sequence.

    Raises:
        ModelError: There is no such model.
    """

    def __init__(self, folder: Path, precision: str) -> None:
        self.tokenizer = load_tokenizer(folder)
        self.context = context_length(folder, self.tokenizer)
        self._folder, self._precision = folder, precision
        self._model: Any = None
        self._shares = False
        self._last = _NOTHING

    def rows(self, sequences: Sequence[Tokens], *, most_tokens: int, most: int) -> list[list[int]]:
        """Indices of `sequences` in the rows they are best read in; a sequence each where the model cannot share."""
        model = self._weights()
        if not self._as_tree(sequences):
            return [[index] for index in range(len(sequences))]
        longest = _CPU_ROW if model.device.type == "cpu" else _GPU_ROW
        return rows_of(sequences, most_tokens=min(most_tokens, longest), most=most)

    def logits(self, sequences: Sequence[Tokens], wanted: Sequence[range]) -> list[Tensor]:
        """Read the sequences of a row in one pass.

        Args:
            sequences: As `rows` grouped them, in that order.
            wanted: Of each sequence, the tokens after which the next one's logits are wanted.

        Returns:
            Logits [W, V] of each sequence, on the model's device, in its precision.

        Raises:
            ModelError: The row does not fit into the GPU's memory.
        """
        self._weights()
        last, self._last = self._last, _NOTHING
        row = pack(sequences)
        read = min(shared_length(last.tokens, sequences[0]), *(asked.start for asked in wanted))
        cache = _cut(last.cache, last.path[:read]) if self._as_tree(sequences) else None
        read = read if cache is not None else 0
        places = [path[asked.start : asked.stop] for path, asked in zip(row.paths, wanted, strict=True)]
        different, back = np.unique(np.concatenate(places), return_inverse=True)
        try:
            logits_WV = self._forward(row, read, cache, different)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"{len(row.ids_T):,} tokens do not fit into GPU memory",
                code="gpu-memory-full", where=str(self._folder),
                hint="lower batch_tokens or max_prompt_tokens, or use a smaller model",
            ) from error  # fmt: skip
        if cache is not None:
            self._last = _Last(list(sequences[-1]), row.paths[-1], cache)
        parts = torch.as_tensor(back, device=logits_WV.device).split([len(p) for p in places])
        return [logits_WV[part] for part in parts]

    @torch.inference_mode()
    def _forward(self, row: Row, read: int, cache: Any, places: NDArray[np.int64]) -> Tensor:
        """Logits [W, V] after the tokens at `places`; `cache` has the first `read` tokens and is given the others."""
        model = self._model
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(row.ids_T[None, read:]).to(model.device)}
        if cache is not None:
            inputs["position_ids"] = torch.from_numpy(row.position_T[None, read:]).to(model.device)
            inputs["attention_mask"] = torch.from_numpy(row.seen_TT[None, None, read:]).to(model.device)
        inputs |= {"past_key_values": cache, "use_cache": cache is not None}
        kept = torch.from_numpy(places - read).to(model.device)
        if model._supports_logits_to_keep():
            logits: Tensor = model(**inputs, logits_to_keep=kept).logits[0]
        else:
            logits = model(**inputs).logits[0, kept]
        return logits

    def _weights(self) -> Any:
        if self._model is None:
            self._model = load_to_ask(self._folder, self._precision)
            self._shares = self._shares_beginnings()
        return self._model

    def _as_tree(self, sequences: Sequence[Tokens]) -> bool:
        """Whether they may be read by masks: the model heeds them, and its layers see the whole of a sequence."""
        shape = self._model.config.get_text_config()
        window = getattr(shape, "sliding_window", None) or self.context
        return self._shares and max(map(len, sequences), default=0) <= window

    def _shares_beginnings(self) -> bool:
        """Whether the model heeds masks, positions and cache of a row, found out by trying: not all kinds do."""
        if "position_ids" not in inspect.signature(self._model.forward).parameters:
            return False
        start = range(3, 3 + _PROBE)
        sequences = [[*start, *range(n, n + _PROBE)] for n in (20, 40, 60)]
        last = range(2 * _PROBE - 1, 2 * _PROBE)
        alone = torch.cat([self.logits([sequence], [last])[0] for sequence in sequences]).float()
        self._shares = True
        try:
            parts = [*self.logits(sequences[:2], [last, last]), *self.logits(sequences[2:], [last])]
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):  # whatever its code makes of a tree
            return False
        finally:
            self._shares, self._last = False, _NOTHING
        return bool((torch.cat(parts).float() - alone).abs().mean() < _ALIKE * alone.std())


class _Last(NamedTuple):
    """The sequence read last.

    Attributes:
        tokens: Its tokens.
        path: Their places in the cache.
        cache: Keys and values of its row.
    """

    tokens: list[int]
    path: NDArray[np.int64]
    cache: Any


_NOTHING = _Last([], np.zeros(0, np.int64), None)


def _cut(cache: Any, places: NDArray[np.int64]) -> Any:
    """A cache that holds the keys and values at some places of another one only; empty for no place.

    One without the model's configuration: it keeps all, also for a layer that looks back a window only.
    """
    from transformers import DynamicCache

    kept = DynamicCache()
    if len(places):
        for index, layer in enumerate(cache.layers):
            index_C = torch.from_numpy(places).to(layer.keys.device)
            kept.update(layer.keys[:, :, index_C], layer.values[:, :, index_C], index)
    return kept
