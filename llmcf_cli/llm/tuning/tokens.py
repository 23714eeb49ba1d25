"""The mix as tokens in one flat file, mapped into memory: 4 bytes a token, whatever the mix's size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.llm.prompts.chat import encode_pair

_TOKENS, _BORDERS = "tokens.bin", "tokens.npz"


def tokenise(mix: Path, work: Path, tokenizer: Any, max_length: int, progress: Progress = SILENT) -> None:
    """Write a mix's tokens into `work`, for `TokenisedMix`.

    Args:
        mix: Parquet file of `build_mix`.
        work: Folder to write to.
        tokenizer: Of the model to be tuned.
        max_length: Most tokens of a sample.
        progress: Where to report.

    Raises:
        ModelError: The mix is empty, or a sample is too long.
    """
    file = pq.ParquetFile(mix)
    lengths: list[int] = []
    prompts: list[int] = []
    with (
        (work / _TOKENS).open("wb") as flat,
        progress.task("tokenise", file.metadata.num_rows, "samples") as task,
    ):
        for batch in file.iter_batches(batch_size=1024, columns=["prompt", "completion"]):
            for row in batch.to_pylist():
                ids, prompt = encode_pair(tokenizer, row["prompt"], row["completion"])
                if len(ids) > max_length:
                    raise ModelError(f"a sample of the mix has {len(ids)} tokens; at most {max_length} are allowed",
                                     code="sample-too-long", where=str(mix))  # fmt: skip
                flat.write(np.asarray(ids, dtype=np.int32).tobytes())
                lengths.append(len(ids))
                prompts.append(prompt)
            task.advance(batch.num_rows)
    if not lengths:
        raise ModelError("the mix has no samples", code="mix-empty", where=str(mix))
    np.savez(work / _BORDERS, lengths_N=np.array(lengths, np.int64), prompts_N=np.array(prompts, np.int64))


class TokenisedMix(torch.utils.data.Dataset[list[dict[str, Any]]]):
    """Samples of a tokenised mix, by batches of their numbers.

    Args:
        work: Where `tokenise` wrote.

    Attributes:
        lengths_N: Tokens of each sample (int64).
        prompts_N: How many of them are the prompt's (int64).
    """

    def __init__(self, work: Path) -> None:
        with np.load(work / _BORDERS) as borders:
            self.lengths_N, self.prompts_N = borders["lengths_N"], borders["prompts_N"]
        self._starts_N = np.concatenate([[0], np.cumsum(self.lengths_N)])
        self._tokens = np.memmap(work / _TOKENS, dtype=np.int32, mode="r")

    def __len__(self) -> int:
        return len(self.lengths_N)

    def __getitem__(self, batch: Sequence[int]) -> list[dict[str, Any]]:
        """Tokens of each sample (int64) and how many of them are the prompt's: all, for a `weightless` number."""
        return [self._sample(int(number)) for number in batch]

    def _sample(self, number: int) -> dict[str, Any]:
        index = number if number >= 0 else -1 - number
        tokens = self._tokens[self._starts_N[index] : self._starts_N[index + 1]].astype(np.int64)
        return {"tokens": tokens, "prompt": int(self.prompts_N[index]) if number >= 0 else len(tokens)}
