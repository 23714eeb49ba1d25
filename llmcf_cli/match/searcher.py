"""What a searcher is.

Legend: N queries, E examples, D space dimensions, K examples per query.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import numpy as np

from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.plugin import Kind

Balance = Literal["labels", "none"]
Queries = np.ndarray | Callable[[slice], np.ndarray]


@dataclass(frozen=True)
class Matches:
    """The examples found for each query, best first (score, then lower sample id).

    Attributes:
        index_NK: int32, position in the examples that were given; -1 where there are fewer than K.
        score_NK: float32; 0 where there is none.
    """

    index_NK: np.ndarray
    score_NK: np.ndarray


class Searcher(ABC):
    """A way to find examples. Built as `Class(config)`."""

    by_similarity: ClassVar[bool] = True
    """Whether scores are dot products of query and example."""

    def kept_in(self, folder: Path, progress: Progress = SILENT) -> Searcher:
        """This searcher, keeping in `folder` what it builds, so that it is built once; by default nothing is built."""
        return self

    @abstractmethod
    def prepare(
        self,
        example_ED: np.ndarray,
        example_keys: Keys,
        example_label_E: np.ndarray,
        *,
        balance: Balance,
        guard: Guard,
    ) -> Index:
        """Examples made ready for many searches (a server does this once).

        Args:
            example_ED: float [E, D], unweighted space vectors.
            example_keys: Keys of the examples, unique sample ids.
            example_label_E: 0 or 1 for each example.
            balance: `labels`: half the examples positive and half negative; `none`: the nearest of any label.
            guard: Decides what a query may see.

        Raises:
            DataError: Lengths differ, a sample id occurs twice, a vector is not finite, a label not 0 or 1.
        """

    def search(
        self,
        queries: Queries,
        query_keys: Keys,
        example_ED: np.ndarray,
        example_keys: Keys,
        example_label_E: np.ndarray,
        *,
        k: int,
        balance: Balance,
        guard: Guard,
        progress: Progress = SILENT,
    ) -> Matches:
        """`prepare` and one search of what it gives."""
        index = self.prepare(example_ED, example_keys, example_label_E, balance=balance, guard=guard)
        return index.search(queries, query_keys, k=k, progress=progress)


SEARCHER: Kind[Searcher] = Kind("searcher")


class Index(Protocol):
    """Examples ready to be searched."""

    def search(self, queries: Queries, query_keys: Keys, *, k: int, progress: Progress = SILENT) -> Matches:
        """See `ExactIndex.search`."""
