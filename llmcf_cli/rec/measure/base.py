"""What a measure of predictions is: the only thing that training, search, comparison, plots and reports know of one.

Legend: N samples, U units (samples, users or queries), G users, A predictions, S seeds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.rec.measure.significance import (
    Paired,
    mean_standard_error,
    paired_bootstrap,
    paired_t,
    resampled,
    sums,
)


@dataclass(frozen=True)
class Truth:
    """What predictions are measured against.

    Attributes:
        target_N: What is to be predicted, as the task says; float32.
        user_row_N: Whose sample it is; int32.
        taken_I: How often each item was taken in train, int64 [I + 1]; None where that is not known.
    """

    target_N: NDArray[np.float32]
    user_row_N: NDArray[np.int32]
    taken_I: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.target_N)

    def take(self, index: Any) -> Truth:
        """The samples at the given positions or under a mask."""
        return Truth(self.target_N[index], self.user_row_N[index], self.taken_I)


@dataclass(frozen=True)
class Values:
    """A measure of one prediction, and what each unit contributes to it.

    Attributes:
        total: The measure.
        unit_U: Contributions, float64: the total is a function of their weighted mean. Two predictions of the same
            samples have the same units in the same order.
        weight_U: Weights, float64; None: all alike.
        label_U: Classes of the units, where the total is a mean over each class apart; None without any.
        user_U: Whose each unit is, where a user may have several, as of samples; None where units stand for themselves.
            Units of one user are not independent, so tests and errors draw users, not units.
    """

    total: float
    unit_U: NDArray[np.float64]
    weight_U: NDArray[np.float64] | None = None
    label_U: NDArray[np.float32] | None = None
    user_U: NDArray[np.int32] | None = None


class Measure(ABC):
    """One measure. A subclass says what it is called and how it is computed; the tests below may be replaced.

    Attributes:
        name: In files and settings.
        title: In tables and plots.
        unit: Of the value; empty for a pure number.
        digits: Decimals shown in tables.
        higher_is_better: Whether more is better.
        chance: What a prediction that knows nothing reaches, where relative improvement over it has a meaning.
        test_title: Name of `test` in tables.
        most: Value past which users of the predictions are warned; None: none.
        advice: What that means for them.
        detail: Whether files alone have it, as tables have others that say nearly the same.
    """

    name: str
    title: str
    unit: str = ""
    digits: int = 4
    higher_is_better: bool
    chance: float | None = None
    test_title: str = "bootstrap"
    most: float | None = None
    advice: str = ""
    detail: bool = False

    @abstractmethod
    def values(self, prediction: NDArray[Any], truth: Truth) -> Values:
        """The measure and the units' contributions.

        Args:
            prediction: What the task's models predict of the samples, [N, …] in their order.
            truth: What is so.

        Raises:
            DataError: The measure is not defined on these samples.
        """

    def value(self, prediction: NDArray[Any], truth: Truth) -> float:
        """The measure alone, by a shorter way where there is one. Raises as `values`."""
        return self.values(prediction, truth).total

    def pooled(self, predictions: Sequence[NDArray[Any]], truth: Truth) -> Values:
        """The measure of what several seeds predict together: their mean prediction."""
        return self.values(np.mean(predictions, axis=0), truth)

    def total(self, mean: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weighted means of the units' contributions → the measure, elementwise."""
        return mean

    def test(self, first: Values, second: Values) -> Paired:
        """Whether two predictions of the same samples differ, by a paired bootstrap over the users, or else units."""
        (first_G, second_G), weight_G = _drawn(first, second)
        return paired_bootstrap(first_G, second_G, weight_G, self.total)

    def standard_error(self, values: Values) -> float:
        """Standard error over the users, or else units."""
        return float(resampled(*_drawn(values), self.total)[0].std(ddof=1))

    def counts(self, truth: Truth) -> Mapping[str, int]:
        """How many there are of each kind of sample that the measure needs: too few of one, and it says nothing."""
        return {"samples": len(truth)}

    @property
    def sign(self) -> float:
        """Factor that makes more better."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def heading(self) -> str:
        """Title with its unit, and an arrow towards better values."""
        return f"{self.axis} {'↑' if self.higher_is_better else '↓'}"

    @property
    def axis(self) -> str:
        """Title with its unit."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


class MeanMeasure(Measure):
    """A plain mean over the units: tested by a paired t-test, over the users where they have several."""

    test_title = "t-test"

    def test(self, first: Values, second: Values) -> Paired:
        """Whether two predictions of the same samples differ, by a paired t-test over the users, or else units."""
        return paired_t(first.unit_U, second.unit_U, first.user_U)

    def standard_error(self, values: Values) -> float:
        """Of the mean over the users' units."""
        return mean_standard_error(values.unit_U, values.user_U)


def measured(measures: Sequence[Measure], prediction: NDArray[Any], truth: Truth) -> dict[str, float]:
    """Name → value of each measure that is defined on these samples."""
    found = {}
    for measure in measures:
        try:
            found[measure.name] = measure.value(prediction, truth)
        except DataError:
            continue
    return found


def _drawn(*values: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a bootstrap draws: a weighted mean for each prediction [A, G], and its weight [G]."""
    unit_AU, first = np.stack([one.unit_U for one in values]), values[0]
    weight_U = np.ones(unit_AU.shape[1]) if first.weight_U is None else first.weight_U
    if first.user_U is None:
        return unit_AU, weight_U
    weight_G = sums(weight_U[None], first.user_U)[0]
    total_AG = sums(unit_AU * weight_U, first.user_U)
    return np.divide(total_AG, weight_G, out=np.zeros_like(total_AG), where=weight_G > 0), weight_G
