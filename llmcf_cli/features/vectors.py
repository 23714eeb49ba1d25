"""Columns of vectors → matrices, and back.

Legend: N rows, D dimensions, I items, T text dimensions.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError


def vectors(column: pa.ChunkedArray) -> NDArray[np.float32]:
    """float32 [N, D] from a column of lists of one fixed size."""
    array = column.combine_chunks()
    flat: NDArray[np.float32] = array.flatten().to_numpy().astype(np.float32, copy=False)
    return flat.reshape(len(array), array.type.list_size).copy()  # Arrow memory is read-only, torch wants writable


def vector_column(vector_ND: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """The column of lists of D numbers that `vectors` reads."""
    values = pa.array(np.ascontiguousarray(vector_ND).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(values, vector_ND.shape[1])


def item_text_array(table: pa.Table, num_items: int) -> NDArray[np.float32]:
    """Text vectors by item row, float32 [I + 1, T], row 0 zeros.

    Args:
        table: Columns `item_row` and `vector`.
        num_items: I, the size of the catalogue.

    Raises:
        DataError: The rows are not exactly 1 … I.
    """
    row_N = table["item_row"].combine_chunks().to_numpy()
    if not np.array_equal(np.sort(row_N), np.arange(1, num_items + 1)):
        raise DataError(
            f"text vectors for {len(row_N)} items, but the catalogue has {num_items}",
            code="vectors-unfit",
            where="item_text",
            hint="run the recipe again with --force embed",
        )
    vector_NT = vectors(table["vector"])
    text_IT = np.zeros((num_items + 1, vector_NT.shape[1]), np.float32)
    text_IT[row_N] = vector_NT
    return text_IT
