"""How a row (history, item) becomes a vector. One definition for examples, offline queries and live requests.

Legend: N rows, L history length, I items, D dimensions of an item, T of its text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import torch

from llmcf_cli.core.errors import DataError
from llmcf_cli.match.config import SpaceConfig, TextSpaceConfig
from llmcf_cli.plugin import Kind

BLOCK = 8192  # rows worked on at once: 8192 × 384 float64 are 25 MiB


class Space(ABC):
    """Row vector = history vector ⊕ item vector, both of unit L2 norm (or zeros). Built as `Class(config)`.

    The weights scale the query side only, so one dot product is the score
    `w_h·⟨hist, hist_i⟩ + w_t·⟨item, item_i⟩` (LLM-CF, CIKM 2024) and changing a weight leaves the stored
    examples as they are. Every row's result is independent of the rows beside it, to the bit.
    """

    def __init__(self, config: SpaceConfig) -> None:
        self.config = config

    @abstractmethod
    def item_vectors(self, text_IT: np.ndarray) -> np.ndarray:
        """What the space compares items by: float32 [I+1, D], unit rows or shorter, row 0 zeros.

        Args:
            text_IT: Text vectors of the items.
        """

    def history_vectors(self, item_ID: np.ndarray, history_row_NL: np.ndarray) -> np.ndarray:
        """Mean of the history's item vectors, renormalised; zeros for an empty history.

        Args:
            item_ID: As `item_vectors` gives them.
            history_row_NL: integer [N, L], item rows, 0 where there is none (on either side).

        Returns:
            float32 [N, D].

        Raises:
            DataError: A history names an item row that has no vector.
        """
        history_NL = np.asarray(history_row_NL)
        _check_rows(history_NL, len(item_ID))
        vector_ND = np.zeros((len(history_NL), item_ID.shape[1]), np.float32)
        if history_NL.size == 0:
            return vector_ND
        table_ID = torch.from_numpy(np.ascontiguousarray(item_ID, np.float32))
        for start in range(0, len(history_NL), BLOCK):
            row_BL = torch.from_numpy(history_NL[start : start + BLOCK].astype(np.int64))
            sum_BD = torch.nn.functional.embedding_bag(row_BL, table_ID, mode="sum", padding_idx=0).double()
            norm_B1 = sum_BD.square().sum(1, keepdim=True).sqrt()
            # The direction of the sum is the direction of the mean; vectors that cancel out have none.
            unit_BD = torch.where(norm_B1 > 1e-6, sum_BD / norm_B1.clamp_min(1e-6), 0.0)
            vector_ND[start : start + BLOCK] = unit_BD.numpy()
        return vector_ND

    def example_vectors(self, item_ID: np.ndarray, item_row_N: np.ndarray, history_row_NL: np.ndarray) -> np.ndarray:
        """Unweighted space vectors of examples: history ⊕ item.

        Args:
            item_ID: As `item_vectors` gives them.
            item_row_N: integer [N]; 0 is an unknown item and gives zeros.
            history_row_NL: integer [N, L], 0 where there is none.

        Returns:
            float32 [N, 2D].

        Raises:
            DataError: An item row has no vector.
        """
        item_N = np.asarray(item_row_N)
        _check_rows(item_N, len(item_ID))
        dim = item_ID.shape[1]
        vector_ND = np.empty((len(item_N), 2 * dim), np.float32)
        vector_ND[:, :dim] = self.history_vectors(item_ID, history_row_NL)
        vector_ND[:, dim:] = item_ID[item_N]
        return vector_ND

    def query_vectors(self, item_ID: np.ndarray, item_row_N: np.ndarray, history_row_NL: np.ndarray) -> np.ndarray:
        """Weighted space vectors of queries, (w_h·history) ⊕ (w_t·item); otherwise as `example_vectors`."""
        vector_ND = self.example_vectors(item_ID, item_row_N, history_row_NL)
        dim = item_ID.shape[1]
        vector_ND[:, :dim] *= np.float32(self.config.history_weight)
        vector_ND[:, dim:] *= np.float32(self.config.item_weight)
        return vector_ND


SPACE: Kind[Space] = Kind("space")


class TextSpace(Space):
    """Items are their text vectors (LLM-CF, CIKM 2024)."""

    def __init__(self, config: TextSpaceConfig) -> None:
        super().__init__(config)

    def item_vectors(self, text_IT: np.ndarray) -> np.ndarray:
        """The text vectors as they are."""
        return text_IT


def _check_rows(row: np.ndarray, known: int) -> None:
    if row.size and (row.min() < 0 or row.max() >= known):
        raise DataError(
            f"item rows from {row.min()} to {row.max()}, but text vectors for rows 0 to {known - 1}",
            code="vectors-unfit", where="match space",
            hint="the text vectors are of another catalogue: llmcf embed RECIPE --force embed",
        )  # fmt: skip
