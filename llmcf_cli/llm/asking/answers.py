"""How likely a causal language model answers yes rather than no.

Legend: B batch, V vocabulary, Y and N tokens of either answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmcf_cli.core.errors import ModelError
from llmcf_cli.llm.asking.reading import Reader, Tokens
from llmcf_cli.llm.prompts.chat import chats_of


class AnswerScorer:
    """Scores prompts by the model's next token: log(P(yes) / P(no)) and P(yes) + P(no).

    P sums over all surface forms of an answer: every token of the vocabulary that reads like it but for case and white
    space around it (`Yes`, ` Yes`, `yes`, …), each probability from the full softmax.

    Args:
        reader: The model.
        positive: The answer that counts as yes.
        negative: The answer that counts as no.

    Attributes:
        context: Most tokens of a prompt.

    Raises:
        ModelError: An answer is no single token in any form.
    """

    def __init__(self, reader: Reader, positive: str, negative: str) -> None:
        self.reader, self.context = reader, reader.context
        self.positive_Y, self.negative_N = surface_forms(reader.tokenizer, positive, negative)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of chats that consist of one user's message each, up to where the answer begins."""
        chats = [[{"role": "user", "content": text}] for text in texts]
        return chats_of(self.reader.tokenizer).prompts(chats)

    def score(self, prompts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        """Score the prompts of a row (see `Reader.rows`).

        Returns:
            log(P(yes) / P(no)) and P(yes) + P(no), float32 [B] on the CPU.
        """
        last = [range(len(prompt) - 1, len(prompt)) for prompt in prompts]
        logits_BV = torch.cat(self.reader.logits(prompts, last))
        return yes_or_no(logits_BV, self.positive_Y, self.negative_N)


def yes_or_no(logits_BV: Tensor, positive_Y: Sequence[int], negative_N: Sequence[int]) -> tuple[Tensor, Tensor]:
    """log(P(yes) / P(no)) and P(yes) + P(no) of next-token logits, float32 [B] on the CPU."""
    logits_BV = logits_BV.float()
    all_B = logits_BV.logsumexp(1)
    yes_B, no_B = (logits_BV[:, list(tokens)].logsumexp(1) for tokens in (positive_Y, negative_N))
    return (yes_B - no_B).cpu(), ((yes_B - all_B).exp() + (no_B - all_B).exp()).cpu()


def surface_forms(tokenizer: Any, positive: str, negative: str) -> tuple[list[int], list[int]]:
    """Ids of the tokens that read like either answer, but for case and white space around it.

    Raises:
        ModelError: An answer has none, or both have the same.
    """
    tokens: dict[str, list[int]] = {_plain(positive): [], _plain(negative): []}
    if len(tokens) < 2:
        raise ModelError(
            f"the answers {positive!r} and {negative!r} are the same token", code="answers-ambiguous", where="llm.mix"
        )
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], skip_special_tokens=True)
    for token, text in enumerate(texts):
        if _plain(text) in tokens:
            tokens[_plain(text)].append(token)
    for answer in (positive, negative):
        if not tokens[_plain(answer)]:
            raise ModelError(
                f"the answer {answer!r} is not a single token of this model in any spelling",
                code="answer-no-token", where="llm.mix",
                hint="set positive and negative of the recommendation source to short words such as Yes and No",
            )  # fmt: skip
    return tokens[_plain(positive)], tokens[_plain(negative)]


def _plain(text: str) -> str:
    return text.strip().casefold()
