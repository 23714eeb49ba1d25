"""What a searcher is.

Legend: N queries, E examples, D or S space dimensions, K examples per query, L history, I items, T text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import ModelError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.types import Clock
from llmcf_cli.match.guard import Guard, Keys, Matching, guard_of
from llmcf_cli.plugin import Kind

if TYPE_CHECKING:
    from llmcf_cli.features.batch import Samples
    from llmcf_cli.match.space import Space

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
    repeatable: ClassVar[bool] = True
    """Whether what is found is the same after every `prepare`."""

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

    def online(
        self, space: Space, examples: Samples, vector_ES: NDArray[np.float32], matching: Matching, clock: Clock
    ) -> OnlineSearch:
        """The search for requests, ready; see `OnlineSearch`."""
        return OnlineSearch(self, space, examples, vector_ES, matching, clock)


SEARCHER: Kind[Searcher] = Kind("searcher")


class Index(Protocol):
    """Examples ready to be searched."""

    def search(self, queries: Queries, query_keys: Keys, *, k: int, progress: Progress = SILENT) -> Matches:
        """See `ExactIndex.search`."""


class OnlineSearch:
    """Examples made ready for live requests, found as those of stored samples are. Safe to share between threads.

    Args:
        searcher: Finds them.
        space: Where.
        examples: x_i and y_i.
        vector_ES: float32, what each is found by.
        matching: Balance, guard and limits.
        clock: How times compare.
    """

    def __init__(
        self, searcher: Searcher, space: Space, examples: Samples, vector_ES: NDArray[np.float32], matching: Matching,
        clock: Clock,
    ) -> None:  # fmt: skip
        self._space, self._by_similarity, self._dim = space, searcher.by_similarity, vector_ES.shape[1]
        self._index = searcher.prepare(
            vector_ES, Keys.of(examples), examples.label_N, balance=matching.balance, guard=guard_of(matching, clock)
        )

    def check_dim(self, text_IT: NDArray[np.float32], history_length: int) -> None:
        """Whether queries and examples have as many numbers.

        Raises:
            ModelError: They have not.
        """
        nobody = np.zeros(1, np.int32), np.zeros((1, history_length), np.int32)
        dim = self._space.query_vectors(self._space.item_vectors(text_IT), *nobody).shape[1]
        if dim != self._dim:
            what = f"example vectors have {self._dim} numbers, but queries have {dim}"
            raise ModelError(what, code="bundle-unfit", where="examples.safetensors", hint="llmcf train-rec RECIPE")

    def search(self, text_IT: NDArray[np.float32], samples: Samples, k: int) -> Matches:
        """The K best allowed examples of each request.

        Args:
            text_IT: Text vectors of the catalogue as it is now.
            samples: The requests, encoded.
            k: K.
        """
        query_NS = np.zeros((len(samples), 0), np.float32)
        if self._by_similarity:
            item_ID = self._space.item_vectors(text_IT)
            query_NS = self._space.query_vectors(item_ID, samples.item_row_N, samples.history_row_NL)
        return self._index.search(query_NS, Keys.of(samples), k=k)
