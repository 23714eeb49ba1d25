"""From chat messages to tokens, and fitting them into a length by leaving out the oldest history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmcf_cli.llm.engines.base import Messages

DECISIONS = {1: "liked", 0: "did not like"}
"""How a prompt names a label."""


def encode_pair(tokenizer: Any, prompt: Messages, completion: Messages) -> tuple[list[int], int]:
    """Tokens of a question with its answer, as the model meets them when it generates.

    Args:
        tokenizer: With a chat template.
        prompt: The chat up to the answer.
        completion: The answer.

    Returns:
        All tokens, and how many of them belong to the prompt with its generation mark.
    """
    before = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    if whole.startswith(before):
        # Tokenised apart, so that no token straddles the border: generation starts from exactly these tokens.
        parts = tokenizer([before, whole[len(before) :].rstrip("\n")], add_special_tokens=False)["input_ids"]
        return [*parts[0], *parts[1]], len(parts[0])
    prompt_ids, ids = tokenizer([before, whole], add_special_tokens=False)["input_ids"]
    shared = next((i for i, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), len(prompt_ids))
    return ids, shared


def fit_histories(
    histories: Sequence[Sequence[str]],
    longest: int,
    measure: Callable[[list[int], list[list[str]]], list[int]],
) -> tuple[list[list[str]], list[int]]:
    """Leave out the oldest texts of each history until its prompt fits.

    Halves the search each round, and measures all histories that are still open in one call.

    Args:
        histories: Texts of each prompt, oldest first.
        longest: Most tokens of a prompt.
        measure: (indices, their shortened histories) → tokens of each prompt, growing with the history.

    Returns:
        The histories that fit, and the tokens of each prompt. A prompt too long even without any history keeps none
        and shows its tokens, more than `longest`.
    """
    kept = [list(history) for history in histories]
    tokens = measure(list(range(len(kept))), kept) if kept else []
    low = [0] * len(kept)  # this many newest texts are known to fit, or nothing does
    high = [len(history) if count > longest else -1 for history, count in zip(histories, tokens, strict=True)]
    while open_ones := [i for i in range(len(kept)) if high[i] > low[i]]:
        tries = [_newest(histories[i], (low[i] + high[i]) // 2) for i in open_ones]
        for i, history, count in zip(open_ones, tries, measure(open_ones, tries), strict=True):
            if count <= longest:
                low[i], kept[i], tokens[i] = len(history) + 1, history, count
            else:
                high[i] = len(history)
                if not history:
                    kept[i], tokens[i] = history, count
    return kept, tokens


def _newest(history: Sequence[str], count: int) -> list[str]:
    return list(history[len(history) - count :])
