"""Matches of every stored sample, written as a table: what training and evaluation read instead of searching.

Legend: N samples, I items, T text dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.features.batch import encode_rows
from llmcf_cli.features.vectors import item_text_array
from llmcf_cli.match.ann import BATCH, AnnIndex
from llmcf_cli.match.guard import Clock, Guard, Keys
from llmcf_cli.match.limits import Limits
from llmcf_cli.match.recall import Measured, Probe, cheapest, require, runs_in_time
from llmcf_cli.match.searcher import Index
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
        search: Of an approximate index: its pools, recall and latency; None for an exact search.
    """

    samples: int
    examples: int
    k: int
    clock: Clock
    search: dict[str, Any] | None = None


def match_samples(
    section: MatchSection,
    *,
    data: Path,
    item_text: pa.Table,
    examples: pa.Table,
    history_length: int,
    out: Path,
    keep: Path | None = None,
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
        keep: Folder for indexes, which are used again; a searcher that builds none leaves it alone.
        progress: Told of samples done.

    Raises:
        DataError: There are no examples, or one is no train row.
        LlmcfError: An approximate index misses its recall.
    """
    search = SampleSearch(section, data, item_text, examples, history_length, keep, progress)
    spec, total = example_match(section.k), _count(data)
    with (
        pq.ParquetWriter(out, spec.schema, compression="zstd") as writer,
        progress.task("match", total, "samples") as task,
    ):
        for columns in search.matches():
            writer.write_table(pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema))
            task.advance(len(columns[0]))
    return MatchReport(total, examples.num_rows, section.k, search.guard.clock, search.measured)


def tune_search(search: SampleSearch, recall: float) -> tuple[list[Measured], int]:
    """Settings of an approximate index, cheapest first, measured on sampled queries outside the test split.

    Args:
        search: Samples and examples, with an approximate searcher.
        recall: What is wanted of the exact result.

    Returns:
        What was measured, and the place of the fastest that reaches the recall.

    Raises:
        LlmcfError: None reaches it.
    """
    probe = search.probe(search.prepare())
    if probe is None:
        raise DataError("there are no train samples to measure on", where="match tune", hint="check dataset.split")
    measured = list(probe.sweep(recall))
    return measured, measured.index(cheapest(measured, recall))


class SampleSearch:
    """Examples, and how samples are looked up among them."""

    def __init__(
        self, section: MatchSection, data: Path, item_text: pa.Table, examples: pa.Table, history_length: int,
        keep: Path | None = None, progress: Progress = SILENT,
    ) -> None:  # fmt: skip
        if examples.num_rows == 0:
            raise DataError(
                "there are no examples to match", where="cot_example", hint="raise cot.sample in the recipe"
            )
        self.keep, self.progress = keep, progress
        self.measured: dict[str, Any] | None = None
        self.section, self.data, self.history_length = section, data, history_length
        self.space = registry().build("space", section.space)
        self.item_ID = self.space.item_vectors(item_text_array(item_text, item_text.num_rows))
        self.ids, self.labels, self.keys = (
            examples["sample_id"].to_numpy(),
            examples["label"].to_numpy(),
            keys(examples),
        )
        self.rows = encode_rows(example_rows(data, examples), history_length)
        limits = Limits(section.max_per_user, section.distinct_items)
        self.guard = Guard(read_meta(data)["clock"], examples["split"].to_pylist(), section.exclude, limits)

    def prepare(self) -> Index:
        """The examples, ready to be searched."""
        example_ED = self.space.example_vectors(self.item_ID, self.rows.item_row_N, self.rows.history_row_NL)
        searcher = registry().build("searcher", self.section.search)
        if self.keep is not None:
            searcher = searcher.kept_in(self.keep, self.progress)
        return searcher.prepare(example_ED, self.keys, self.labels, balance=self.section.balance, guard=self.guard)

    def probe(self, index: AnnIndex) -> Probe | None:
        """Sampled queries with their exact result; None if all samples are of the test split."""
        rows = _sampled(self.data, index.config.checked_queries, index.config.seed)
        if not rows.num_rows:
            return None
        return Probe(index, self._queries(rows), keys(rows), self.section.k, self.progress)

    def matches(self) -> Iterator[list[Any]]:
        """Columns of `example_match`, block by block.

        Raises:
            LlmcfError: An approximate index misses its recall.
        """
        index = self.prepare()
        if isinstance(index, AnnIndex):
            self._check(index)
        for rows in _samples(self.data):
            found = index.search(self._queries(rows), keys(rows), k=self.section.k)
            ids_NK = np.where(found.index_NK >= 0, self.ids[found.index_NK], -1)
            yield [rows["sample_id"], _lists(ids_NK), _lists(found.score_NK)]

    def _queries(self, rows: pa.Table) -> np.ndarray:
        block = encode_rows(rows, self.history_length)
        return self.space.query_vectors(self.item_ID, block.item_row_N, block.history_row_NL)

    def _check(self, index: AnnIndex) -> None:
        probe = self.probe(index)
        if probe is not None:
            measured = probe.measure(index)
            require(measured, index.config.min_recall)
            self.measured = {"pools": index.kinds, **asdict(measured)}


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


def _sampled(data: Path, wanted: int, seed: int) -> pa.Table:
    """Samples in seeded runs of neighbours in time; none of the test split, which only `predict` reads."""
    with connect_read(data) as connection:
        count = connection.sql("SELECT count(*) FROM sample WHERE split <> 'test'").fetchall()[0][0]
        connection.register("run", pa.table({"first": runs_in_time(count, wanted, seed)}))
        return connection.sql(
            f"""
            SELECT * EXCLUDE (place) FROM (
                SELECT *, row_number() OVER (ORDER BY time, sample_id) - 1 AS place FROM sample
                WHERE split <> 'test'
            ) WHERE place - place % {BATCH} IN (FROM run) ORDER BY place
            """
        ).to_arrow_table()


def _samples(data: Path) -> Iterator[pa.Table]:
    """All sample rows in blocks, by sample id."""
    with connect_read(data) as connection:
        reader = connection.sql("SELECT * FROM sample ORDER BY sample_id").to_arrow_reader(ROWS_AT_ONCE)
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _lists(values_NK: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values_NK).reshape(-1)), values_NK.shape[1])
