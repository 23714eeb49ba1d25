"""Which samples form which batch, for all epochs: known before the start, whatever resumes or shares the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from llmcf_cli.core.seeding import derive_seed
from llmcf_cli.llm.config import TuneConfig

_MEGABATCH = 32  # batches that are sorted by length together: little padding, and still a new order every epoch


def plan_batches(lengths_N: np.ndarray, config: TuneConfig, seed: int, processes: int = 1) -> list[np.ndarray]:
    """Sample indices of every batch of every epoch, in the order of training.

    A batch holds `batch_size` samples or, where `batch_tokens` is set, as many as that allows, padding included.
    Samples are drawn at random; where they are padded, those of similar length stand together.

    Args:
        lengths_N: Tokens of each sample.
        config: Batch size, packing and epochs.
        seed: Of the order.
        processes: The batches are dealt to so many in turn; a last round is filled up with `weightless` ones, so that
            every process takes as many steps and the sum of gradients is that of one process.
    """
    batches: list[np.ndarray] = []
    for epoch in range(config.epochs):
        generator = np.random.default_rng(derive_seed(seed, "order", epoch))
        order_N = generator.permutation(len(lengths_N))
        if config.packing == "none":
            order_N = _grouped(order_N, lengths_N, _MEGABATCH * _typical_batch(lengths_N, config))
        found = list(_cut(order_N, lengths_N, config))
        batches += [found[index] for index in generator.permutation(len(found))]
    missing = -len(batches) % processes
    return batches + [weightless(batches[-1][:1])] * missing


def weightless(indices_B: np.ndarray) -> np.ndarray:
    """The same samples without their answers: a batch that computes but has no part in the loss."""
    return -1 - indices_B


def padding_share(batches: Sequence[np.ndarray], lengths_N: np.ndarray) -> float:
    """Share of the tokens of padded batches that is padding."""
    real = sum(int(lengths_N[batch].sum()) for batch in batches)
    return 1 - real / max(sum(int(lengths_N[batch].max()) * len(batch) for batch in batches), 1)


def _grouped(order_N: np.ndarray, lengths_N: np.ndarray, block: int) -> np.ndarray:
    """The order with every run of `block` samples sorted by length, longest first."""
    blocks = [order_N[start : start + block] for start in range(0, len(order_N), block)]
    return np.concatenate([part[np.argsort(-lengths_N[part], kind="stable")] for part in blocks])


def _typical_batch(lengths_N: np.ndarray, config: TuneConfig) -> int:
    if config.batch_tokens is None:
        return config.batch_size
    return max(1, int(config.batch_tokens // lengths_N.mean()))


def _cut(order_N: np.ndarray, lengths_N: np.ndarray, config: TuneConfig) -> Iterator[np.ndarray]:
    """Batches of consecutive samples; a sample past the budget of tokens stands alone."""
    if config.batch_tokens is None:
        for start in range(0, len(order_N), config.batch_size):
            yield order_N[start : start + config.batch_size]
        return
    start = longest = total = 0
    for end, length in enumerate(lengths_N[order_N]):
        longest, total = max(longest, int(length)), total + int(length)
        cost = total if config.packing == "packed" else longest * (end + 1 - start)
        if cost > config.batch_tokens and end > start:
            yield order_N[start:end]
            start, longest, total = end, int(length), int(length)
    yield order_N[start:]
