"""Exact search: of many queries at once (`exact_index.py`), and of live requests (`halves.py`).

Legend: E examples, D or S space dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.types import Clock
from llmcf_cli.match.config import ExactSearchConfig
from llmcf_cli.match.exact_index import ExactIndex, device_of
from llmcf_cli.match.guard import Guard, Keys, Matching
from llmcf_cli.match.halves import ExactOnlineSearch, fits
from llmcf_cli.match.searcher import Balance, OnlineSearch, Searcher

if TYPE_CHECKING:
    from llmcf_cli.features.batch import Samples
    from llmcf_cli.match.space import Space


class ExactSearcher(Searcher):
    """Blocked matrix products with a running top-K."""

    def __init__(self, config: ExactSearchConfig | None = None) -> None:
        self.config = config or ExactSearchConfig()

    def prepare(
        self, example_ED: np.ndarray, example_keys: Keys, example_label_E: np.ndarray, *, balance: Balance, guard: Guard
    ) -> ExactIndex:
        """See `Searcher.prepare`."""
        return ExactIndex(self.config, example_ED, example_keys, example_label_E, balance=balance, guard=guard)

    def online(
        self, space: Space, examples: Samples, vector_ES: NDArray[np.float32], matching: Matching, clock: Clock
    ) -> OnlineSearch:
        """See `Searcher.online`; the user's part is computed once where the examples are few enough."""
        kind = ExactOnlineSearch if fits(vector_ES, device_of(self.config.device)) else OnlineSearch
        return kind(self, space, examples, vector_ES, matching, clock)
