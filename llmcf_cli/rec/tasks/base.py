"""What a task is: the target of every sample, how predictions are stored and answered, measured and compared.

Legend: N samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import UnknownNameError
from llmcf_cli.core.types import TaskConfig
from llmcf_cli.features.batch import Samples
from llmcf_cli.plugin import Kind
from llmcf_cli.rec.measure.base import Measure, Truth
from llmcf_cli.rec.measure.slices import cold_start_slices
from llmcf_cli.store.tables import Table, prediction


@dataclass(frozen=True)
class Singles:
    """What reports tell of single samples.

    Attributes:
        title: What is better or worse about a sample.
        value_N: That, float64, more is better.
        answer: What people read of a prediction.
        answer_N: That, float64.
        digits: Of it after the point.
        listed_NK: Rows of the items that are listed, best first, 0 past the last; None where there are no lists.
    """

    title: str
    value_N: NDArray[np.float64]
    answer: str
    answer_N: NDArray[np.float64]
    digits: int = 3
    listed_NK: NDArray[np.int64] | None = None


class Task(ABC):
    """What models predict of a sample, and what becomes of their predictions. Built as `Class(config)`.

    Attributes:
        measures: What predictions are measured by, at least those that the configuration's `monitors` name. Arms are
            compared by the first.
        truth: Column of stored predictions that holds the target.
        output: Columns that hold the prediction.
        condition: SQL of the samples that are asked about and learned from, over the table `sample`.
        protocol: How predictions are made and measured, in sentences for people; empty where nothing needs saying.
    """

    measures: Sequence[Measure]
    truth: pa.Field
    output: tuple[pa.Field, ...]
    condition: ClassVar[str] = "true"
    protocol: Sequence[str] = ()

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @abstractmethod
    def target(self, con: Any, samples: Samples) -> NDArray[np.float32]:
        """What is to be predicted of each sample, float32 [N].

        Args:
            con: Connection to the tables of ingest.
            samples: Samples of one split.

        Raises:
            DataError: The tables lack what the task needs.
        """

    @abstractmethod
    def check(self, truth: Truth, split: str) -> None:
        """Refuse a split that no model can be trained or measured on.

        Raises:
            DataError: Says what is wrong with it.
        """

    @abstractmethod
    def columns(self, prediction: NDArray[Any]) -> Mapping[str, Any]:
        """Predictions, [N, …], as columns of `output`, by name; `read` is the inverse."""

    @abstractmethod
    def read(self, stored: pa.Table) -> NDArray[Any]:
        """The predictions of a stored table, or of its columns `output` alone, [N, …]."""

    @abstractmethod
    def answer(self, prediction_N: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
        """Columns that a request for scores is answered with, by name."""

    def singles(self, prediction: NDArray[Any], truth: Truth) -> Singles | None:
        """What a prediction says of single samples; None where reports tell of none."""
        return None

    def slices(self, train: Samples, test: Samples) -> dict[str, NDArray[np.bool_]]:
        """Name → bool mask [N] of parts of the test split that are measured on their own."""
        return cold_start_slices(train, test)

    @property
    def main(self) -> Measure:
        """The measure that arms are compared by."""
        return self.measures[0]

    @property
    def predicted(self) -> list[str]:
        """Names of the columns that hold the prediction."""
        return [column.name for column in self.output]

    @property
    def stored(self) -> Table:
        """The table of stored predictions."""
        return prediction(self.truth, *self.output)

    def monitor(self, name: str | None = None) -> Measure:
        """The measure that choices go by: the named one, or the configuration's default.

        Raises:
            UnknownNameError: The task has no measure of that name.
        """
        return self.measure(name or self.config.monitors[0])

    def measure(self, name: str) -> Measure:
        """The measure of that name.

        Raises:
            UnknownNameError: The task has none.
        """
        found = {measure.name: measure for measure in self.measures}
        if name not in found:
            raise UnknownNameError("measure", name, found, where=f"task {self.config.type}")
        return found[name]

    def read_truth(self, stored: pa.Table) -> Truth:
        """What a stored table's predictions are measured against; reads `user_row` and the column `truth`."""
        return Truth(stored[self.truth.name].to_numpy().astype(np.float32), stored["user_row"].to_numpy())


class NumberTask(Task):
    """A task whose models predict a number for each sample, stored in one column."""

    def columns(self, prediction: NDArray[Any]) -> Mapping[str, Any]:
        """The one column."""
        (column,) = self.output
        return {column.name: pa.array(prediction).cast(column.type)}

    def read(self, stored: pa.Table) -> NDArray[np.float32]:
        """float32 [N]."""
        found: NDArray[np.float32] = stored[self.output[0].name].to_numpy()
        return found


class ListTask(Task):
    """A task whose models answer a user with a list of the whole catalogue.

    Attributes:
        listed: Items of a list that predictions keep.
    """

    listed: ClassVar[int]

    @property
    @abstractmethod
    def filter_seen(self) -> bool:
        """Whether items that a user took earlier are left out of the list."""

    @abstractmethod
    def read_by(self, measures: Sequence[Measure]) -> int:
        """How many items of a list some measures look at, at most."""

    @abstractmethod
    def of_lists(self, item_row_NK: NDArray[np.int64], score_NK: NDArray[np.float32], truth: Truth) -> NDArray[Any]:
        """Predictions as models make them, [N, …], of lists as they are served.

        Args:
            item_row_NK: Item rows, best first, K = `listed`; 0 past the last item.
            score_NK: Their scores.
            truth: What each user took.
        """


TASK: Kind[Task] = Kind("task")
