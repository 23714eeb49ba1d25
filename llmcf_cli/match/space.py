"""How a row (history, item) becomes a vector. One definition for examples, offline queries and live requests.

Legend: N rows, L history length, I items, T text dimensions.
"""

from __future__ import annotations

import numpy as np
import torch

from llmcf_cli.core.errors import DataError
from llmcf_cli.match.config import TextSpaceConfig

BLOCK = 8192  # rows worked on at once: 8192 × 384 float64 are 25 MiB


class TextSpace:
    """Row vector = history vector ⊕ item vector, both text vectors of unit L2 norm (or zeros).

    The weights scale the query side only, so one dot product is the score
    `w_h·⟨hist, hist_i⟩ + w_t·⟨item, item_i⟩` (LLM-CF, CIKM 2024) and changing a weight leaves the stored
    examples as they are. Every row's result is independent of the rows beside it, to the bit.
    """

    def __init__(self, config: TextSpaceConfig) -> None:
        self.config = config

    def dim(self, text_dim: int) -> int:
        """Length of a space vector made from text vectors of `text_dim` numbers."""
        return 2 * text_dim

    def history_vectors(self, item_text_IT: np.ndarray, history_row_NL: np.ndarray) -> np.ndarray:
        """Mean of the history's item vectors, renormalised; zeros for an empty history.

        Args:
            item_text_IT: float32 [I+1, T], unit rows, row 0 zeros.
            history_row_NL: integer [N, L], item rows, 0 where there is none (on either side).

        Returns:
            float32 [N, T].

        Raises:
            DataError: A history names an item row that has no vector.
        """
        history_NL = np.asarray(history_row_NL)
        _check_rows(history_NL, len(item_text_IT))
        vector_NT = np.zeros((len(history_NL), item_text_IT.shape[1]), np.float32)
        if history_NL.size == 0:
            return vector_NT
        text_IT = torch.from_numpy(np.ascontiguousarray(item_text_IT, np.float32))
        for start in range(0, len(history_NL), BLOCK):
            row_BL = torch.from_numpy(history_NL[start : start + BLOCK].astype(np.int64))
            sum_BT = torch.nn.functional.embedding_bag(row_BL, text_IT, mode="sum", padding_idx=0).double()
            norm_B1 = sum_BT.square().sum(1, keepdim=True).sqrt()
            # The direction of the sum is the direction of the mean; vectors that cancel out have none.
            unit_BT = torch.where(norm_B1 > 1e-6, sum_BT / norm_B1.clamp_min(1e-6), 0.0)
            vector_NT[start : start + BLOCK] = unit_BT.numpy()
        return vector_NT

    def example_vectors(
        self, item_text_IT: np.ndarray, item_row_N: np.ndarray, history_row_NL: np.ndarray
    ) -> np.ndarray:
        """Unweighted space vectors of examples: history ⊕ item.

        Args:
            item_text_IT: float32 [I+1, T], unit rows, row 0 zeros.
            item_row_N: integer [N]; 0 is an unknown item and gives zeros.
            history_row_NL: integer [N, L], 0 where there is none.

        Returns:
            float32 [N, 2T].

        Raises:
            DataError: An item row has no vector.
        """
        item_N = np.asarray(item_row_N)
        _check_rows(item_N, len(item_text_IT))
        text_dim = item_text_IT.shape[1]
        vector_ND = np.empty((len(item_N), self.dim(text_dim)), np.float32)
        vector_ND[:, :text_dim] = self.history_vectors(item_text_IT, history_row_NL)
        vector_ND[:, text_dim:] = item_text_IT[item_N]
        return vector_ND

    def query_vectors(self, item_text_IT: np.ndarray, item_row_N: np.ndarray, history_row_NL: np.ndarray) -> np.ndarray:
        """Weighted space vectors of queries, (w_h·history) ⊕ (w_t·item); otherwise as `example_vectors`."""
        vector_ND = self.example_vectors(item_text_IT, item_row_N, history_row_NL)
        text_dim = item_text_IT.shape[1]
        vector_ND[:, :text_dim] *= np.float32(self.config.history_weight)
        vector_ND[:, text_dim:] *= np.float32(self.config.item_weight)
        return vector_ND


def _check_rows(row: np.ndarray, known: int) -> None:
    if row.size and (row.min() < 0 or row.max() >= known):
        raise DataError(
            f"item rows from {row.min()} to {row.max()}, but text vectors for rows 0 to {known - 1}",
            where="match space", hint="embed the items again: the text vectors are of another catalogue",
        )  # fmt: skip
