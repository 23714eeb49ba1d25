"""Where rows of a table stand among samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llmcf_cli.features.batch import Samples


def positions(table: pa.Table, samples: Samples) -> NDArray[Any] | None:
    """Where the rows stand, by `sample_id`; None if one is of no sample, or there are no rows."""
    id_n = table["sample_id"].combine_chunks().to_numpy()
    at_n = np.minimum(np.searchsorted(samples.sample_id_N, id_n), max(len(samples) - 1, 0))
    known = len(id_n) and len(samples) and np.array_equal(samples.sample_id_N[at_n], id_n)
    return at_n if known else None
