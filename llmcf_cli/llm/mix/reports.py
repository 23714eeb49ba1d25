"""What a tuning mix holds."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MixPartReport:
    """What one source gave.

    Attributes:
        source: Registered name of the source.
        available: Samples that it has, each once.
        samples: Samples in the mix.
        asked: Share that the recipe asks for.
        share: Share of the mix's samples that it got.
        tokens: Tokens of the samples, questions and answers.
        answer_tokens: Tokens of the answers, on which alone the loss is.
        longest: Tokens of the longest sample.
        counts: Samples left out or shortened, by reason.
        examples: A few samples.
        bad: A few rows of a file that cannot be used, each with its place and reason.
    """

    source: str
    available: int
    samples: int
    asked: float
    share: float
    tokens: int
    answer_tokens: int
    longest: int
    counts: dict[str, int]
    examples: list[dict[str, str]]
    bad: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class MixReport:
    """What a mix holds, part by part.

    Attributes:
        samples: Of all parts.
        tokens: Of all parts.
        max_length: Most tokens that a sample may have: the recipe's, or those of the model's context if that has fewer.
        parts: One for each source.
    """

    samples: int
    tokens: int
    max_length: int = 0
    parts: list[MixPartReport] = field(default_factory=list)
