"""What ingest did: the steps with their counts, and the size of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llmcf_cli.core.errors import DataError

Clock = Literal["global", "per_user"]
SPLITS = ("train", "validation", "test")
MAX_BAD_SAMPLES = 5


@dataclass(frozen=True)
class BadRows:
    """Rows that were dropped as unreadable.

    Attributes:
        count: How many.
        samples: Up to `MAX_BAD_SAMPLES` of them, as found, with what is wrong.
    """

    count: int = 0
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class IngestStep:
    """One step of ingest.

    Attributes:
        name: What was done, e.g. `k-core`.
        kept: Rows after the step.
        dropped: Rows the step removed.
        reason: Why rows were removed, or what else the step found.
        samples: Up to `MAX_BAD_SAMPLES` of the removed rows, where they help.
    """

    name: str
    kept: int
    dropped: int
    reason: str
    samples: tuple[str, ...] = ()


@dataclass(frozen=True)
class SplitCount:
    """Samples of one split, by label."""

    split: str
    positive: int
    negative: int


@dataclass(frozen=True)
class IngestReport:
    """The outcome of an ingest.

    Attributes:
        steps: What each step kept and dropped, in order.
        clock: `global`: times of different users compare; `per_user`: only the order within a user is known.
        users, items, interactions: Rows of these tables.
        samples: Sample counts by split and label, in the order of `SPLITS`.
        history_median: Median history length over all samples.
        history_empty: Samples without any earlier event.
        items_without_text, users_without_text: Rows whose text is empty.
    """

    steps: tuple[IngestStep, ...]
    clock: Clock
    users: int
    items: int
    interactions: int
    samples: tuple[SplitCount, ...]
    history_median: float
    history_empty: int
    items_without_text: int
    users_without_text: int


class StepLog:
    """The steps so far. A step that leaves nothing stops the ingest."""

    def __init__(self) -> None:
        self.steps: list[IngestStep] = []

    def add(self, name: str, kept: int, dropped: int, reason: str, samples: tuple[str, ...] = ()) -> None:
        """Record a step.

        Raises:
            DataError: It kept no rows.
        """
        self.steps.append(IngestStep(name, kept, dropped, reason, samples))
        if kept == 0:
            detail = "".join(f"\n  {sample}" for sample in samples)
            raise DataError(
                f'step "{name}" left nothing: {dropped:,} dropped ({reason}){detail}',
                where="dataset", hint="loosen that step's settings in the recipe, or check the source's columns",
            )  # fmt: skip
