"""LanceDB tables of examples, brought to hold exactly what is asked for by the least work.

A table is named by nothing but its place. What is in it is known by a digest of every row, so one function serves a
first build, a build that was killed (every step is one commit of Lance, and what is there is kept), a table that was
damaged since (the digests of its files tell, and it is made anew), more examples than before (they are appended and put
into the indexes, which are not trained again), and other examples (a new table).
A reader pins the version it opened: what a writer does later changes nothing for it.

Legend: E examples, D space dimensions.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from filelock import FileLock

from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.match.config import AnnSearchConfig
from llmcf_cli.match.guard import Keys
from llmcf_cli.store.artifacts import write_atomic
from llmcf_cli.store.integrity import FileRecord, altered, file_records
from llmcf_cli.store.open import open_lance

Kind = Literal["flat", "ivf_flat", "ivf_pq", "ivf_rq", "ivf_hnsw_sq"]

TABLE = "example"
FILES = "files.json"
"""What the table consisted of when it was last complete."""
ROWS_AT_ONCE = 16_384
LEAST = {"ivf_flat": 64, "ivf_pq": 512, "ivf_rq": 512, "ivf_hnsw_sq": 512}
"""Examples below which a kind cannot be trained (256 centroids of PQ) or is not worth its graph."""
RETRAIN = 2  # times as many examples as an index was trained on: its partitions are no longer theirs
SAMPLE_RATE, ITERATIONS = 64, 20  # of k-means: vectors per partition, passes
COMPRESSED = frozenset({"ivf_pq", "ivf_rq", "ivf_hnsw_sq"})


def kind_for(config: AnnSearchConfig, examples: int) -> Kind:
    """The kind of index for so many examples of one label."""
    wanted: Kind
    if config.index != "auto":
        wanted = config.index
    elif examples < config.flat_below:
        wanted = "flat"
    else:
        wanted = "ivf_flat" if examples < config.compress_from else "ivf_rq"
    if wanted in COMPRESSED and examples < LEAST[wanted]:
        wanted = "ivf_flat"
    return "flat" if examples < LEAST.get(wanted, 0) else wanted


@dataclass(frozen=True)
class Rows:
    """Examples of one label, as a table holds them.

    Attributes:
        vector_ED: float32; may be a memory map.
        keys: Their keys.
        member_E: Rows of both that belong to the table.
    """

    vector_ED: np.ndarray
    keys: Keys
    member_E: np.ndarray

    def __len__(self) -> int:
        return len(self.member_E)

    @property
    def schema(self) -> pa.Schema:
        """Columns of the table."""
        kinds = {"sample_id": pa.int64(), "user_row": pa.int32(), "item_row": pa.int32(), "time": pa.int64()}
        vector = pa.field("vector", pa.list_(pa.float32(), self.vector_ED.shape[1]), nullable=False)
        return pa.schema([*(pa.field(n, t, nullable=False) for n, t in kinds.items()), _DIGEST, vector])

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, a block at a time."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            at = self.member_E[start : start + ROWS_AT_ONCE]
            keys, vector_BD = self.keys.take(at), np.ascontiguousarray(self.vector_ED[at], np.float32)
            columns = (keys.sample_id_N, keys.user_row_N, keys.item_row_N, keys.time_N, _digest(keys, vector_BD))
            lists = pa.FixedSizeListArray.from_arrays(pa.array(vector_BD.reshape(-1)), vector_BD.shape[1])
            yield pa.RecordBatch.from_arrays([*map(pa.array, columns), lists], schema=self.schema)

    def digests(self) -> np.ndarray:
        """uint64 [E]: one number for all that is in a row."""
        parts = [batch.column("digest").to_numpy() for batch in self.batches()]
        return np.concatenate(parts) if parts else np.empty(0, np.uint64)


_DIGEST = pa.field("digest", pa.uint64(), nullable=False)


def open_index(folder: Path, rows: Rows, kind: Kind, config: AnnSearchConfig, progress: Progress = SILENT) -> Any:
    """The table in `folder` with exactly these rows and their indexes, pinned to its version.

    Args:
        folder: Where the table is or will be; one process at a time changes it.
        rows: What it must hold.
        kind: Kind of its vector index; not `flat`.
        config: Size of partitions.
        progress: Told what is built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if _is_damaged(folder):
            progress.say("the index is damaged: it is rebuilt")
            shutil.rmtree(folder / f"{TABLE}.lance", ignore_errors=True)
        table = _hold(folder, rows, progress)
        _index(table, rows, kind, config, progress)
        table.checkout(table.version)
        _note_files(folder)
    return table


def trained_on(table: Any) -> tuple[str, int, int]:
    """Of a table's vector index: its kind, how many rows it was trained on and how many a partition was to have;
    `("", 0, 0)` without one."""
    found = [name.split("-")[1:] for name in _vector_indexes(table)]
    return max(((kind, int(rows), int(size)) for kind, rows, size in found), key=lambda f: f[1], default=("", 0, 0))


def _vector_indexes(table: Any) -> list[str]:
    """Names of the vector indexes, which say what they were trained on: `vector-KIND-ROWS-PARTITION_ROWS`."""
    return [index.name for index in table.list_indices() if index.name.startswith("vector-")]


def _is_damaged(folder: Path) -> bool:
    """Whether files of the table are not what they were when it was last complete: Lance itself would not notice."""
    try:
        noted = json.loads((folder / FILES).read_bytes())
        records = {name: FileRecord.model_validate(record) for name, record in noted.items()}
    except FileNotFoundError:
        return False
    except (ValueError, AttributeError):
        return True
    return bool(altered(folder / f"{TABLE}.lance", records))


def _note_files(folder: Path) -> None:
    records = file_records(folder / f"{TABLE}.lance")
    write_atomic(folder / FILES, json.dumps({name: record.model_dump() for name, record in records.items()}))


def _hold(folder: Path, rows: Rows, progress: Progress) -> Any:
    """The table with these rows: as it is, with rows added, or made anew."""
    database, reader = open_lance(folder), pa.RecordBatchReader.from_batches
    try:
        table = database.open_table(TABLE)
        there = table.search().select(["digest"]).to_arrow()["digest"].to_numpy()
    except Exception:  # none, or what a kill left of one: LanceDB has an error of its own for every way to be broken
        shutil.rmtree(folder / f"{TABLE}.lance", ignore_errors=True)
        return database.create_table(TABLE, reader(rows.schema, rows.batches()))
    digest_E = rows.digests()
    new_E = ~np.isin(digest_E, there)
    if len(there) + new_E.sum() != len(rows) or len(np.unique(there)) != len(there):
        progress.say("the index has other examples: it is rebuilt")
        return database.create_table(TABLE, reader(rows.schema, rows.batches()), mode="overwrite")
    if new_E.any():
        progress.say(f"{new_E.sum():,} examples added to the index of {len(there):,}")
        added = Rows(rows.vector_ED, rows.keys, rows.member_E[new_E])
        table.add(reader(added.schema, added.batches()))
    return table


def _index(table: Any, rows: Rows, kind: Kind, config: AnnSearchConfig, progress: Progress) -> None:
    """Indexes on time, user and vector that cover all rows."""
    from lancedb.index import BTree

    there = {index.name for index in table.list_indices()}
    for column in ("time", "user_row"):
        if column not in there:
            table.create_index(column, config=BTree(), name=column)
    trained_kind, trained_rows, partition_rows = trained_on(table)
    same = (trained_kind, partition_rows) == (kind, config.partition_rows)
    if not same or len(rows) >= RETRAIN * trained_rows:
        progress.say(f"building an index of {len(rows):,} examples ({kind})")
        name = f"vector-{kind}-{len(rows)}-{config.partition_rows}"
        for old in set(_vector_indexes(table)) - {name}:
            table.drop_index(old)
        table.create_index("vector", config=_vector_index(kind, len(rows), config), name=name)
    elif any(index.num_unindexed_rows for index in table.list_indices()):
        table.optimize()


def _vector_index(kind: Kind, rows: int, config: AnnSearchConfig) -> Any:
    from lancedb.index import HnswSq, IvfFlat, IvfPq, IvfRq

    partitions = max(1, round(rows / config.partition_rows))
    shared = {"distance_type": "dot", "sample_rate": SAMPLE_RATE, "max_iterations": ITERATIONS}
    if kind == "ivf_hnsw_sq":  # every partition is a graph, and a graph is worth it from some thousands on
        return HnswSq(num_partitions=max(1, partitions // 64), **shared)
    cls = {"ivf_flat": IvfFlat, "ivf_pq": IvfPq, "ivf_rq": IvfRq}[kind]
    return cls(num_partitions=partitions, **shared)


def _digest(keys: Keys, vector_BD: np.ndarray) -> np.ndarray:
    """uint64 [B]: multilinear hash of the bits of keys and vector (Lemire and Kaser, 2014), seeded once for all."""
    words_BW = np.concatenate(
        [np.stack([keys.sample_id_N, keys.time_N], 1).view(np.uint32),
         np.stack([keys.user_row_N, keys.item_row_N], 1).view(np.uint32), vector_BD.view(np.uint32)], axis=1,
    )  # fmt: skip
    factor_W = np.random.default_rng(0).integers(0, 2**64, words_BW.shape[1], np.uint64) | np.uint64(1)
    hash_B = np.zeros(len(words_BW), np.uint64)
    for start in range(0, words_BW.shape[1], 64):
        part = slice(start, start + 64)
        hash_B += (words_BW[:, part].astype(np.uint64) * factor_W[part]).sum(1, dtype=np.uint64)
    return hash_B
