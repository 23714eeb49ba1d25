"""What asking a language model found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Estimate:
    """A measured value.

    Attributes:
        value: The measure.
        standard_error: Over the samples or questions; None where it is not known.
        n: How many there are.
    """

    value: float
    standard_error: float | None
    n: int


@dataclass(frozen=True)
class TeacherReport:
    """What the teacher was asked.

    Attributes:
        wanted: Samples chosen.
        scored: Samples with a score.
        too_long: Samples without one, as their question does not fit even without any history.
        asked: Questions put to the model by this run.
        cached: Questions whose answer was in the cache.
        histories_shortened: Questions from which the oldest history was left out to fit.
        mass: Mean of P(yes) + P(no): near 1, the model gives one of the two answers.
        auc: Of its answers on the scored train samples; None if they have one label only.
        seconds: Time this run spent asking.
        questions_per_second: Of this run.
        examples: A few questions with P(yes) / (P(yes) + P(no)) and the label.
    """

    wanted: int
    scored: int
    too_long: int
    asked: int
    cached: int
    histories_shortened: int
    mass: float
    auc: float | None
    seconds: float
    questions_per_second: float
    examples: list[dict[str, Any]] = field(default_factory=list)
