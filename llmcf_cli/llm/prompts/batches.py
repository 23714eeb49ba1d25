"""Batches of prompts: of similar length, within a budget of tokens, and the same ones after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from math import ceil
from typing import TypeVar

from llmcf_cli.core.errors import ModelError

_STEP = 32

Key = TypeVar("Key")
Result = TypeVar("Result")


def by_length(lengths: Sequence[int], *, answer: int, most_tokens: int, most: int) -> list[list[int]]:
    """Indices of `lengths` in batches of similar length, longest first; a prompt past the budget stands alone.

    Lengths count in steps of 32 tokens, and equal ones keep their order: neighbours often begin alike.

    Args:
        lengths: Tokens of each prompt.
        answer: Tokens that each prompt's answer may add.
        most_tokens: Most tokens of a batch, each prompt and answer counted as the batch's longest.
        most: Most prompts of a batch.
    """
    found: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-ceil(lengths[i] / _STEP), i)):
        longest = max(longest, lengths[index])
        if found and (len(found[-1]) + 1) * (longest + answer) <= most_tokens and len(found[-1]) < most:
            found[-1].append(index)
        else:
            found.append([index])
            longest = lengths[index]
    return found


def unfinished(
    keys: Sequence[Key], done: Collection[Key], group: Callable[[Sequence[Key]], list[list[Key]]]
) -> Iterator[list[Key]]:
    """The batches still to do.

    Those of an unbroken run first, as far as nothing of them is done: a resumed run then computes the very same
    batches, down to the rounding. What is missing of the others is batched anew.

    Args:
        keys: All work, in its order.
        done: What of it is done.
        group: Makes batches.
    """
    rest: list[Key] = []
    for batch in group(keys):
        missing = [key for key in batch if key not in done]
        if len(missing) == len(batch):
            yield batch
        else:
            rest += missing
    yield from group(rest)


def in_halves(
    work: Callable[[Sequence[Key]], Result], items: Sequence[Key], *, where: str, setting: str
) -> list[Result]:
    """The results of work on a batch, which is halved until its parts fit into the GPU's memory.

    Args:
        work: Part of the items → result.
        items: The batch, not empty.
        where: Folder of the model, for the message.
        setting: Setting to lower where even one item does not fit.

    Returns:
        One result per part, in the order of the items.

    Raises:
        ModelError: Even one item does not fit.
    """
    import torch

    try:
        return [work(items)]
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            hint = f"lower {setting} or use a smaller model"
            raise ModelError(
                "a single prompt does not fit into GPU memory", code="gpu-memory-full", where=where, hint=hint
            ) from error
    torch.cuda.empty_cache()  # after the handler, which holds on to the tensors of the failed pass
    half = len(items) // 2
    parts = (items[:half], items[half:])
    return [result for part in parts for result in in_halves(work, part, where=where, setting=setting)]
