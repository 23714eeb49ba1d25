"""What matching did, and what its audit found."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from llmcf_cli.core.types import Clock

LEAKS = frozenset({"own_row", "same_pair", "future"})
"""The kinds that `match.exclude: reference` lets pass, in order to measure what they do."""


@dataclass(frozen=True)
class MatchReport:
    """What matching did.

    Attributes:
        samples: Samples matched.
        examples: Examples there were to find.
        k: Examples per sample.
        clock: How times were compared.
        search: Of an approximate index: its pools, recall and latency; None for an exact search.
    """

    samples: int
    examples: int
    k: int
    clock: Clock
    search: dict[str, Any] | None = None


@dataclass(frozen=True)
class Violation:
    """One kind of violation.

    Attributes:
        kind: Its name.
        meaning: What it is, in words.
        count: How many there are.
        rows: Up to five: (sample id, example's sample id or None).
    """

    kind: str
    meaning: str
    count: int
    rows: tuple[tuple[int, int | None], ...]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        samples: Matched samples.
        k: Places per sample.
        violations: One entry per kind that was checked, also where the count is 0.
        positive_share: Share of positive labels among filled places; None without any.
        padding_share: Share of places without an example.
        examples_used: Distinct examples.
        most_used: Times the most used example occurs.
        score_quantiles: Quantile → score of filled places; empty without any.
        coverage: Split → share of its samples with all, some and no places filled.
        histogram: (from, to, places) of scores, in bins of one width; empty without any.
    """

    samples: int
    k: int
    violations: tuple[Violation, ...]
    positive_share: float | None
    padding_share: float
    examples_used: int
    most_used: int
    score_quantiles: dict[float, float]
    coverage: dict[str, dict[str, float]]
    histogram: tuple[tuple[float, float, int], ...]

    @property
    def leaks(self) -> int:
        """Violations by which a sample may see its own label or the future."""
        return sum(violation.count for violation in self.violations if violation.kind in LEAKS)

    @property
    def total(self) -> int:
        """Violations of all kinds."""
        return sum(violation.count for violation in self.violations)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the total included."""
        return {"total": self.total, "leaks": self.leaks, **asdict(self)}
