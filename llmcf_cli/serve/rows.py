"""How requests become rows of the catalogue, and what of them the bundle does not know.

Legend: N requests, n some of them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.features.batch import Catalog, EntityTable, Samples
from llmcf_cli.features.spec import list_parts
from llmcf_cli.serve.answers import Unknown

NOW = np.iinfo(np.int64).max
"""Time of a request that names none: after everything."""
NAMED = 5
"""Unknown ids that are named."""


def events_of(users: Samples) -> NDArray[np.int64]:
    """How many events of history are read of each, int64 [N]."""
    read: NDArray[np.int64] = (users.history_row_NL > 0).sum(1)
    return read


def known_of(users: Samples, samples: Samples) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.int64]]:
    """Of `Scores`, what is known and read."""
    return samples.item_row_N > 0, users.user_row_N > 0, events_of(users)


def first_of(ids: pa.Array, of_n: np.ndarray) -> str:
    """The first of some ids, and how many more there are."""
    chosen = ids.filter(pa.array(of_n))
    return f"item {chosen[0].as_py()!r}" + (f" and {len(chosen) - 1:,} more" if len(chosen) > 1 else "")


def times_of(requests: pa.Table) -> pa.Array:
    """Times as samples have them, int64; after everything where there is none."""
    return requests["time"].combine_chunks().cast(pa.int64()).fill_null(int(NOW))


def unknown_of(known: EntityTable, ids: pa.Array, request_n: np.ndarray) -> Unknown:
    """Of ids, each of the request of that number, those that a table lacks."""
    given_n = ids.is_valid().to_numpy(zero_copy_only=False)
    lacking_n = (known.rows(ids) == 0) & given_n
    different = ids.filter(pa.array(lacking_n)).cast(pa.string()).unique()
    examples = tuple(different.slice(0, NAMED).to_pylist())
    return Unknown(len(different), len(np.unique(request_n[lacking_n])), examples, len(np.unique(request_n[~given_n])))


def history_rows(requests: pa.Table, catalog: Catalog) -> pa.Array:
    """Item rows of the histories, unknown items left out."""
    size = requests.num_rows
    values, length_N = list_parts(requests["history"].combine_chunks())
    row_n = catalog.items.rows(values)
    known_n = row_n > 0
    owner_n = np.repeat(np.arange(size), length_N)
    kept_N = np.bincount(owner_n[known_n], minlength=size)
    offsets = pa.array(np.concatenate([[0], np.cumsum(kept_N)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(row_n[known_n]))


def last_of(users: Samples, items: EntityTable, count: int) -> list[list[str]]:
    """Ids of the items that each user took last, as far as the model reads them, the latest first.

    Args:
        users: Encoded users.
        items: The catalogue's.
        count: Most items of a user.
    """
    rows = (row_L[row_L > 0][::-1][:count] - 1 for row_L in users.history_row_NL)
    return [items.ids.take(pa.array(row_l)).to_pylist() for row_l in rows]
