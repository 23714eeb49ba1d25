"""What is told of bundles; cheap to import."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnknownValues:
    """Values of a feature that the trained vocabulary lacks, of new users or items.

    Attributes:
        feature: E.g. `item.genre`.
        rows: New rows that have such a value.
    """

    feature: str
    rows: int
