"""Control: examples drawn at random among those that a query may see, by the machinery of exact search.

Legend: N rows, E examples, D dimensions of the draw, K examples per query.
"""

from __future__ import annotations

import numpy as np

from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.seeding import GOLDEN, derive_seed, mixed, shifted
from llmcf_cli.match.config import RandomSearchConfig
from llmcf_cli.match.exact import ExactSearcher
from llmcf_cli.match.exact_index import ExactIndex
from llmcf_cli.match.guard import Guard, Keys
from llmcf_cli.match.searcher import Balance, Matches, Queries, Searcher

DIM = 16


class RandomSearcher(Searcher):
    """The nearest examples in a space that means nothing: guards, balance and padding stay what they are.

    Every example and every query gets a random vector, so what is near is chance. A row's vector depends on its user,
    item, time and the seed alone, so a live request finds what the stored sample found.
    """

    by_similarity = False

    def __init__(self, config: RandomSearchConfig) -> None:
        self._seed = config.seed

    def prepare(
        self, example_ED: np.ndarray, example_keys: Keys, example_label_E: np.ndarray, *, balance: Balance, guard: Guard
    ) -> RandomIndex:
        """As `Searcher.prepare`; the vectors are not looked at."""
        index = ExactSearcher().prepare(
            random_vectors(example_keys, derive_seed(self._seed, "example")), example_keys, example_label_E,
            balance=balance, guard=guard,
        )  # fmt: skip
        return RandomIndex(index, derive_seed(self._seed, "query"))


class RandomIndex:
    """Examples ready to be drawn from."""

    def __init__(self, index: ExactIndex, seed: int) -> None:
        self._index, self._seed = index, seed

    def search(self, queries: Queries, query_keys: Keys, *, k: int, progress: Progress = SILENT) -> Matches:
        """`k` random allowed examples of every query; the scores mean nothing, and the queries are not looked at."""

        def drawn(block: slice) -> np.ndarray:
            return random_vectors(query_keys.take(block), self._seed)

        return self._index.search(drawn, query_keys, k=k, progress=progress)


def random_vectors(keys: Keys, seed: int) -> np.ndarray:
    """float32 [N, D], uniform on [−1, 1): a hash of user, item, time and seed (SplitMix64; Steele et al., 2014)."""
    state_N = np.full(len(keys), seed, np.int64)
    for part_N in (keys.user_row_N, keys.item_row_N, keys.time_N):
        state_N = mixed(state_N ^ mixed(part_N.astype(np.int64)))
    bits_ND = mixed(state_N[:, None] + np.arange(1, DIM + 1) * GOLDEN)
    vector_ND: np.ndarray = shifted(bits_ND, 40).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)
    return vector_ND
