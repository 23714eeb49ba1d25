"""Whether an example of a sample's own item tells the sample's label in train, and not outside it.

A train row is never its own example. So of an item with n positive train rows, a positive row can find n − 1 of them
and a negative one n: in train, a positive example of the item speaks against a positive label, most for rare items; on
validation it does not. A model that reads examples learns what holds in train alone. Target encoding knows the same as
leave-one-out leakage.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NOTEWORTHY = 0.05
"""Smallest difference between train and validation that raises the alarm."""
ERRORS = 4.0
"""It must also be at least this many standard errors."""
MOST = 20
"""Items with at least this many positive train rows form one stratum."""

# Strata are items with equally many positive train rows. In each: rows of either label, and those with such an example.
_COUNTS = """
WITH found AS (
    SELECT sample_id, bool_or(e.item_row = q.item_row AND e.label = 1) AS own
    FROM (SELECT sample_id, unnest(example_sample_id) AS example_id FROM read_parquet($matches)) AS place
    JOIN sample AS q USING (sample_id)
    LEFT JOIN sample AS e ON e.sample_id = place.example_id
    GROUP BY sample_id
), popular AS (
    SELECT item_row, least(count(*), $most) AS positives
    FROM sample WHERE split = 'train' AND label = 1 GROUP BY item_row
)
SELECT q.split, positives, count(*) FILTER (label = 1), count(*) FILTER (label = 0),
       count(*) FILTER (label = 1 AND own), count(*) FILTER (label = 0 AND own)
FROM sample AS q JOIN found USING (sample_id) JOIN popular USING (item_row)
WHERE q.split IN ('train', 'validation') AND label IN (0, 1) GROUP BY ALL
"""


@dataclass(frozen=True)
class OwnItemShift:
    """How much more often positive rows than negative ones have a positive example of their own item.

    Differences of shares between rows of items with equally many positive train rows, weighted as by Mantel and
    Haenszel (Greenland and Robins, 1985, for the standard error); from −1 to 1.

    Attributes:
        train: Over the train rows.
        validation: Over those of validation.
        error: Standard error of the difference between both.
    """

    train: float
    validation: float
    error: float

    @property
    def misleads(self) -> bool:
        """Whether train says less for such an example than validation does, beyond chance."""
        return self.validation - self.train > max(NOTEWORTHY, ERRORS * self.error)


def own_item_shift(ingest_db: Path, match_parquet: Path) -> OwnItemShift | None:
    """Measure it; None where a split has no such rows of both labels.

    Args:
        ingest_db: DuckDB file with the table `sample`.
        match_parquet: Table `example_match`.
    """
    from llmcf_cli.store.open import connect_read

    with connect_read(ingest_db) as connection:
        rows = connection.execute(_COUNTS, {"matches": str(match_parquet), "most": MOST}).fetchall()
    found = {}
    for split in ("train", "validation"):
        strata = [counts for name, _, *counts in rows if name == split and counts[0] and counts[1]]
        if not strata:
            return None
        found[split] = _pooled(strata)
    (train, of_train), (validation, of_validation) = found["train"], found["validation"]
    return OwnItemShift(train, validation, float((of_train + of_validation) ** 0.5))


def _pooled(strata: list[list[int]]) -> tuple[float, float]:
    """Difference of shares and its variance."""
    weight = difference = variance = 0.0
    for positive, negative, with_positive, with_negative in strata:
        share, other = with_positive / positive, with_negative / negative
        each = positive * negative / (positive + negative)
        weight += each
        difference += each * (share - other)
        variance += each**2 * (share * (1 - share) / positive + other * (1 - other) / negative)
    return difference / weight, variance / weight**2
