"""The latest events of every user, for requests that bring no history of their own.

Legend: U users, E events of all of them, n requests, L history length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.features.spec import list_parts


@dataclass(frozen=True)
class Histories:
    """Events by user row, oldest first.

    Attributes:
        offset_U: int64 [U + 2]; the events of user row u are those from offset_U[u] to offset_U[u + 1]. Row 0, an
            unknown user, has none.
        item_E: int32, item rows.
        time_E: int64, ascending within a user.
    """

    offset_U: NDArray[np.int64]
    item_E: NDArray[np.int32]
    time_E: NDArray[np.int64]

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Histories:
        """From rows (user_row, items, times) for the users 1 … U in order; `to_arrow` is the inverse.

        Raises:
            DataError: A user is missing, or its lists differ in length.
        """
        rows = table["user_row"].to_numpy()
        items, length_U = list_parts(table["items"].combine_chunks())
        times, times_U = list_parts(table["times"].combine_chunks())
        if not np.array_equal(rows, np.arange(1, len(rows) + 1)) or not np.array_equal(length_U, times_U):
            raise DataError("histories do not match the users 1 … U", code="histories-unfit", where="history")
        offset_U = np.concatenate([[0, 0], np.cumsum(length_U)]).astype(np.int64)
        return cls(offset_U, items.to_numpy().astype(np.int32), times.to_numpy().astype(np.int64))

    def to_arrow(self) -> pa.Table:
        """Rows (user_row, items, times), one for each user."""
        offsets = pa.array(self.offset_U[1:].astype(np.int32))
        return pa.table({
            "user_row": np.arange(1, len(self), dtype=np.int32),
            "items": pa.ListArray.from_arrays(offsets, pa.array(self.item_E)),
            "times": pa.ListArray.from_arrays(offsets, pa.array(self.time_E)),
        })  # fmt: skip

    def __len__(self) -> int:
        """Rows, row 0 included."""
        return len(self.offset_U) - 1

    def before(self, user_row_n: NDArray[Any], time_n: NDArray[np.int64], length: int) -> NDArray[np.int32]:
        """The last events of each user strictly before a time, int32 item rows [n, L], left-padded with 0."""
        start_n, end_n = self.offset_U[user_row_n], self.offset_U[user_row_n + 1]
        widest = int((end_n - start_n).max(initial=0))
        if not widest:
            return np.zeros((len(user_row_n), length), np.int32)
        place_nW = start_n[:, None] + np.arange(widest)
        inside_nW = place_nW < end_n[:, None]
        time_nW = self.time_E[np.where(inside_nW, place_nW, 0)]
        end_n = start_n + (inside_nW & (time_nW < time_n[:, None])).sum(1)
        place_nL = end_n[:, None] + np.arange(-length, 0)
        return np.where(place_nL >= start_n[:, None], self.item_E[np.maximum(place_nL, 0)], 0).astype(np.int32)
