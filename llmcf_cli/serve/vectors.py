"""The vectors of a bundle's items and users as a LanceDB database, and what an index finds of the exact result.

A model of candidate retrieval scores by the dot product of two vectors. So any search engine can make its lists: this
one, LanceDB, or one that a shop runs already.

Legend: Q users measured, I items, U users, D vector, K nearest items.
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.features.batch import to_batch
from llmcf_cli.features.vectors import vector_column, vectors
from llmcf_cli.rec.retrieval.model import RetrievalModel
from llmcf_cli.serve.core import BATCH
from llmcf_cli.serve.requests import Rows
from llmcf_cli.serve.scorer import Scorer
from llmcf_cli.store.artifacts import write_atomic
from llmcf_cli.store.open import open_lance

ITEMS, USERS = "item_vector", "user_vector"
"""Tables of the database: `item_id` or `user_id` (string), and `vector`, float32 [D]."""
REPORT = "vectors.json"
"""`Exported`, with the bundle's digest and K."""
LEAST = 1_000
"""Items below which an index is not worth its partitions: LanceDB compares all of them."""
PARTITION = 512
"""Items of a partition, on average."""


@dataclass(frozen=True)
class Found:
    """An index on a sample of users.

    Attributes:
        probes: Partitions looked into.
        recall: Share of the K items of largest product that it finds, by score: equal ones count alike.
        p50_ms: Median milliseconds of a search.
    """

    probes: int
    recall: float
    p50_ms: float


@dataclass(frozen=True)
class Exported:
    """What an export holds.

    Attributes:
        items: I.
        users: U; users of whom the bundle keeps no event have no vector.
        dim: D.
        partitions: Of the index of the items; 0: there is none.
        best: The fewest probes that find enough, measured; None without an index or users.
        exact_p50_ms: Median milliseconds of comparing all items, by NumPy.
        queries: Q.
    """

    items: int
    users: int
    dim: int
    partitions: int
    best: Found | None
    exact_p50_ms: float
    queries: int


def item_vectors(scorer: Scorer) -> pa.Table:
    """Columns `item_id` and `vector`, of every item of the catalogue.

    Raises:
        ModelError: The bundle's model makes no lists.
    """
    model = _model(scorer)
    with torch.inference_mode():
        vector_ID = model.catalogue()[1:].cpu().numpy()
    return _table("item_id", model.resources.catalog.items.ids, vector_ID)


def user_vectors(scorer: Scorer, requests: Rows) -> NDArray[np.float32]:
    """The vector of each request's user, [N, D]; its product with an item's vector is the item's score.

    Args:
        scorer: Of the bundle, or of a cascade: then of the model that finds.
        requests: As for `Scorer.recommend`.

    Raises:
        ModelError: The bundle's model makes no lists.
        DataError: A value cannot be read.
    """
    model, finds = _model(scorer), _finder(scorer)
    samples, values = finds.encoded_users(requests)
    parts = [np.zeros((0, model.embedding.table_VD.shape[1]), np.float32)]
    for start in range(0, len(samples), BATCH):
        part = samples.take(slice(start, start + BATCH))
        with torch.inference_mode():
            parts.append(model.users(to_batch(part, model.device, inputs=values(part))).cpu().numpy())
    return np.concatenate(parts)


def export(
    scorer: Scorer, out: Path, *, k: int = 10, recall: float = 0.95, queries: int = 500, progress: Progress = SILENT
) -> Exported:  # fmt: skip
    """Write a LanceDB database of all vectors, index the items, and measure the index on users drawn evenly.

    Args:
        scorer: Of the bundle.
        out: Folder to make.
        k: Items that a search asks for.
        recall: What the index must find, from 0 to 1.
        queries: Users that it is measured on, at most.
        progress: Where to report.

    Raises:
        ModelError: The bundle's model makes no lists.
        StoreError: The folder exists.
        LlmcfError: No number of partitions finds enough.
    """
    if out.exists():
        raise StoreError("already exists", code="folder-exists", where=str(out), hint="name another folder with --out")
    items, histories = item_vectors(scorer), _model(scorer).resources.histories
    catalog = _model(scorer).resources.catalog.users
    kept_u = np.zeros(0, np.int64) if histories is None else np.flatnonzero(np.diff(histories.offset_U)[1:])
    ids = catalog.ids.take(pa.array(kept_u))
    progress.say(f"vectors of {items.num_rows:,} items and {len(ids):,} users")
    users_UD = user_vectors(scorer, pa.table({"user_id": ids}))
    chosen = np.sort(np.random.default_rng(0).permutation(len(users_UD))[:queries])
    partitions = round(items.num_rows / PARTITION) if items.num_rows >= LEAST else 0
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name:
        folder = Path(name) / "vectors"
        table = open_lance(folder).create_table(ITEMS, items)
        open_lance(folder).create_table(USERS, _table("user_id", ids, users_UD))
        if partitions:
            progress.say(f"an index of {partitions:,} partitions")
            _index(table, partitions)
        found, exact_ms = _measured(
            table, vectors(items["vector"]), users_UD[chosen], min(k, items.num_rows), partitions
        )
        best = next((one for one in found if one.recall >= recall), None)
        if found and best is None:
            raise LlmcfError(
                f"with all {partitions:,} partitions, the index finds only {found[-1].recall:.4f} of the exact result",
                code="recall-unreachable", where="bundle vectors", hint="lower --recall",
            )  # fmt: skip
        report = Exported(items.num_rows, len(ids), users_UD.shape[1], partitions, best, exact_ms, len(chosen))
        write_atomic(folder / REPORT, json.dumps({"bundle": scorer.digest, "k": k, **asdict(report)}, indent=1))
        folder.rename(out)
    return report


def _measured(
    table: Any, item_ID: NDArray[np.float32], user_QD: NDArray[np.float32], k: int, partitions: int
) -> tuple[list[Found], float]:  # fmt: skip
    """The index from one probe on, twice as many each time, until all is found; and the median of exact search."""
    if not len(user_QD):
        return [], 0.0
    exact_ms, last_Q = [], np.empty(len(user_QD), np.float32)
    for number, user_D in enumerate(user_QD):
        started = time.perf_counter()
        score_I = item_ID @ user_D
        last_Q[number] = np.partition(score_I, len(score_I) - k)[len(score_I) - k]
        exact_ms.append((time.perf_counter() - started) * 1e3)
    found: list[Found] = []
    probes = 1
    while partitions and (not found or found[-1].recall < 1.0):
        hits, ms = 0, []
        for user_D, last in zip(user_QD, last_Q, strict=True):
            started = time.perf_counter()
            rows = table.search(user_D).distance_type("dot").nprobes(probes).limit(k).select(["vector"]).to_arrow()
            ms.append((time.perf_counter() - started) * 1e3)
            # The same sum in another order: a tolerance of rounding.
            hits += int((vectors(rows["vector"]) @ user_D >= last - 1e-5 * max(abs(float(last)), 1.0)).sum())
        found.append(Found(probes, hits / (k * len(user_QD)), float(np.median(ms))))
        if probes >= partitions:
            break
        probes = min(2 * probes, partitions)
    return found, float(np.median(exact_ms))


def _index(table: Any, partitions: int) -> None:
    from lancedb.index import IvfFlat

    table.create_index("vector", config=IvfFlat(distance_type="dot", num_partitions=partitions))


def _finder(scorer: Scorer) -> Scorer:
    return scorer if scorer.finder is None else scorer.finder.other


def _model(scorer: Scorer) -> RetrievalModel:
    model = _finder(scorer).model
    if not isinstance(model, RetrievalModel):
        model.listed(cast("Any", None), 0, (None, None))  # refuses, as for a list
    return cast("RetrievalModel", model)


def _table(name: str, ids: pa.Array, vector_ND: NDArray[np.float32]) -> pa.Table:
    return pa.table({name: ids.cast(pa.string()), "vector": vector_column(vector_ND)})
