"""Matches of every stored sample, written as a table: what training and evaluation read instead of searching.

Legend: N samples, I items, T text dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.features.batch import encode_rows
from llmcf_cli.features.vectors import item_text_array, vectors
from llmcf_cli.match.guard import Clock, Guard, Keys
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import MatchSection
from llmcf_cli.store.open import connect_read, read_meta
from llmcf_cli.store.tables import example_match

ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class MatchReport:
    """What matching did.

    Attributes:
        samples: Samples matched.
        examples: Examples there were to find.
        k: Examples per sample.
        clock: How times were compared.
    """

    samples: int
    examples: int
    k: int
    clock: Clock


def match_samples(
    section: MatchSection,
    *,
    data: Path,
    item_text: pa.Table,
    examples: pa.Table,
    history_length: int,
    out: Path,
    progress: Progress = SILENT,
) -> MatchReport:
    """Find the examples of all samples and write them as `example_match`; memory is bounded by a block of samples.

    Args:
        section: Space, searcher, K and balance.
        data: DuckDB file of ingest.
        item_text: LanceDB table `item_text`.
        examples: LanceDB table `cot_example`.
        history_length: Most recent events that count, as in the recipe.
        out: Parquet file to write.
        progress: Told of samples done.

    Raises:
        DataError: There are no examples, or one is no train row.
    """
    space = registry().build("space", section.space)
    item_text_IT = item_text_array(item_text, item_text.num_rows)
    if examples.num_rows == 0:
        raise DataError("there are no examples to match", where="cot_example", hint="raise cot.sample in the recipe")
    example_ids = examples["sample_id"].to_numpy()
    clock: Clock = read_meta(data)["clock"]
    index = registry().build("searcher", section.search).prepare(
        vectors(examples["vector"]), keys(examples), examples["label"].to_numpy(), balance=section.balance,
        guard=Guard(clock, examples["split"].to_pylist(), section.exclude),
    )  # fmt: skip
    spec, total = example_match(section.k), _count(data)
    with (
        pq.ParquetWriter(out, spec.schema, compression="zstd") as writer,
        progress.task("match", total, "samples") as task,
    ):
        for rows in _samples(data):
            block = encode_rows(rows, history_length)
            query_ND = space.query_vectors(item_text_IT, block.item_row_N, block.history_row_NL)
            found = index.search(query_ND, keys(rows), k=section.k)
            ids_NK = np.where(found.index_NK >= 0, example_ids[found.index_NK], -1)
            columns = [rows["sample_id"], _lists(ids_NK), _lists(found.score_NK)]
            writer.write_table(pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema))
            task.advance(rows.num_rows)
    return MatchReport(samples=total, examples=examples.num_rows, k=section.k, clock=clock)


def keys(rows: pa.Table) -> Keys:
    """The guards' keys of sample or example rows."""
    return Keys(*(rows[name].to_numpy() for name in ("sample_id", "user_row", "item_row", "time")))


def _count(data: Path) -> int:
    with connect_read(data) as connection:
        return int(connection.sql("SELECT count(*) FROM sample").fetchall()[0][0])


def _samples(data: Path) -> Iterator[pa.Table]:
    """All sample rows in blocks, by sample id."""
    with connect_read(data) as connection:
        reader = connection.sql("SELECT * FROM sample ORDER BY sample_id").to_arrow_reader(ROWS_AT_ONCE)
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _lists(values_NK: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values_NK).reshape(-1)), values_NK.shape[1])
