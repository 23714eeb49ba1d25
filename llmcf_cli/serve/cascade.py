"""Two bundles that answer as one: the first finds candidates in the whole catalogue, the second puts them in order."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from llmcf_cli.core.errors import ModelError


def check_catalogues(found: pa.Array, ranked: pa.Array) -> None:
    """Whether two bundles have the same items.

    Args:
        found: Ids of those that the first knows, string.
        ranked: Ids of those that the second knows.

    Raises:
        ModelError: Some are in one alone.
    """
    only = {"that finds candidates": _beyond(found, ranked), "that ranks them": _beyond(ranked, found)}
    if any(map(len, only.values())):
        said = [f"{len(ids):,} items are only in the bundle {which}, e.g. {ids[0].as_py()!r}"
                for which, ids in only.items() if len(ids)]  # fmt: skip
        raise ModelError(f"the catalogues differ: {'; '.join(said)}", code="cascade-unfit", where="cascade",
                         hint="train both from one ingest: same `dataset`, `--artifacts` and seed")  # fmt: skip


def _beyond(some: pa.Array, others: pa.Array) -> pa.Array:
    """Those of some ids that are not among others."""
    return some.filter(pc.invert(pc.is_in(some, value_set=others)))
