"""Matches of every stored sample, written as a table: what training and evaluation read instead of searching.

Legend: N samples, I items, T text dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.features.batch import encode_rows
from llmcf_cli.features.collaborative import Collaborative
from llmcf_cli.features.vectors import item_text_array
from llmcf_cli.match.guard import Clock, Guard, Keys
from llmcf_cli.match.limits import Limits
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.sections import MatchSection
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
    collaborative: Collaborative | None = None,
    history_length: int,
    out: Path,
    progress: Progress = SILENT,
) -> MatchReport:
    """Find the examples of all samples and write them as `example_match`; memory is bounded by a block of samples.

    With collaborative vectors, a train sample is matched in the space of its user's fold, in which the user had no
    part: once per fold, the examples get that fold's vectors and its samples are looked up.

    Args:
        section: Space, searcher, K and balance.
        data: DuckDB file of ingest.
        item_text: LanceDB table `item_text`.
        examples: LanceDB table `cot_example`.
        collaborative: Vectors by fold, where the space needs them.
        history_length: Most recent events that count, as in the recipe.
        out: Parquet file to write.
        progress: Told of samples done.

    Raises:
        DataError: There are no examples, or one is no train row.
    """
    if examples.num_rows == 0:
        raise DataError("there are no examples to match", where="cot_example", hint="raise cot.sample in the recipe")
    clock: Clock = read_meta(data)["clock"]
    search = _Search(section, data, item_text, examples, clock, history_length)
    spec, total = example_match(section.k), _count(data)
    with (
        pq.ParquetWriter(out, spec.schema, compression="zstd") as writer,
        progress.task("match", total, "samples") as task,
    ):
        for part in _parts(collaborative):
            for columns in search.matches(part):
                writer.write_table(pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema))
                task.advance(len(columns[0]))
    return MatchReport(samples=total, examples=examples.num_rows, k=section.k, clock=clock)


@dataclass(frozen=True)
class _Part:
    """Samples that are matched in one space: a condition on `sample`, users, and the space's collaborative vectors."""

    condition: str = "true"
    user_row_u: np.ndarray | None = None
    collaborative_IC: np.ndarray | None = None


def _parts(collaborative: Collaborative | None) -> Iterator[_Part]:
    if collaborative is None:
        yield _Part()
        return
    for fold in range(collaborative.last):
        users = np.flatnonzero(collaborative.fold_of_user_U[1:] == fold) + 1
        yield _Part("split = 'train' AND user_row IN (FROM part_user)", users, collaborative.item_FID[fold])
    yield _Part("split <> 'train'", None, collaborative.item_FID[collaborative.last])


class _Search:
    """Examples, and how samples are looked up among them."""

    def __init__(
        self, section: MatchSection, data: Path, item_text: pa.Table, examples: pa.Table, clock: Clock,
        history_length: int,
    ) -> None:  # fmt: skip
        self.section, self.data, self.history_length = section, data, history_length
        self.space = registry().build("space", section.space)
        self.text_IT = item_text_array(item_text, item_text.num_rows)
        self.ids, self.labels, self.keys = (
            examples["sample_id"].to_numpy(),
            examples["label"].to_numpy(),
            keys(examples),
        )
        self.rows = encode_rows(example_rows(data, examples), history_length)
        limits = Limits(section.max_per_user, section.distinct_items)
        self.guard = Guard(clock, examples["split"].to_pylist(), section.exclude, limits)

    def matches(self, part: _Part) -> Iterator[list[Any]]:
        """Columns of `example_match`, block by block."""
        item_ID = self.space.item_vectors(self.text_IT, part.collaborative_IC)
        example_ED = self.space.example_vectors(item_ID, self.rows.item_row_N, self.rows.history_row_NL)
        index = (
            registry()
            .build("searcher", self.section.search)
            .prepare(example_ED, self.keys, self.labels, balance=self.section.balance, guard=self.guard)
        )
        for rows in _samples(self.data, part):
            block = encode_rows(rows, self.history_length)
            query_ND = self.space.query_vectors(item_ID, block.item_row_N, block.history_row_NL)
            found = index.search(query_ND, keys(rows), k=self.section.k)
            ids_NK = np.where(found.index_NK >= 0, self.ids[found.index_NK], -1)
            yield [rows["sample_id"], _lists(ids_NK), _lists(found.score_NK)]


def example_rows(data: Path, examples: pa.Table) -> pa.Table:
    """The sample rows of examples, in their order."""
    with connect_read(data) as connection:
        connection.register("chosen", examples.select(["sample_id"]))
        found = connection.sql("SELECT s.* FROM sample s JOIN chosen USING (sample_id) ORDER BY sample_id")
        rows = found.to_arrow_table()
    order = np.argsort(examples["sample_id"].to_numpy(), kind="stable")
    return rows.take(pa.array(np.argsort(order, kind="stable")))


def keys(rows: pa.Table) -> Keys:
    """The guards' keys of sample or example rows."""
    return Keys(*(rows[name].to_numpy() for name in ("sample_id", "user_row", "item_row", "time")))


def _count(data: Path) -> int:
    with connect_read(data) as connection:
        return int(connection.sql("SELECT count(*) FROM sample").fetchall()[0][0])


def _samples(data: Path, part: _Part) -> Iterator[pa.Table]:
    """The sample rows of a part in blocks, by sample id."""
    with connect_read(data) as connection:
        if part.user_row_u is not None:
            connection.register("part_user", pa.table({"user_row": part.user_row_u}))
        reader = connection.sql(f"SELECT * FROM sample WHERE {part.condition} ORDER BY sample_id").to_arrow_reader(
            ROWS_AT_ONCE
        )
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _lists(values_NK: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values_NK).reshape(-1)), values_NK.shape[1])
