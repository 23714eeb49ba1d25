"""Matches of every stored sample, written as a table: what training and evaluation read instead of searching.

Legend: N samples, I items, T text dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmcf_cli.core.errors import DataError
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.core.types import Clock
from llmcf_cli.features.batch import encode_rows
from llmcf_cli.features.vectors import item_text_array, vectors
from llmcf_cli.match.ann import BATCH
from llmcf_cli.match.config import AnnSearchConfig
from llmcf_cli.match.guard import Keys, guard_of
from llmcf_cli.match.recall import Probe, Tuned, cheapest, require, runs_in_time
from llmcf_cli.match.reports import MatchReport
from llmcf_cli.match.searcher import SEARCHER
from llmcf_cli.match.space import SPACE, Space
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.sections import MatchSection
from llmcf_cli.scale import LOCAL, Executor
from llmcf_cli.store.open import connect_read, copy_lance, count_lance, read_clock, read_lance
from llmcf_cli.store.tables import example_match

ROWS_AT_ONCE = 65_536
_SEARCHED = ("sample_id", "user_row", "item_row", "label", "time", "split", "vector")


@dataclass(frozen=True)
class ExampleStore:
    """The LanceDB tables that a search reads: local folders, or addresses in object storage as LanceDB takes them.

    Attributes:
        items: Where the table `item_text` is.
        examples: Where the table `cot_example` is.
    """

    items: Path | str
    examples: Path | str

    def copied(self, items: str, examples: str) -> ExampleStore:
        """The same tables at two addresses; each is copied unless it is there."""
        copy_lance(self.items, "item_text", items)
        copy_lance(self.examples, "cot_example", examples)
        return ExampleStore(items, examples)

    def item_text(self) -> pa.Table:
        """The text vectors of the items."""
        return read_lance(self.items, "item_text")

    def example_rows(self) -> pa.Table:
        """The examples, as far as a search looks at them."""
        return read_lance(self.examples, "cot_example", _SEARCHED)


def match_samples(
    section: MatchSection,
    *,
    data: Path,
    store: ExampleStore,
    history_length: int,
    out: Path,
    keep: Path | None = None,
    progress: Progress = SILENT,
    executor: Executor = LOCAL,
) -> MatchReport:
    """Find the examples of all samples and write them as `example_match`; memory is bounded by blocks of samples.

    Args:
        section: Space, searcher, K and balance.
        data: DuckDB file of ingest.
        store: The examples.
        history_length: Most recent events that count, as in the recipe.
        out: Parquet file to write.
        keep: Folder for indexes, which are used again; a searcher that builds none leaves it alone.
        progress: Told of samples done.
        executor: Where blocks of samples are looked up; only the process that calls reads `data`.

    Raises:
        DataError: There are no examples, or one is no train row.
        LlmcfError: An approximate index misses its recall, or the executor's workers fail.
    """
    search = SampleSearch(section, read_clock(data), store, history_length, keep, progress)
    measured = search.check(data) if isinstance(section.search, AnnSearchConfig) else None
    spec, total = example_match(section.k), _count(data)
    with (
        pq.ParquetWriter(out, spec.schema, compression="zstd") as writer,
        progress.task("match", total, "samples") as task,
        executor.pool(search) as pool,
    ):
        for columns in _in_order(pool.map(enumerate(_samples(data)))):
            writer.write_table(pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema))
            task.advance(len(columns[0]))
    return MatchReport(total, search.count(), section.k, search.clock, measured)


def tune_search(search: SampleSearch, data: Path, recall: float) -> Tuned:
    """Settings of an approximate index, cheapest first, measured on sampled queries outside the test split.

    Args:
        search: Examples, with an approximate searcher.
        data: DuckDB file of ingest.
        recall: What is wanted of the exact result.

    Raises:
        LlmcfError: No setting reaches it.
    """
    index = search.index
    if index.compares_all:
        return Tuned(index.kinds, [], None)
    probe = search.probe(data)
    if probe is None:
        raise DataError(
            "no train samples to measure on",
            code="no-train-samples",
            where="match tune",
            hint="check dataset.split",
        )
    measured = list(probe.sweep(recall))
    return Tuned(index.kinds, measured, cheapest(measured, recall))


class SampleSearch:
    """Looks samples up among the examples: block of sample rows → columns of `example_match`.

    Pickled, it is its settings: a worker elsewhere opens the examples itself and makes its index at the first block.

    Args:
        section: Space, searcher, K and balance.
        clock: How times are compared, as ingest found.
        store: The examples.
        history_length: Most recent events that count.
        keep: Folder for indexes.
        progress: Told what is built here.
    """

    def __init__(
        self, section: MatchSection, clock: Clock, store: ExampleStore, history_length: int, keep: Path | None = None,
        progress: Progress = SILENT,
    ) -> None:  # fmt: skip
        self.section, self.clock, self.store, self.history_length = section, clock, store, history_length
        self._keep, self._progress = keep, progress

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.section, self.clock, self.store, self.history_length, self._keep)

    def __call__(self, block: tuple[int, pa.Table]) -> list[Any]:
        """Columns of `example_match` for a numbered block of sample rows."""
        _, rows = block
        query_NS, query_keys = self._queries(rows)
        found = self.index.search(query_NS, query_keys, k=self.section.k)
        ids_E = self._examples["sample_id"].to_numpy()
        ids_NK = np.where(found.index_NK >= 0, ids_E[found.index_NK], -1)
        return [rows["sample_id"], _lists(ids_NK), _lists(found.score_NK)]

    @cached_property
    def index(self) -> Any:
        """The examples, ready to be searched (`searcher.Index`).

        Raises:
            DataError: There are none, or one is no train row.
        """
        section, examples = self.section, self._examples
        guard = guard_of(section, self.clock, examples["split"].to_pylist())
        searcher = registry().build(SEARCHER, section.search)
        if self._keep is not None:
            searcher = searcher.kept_in(self._keep, self._progress)
        return searcher.prepare(
            vectors(examples["vector"]), keys(examples), examples["label"].to_numpy(), balance=section.balance,
            guard=guard,
        )  # fmt: skip

    def count(self) -> int:
        """How many examples there are."""
        return count_lance(self.store.examples, "cot_example")

    def probe(self, data: Path) -> Probe | None:
        """Sampled queries with their exact result; None if all samples are of the test split."""
        config = self.index.config
        rows = sampled(data, config.checked_queries, config.seed)
        if not rows.num_rows:
            return None
        return Probe(self.index, *self._queries(rows), self.section.k, self._progress)

    def check(self, data: Path) -> dict[str, Any] | None:
        """What an approximate index finds; None where there is nothing to measure it on.

        Raises:
            LlmcfError: Less than its `min_recall`.
        """
        probe = self.probe(data)
        if probe is None:
            return None
        measured = probe.measure(self.index)
        require(measured, self.index.config.min_recall)
        return {"pools": self.index.kinds, **asdict(measured)}

    @cached_property
    def _examples(self) -> pa.Table:
        examples = self.store.example_rows()
        if examples.num_rows == 0:
            raise DataError(
                "no examples to match",
                code="no-examples",
                where="cot_example",
                hint="raise cot.sample in the recipe",
            )
        return examples

    @cached_property
    def _space(self) -> Space:
        return registry().build(SPACE, self.section.space)

    @cached_property
    def _item_ID(self) -> np.ndarray:
        items = self.store.item_text()
        return self._space.item_vectors(item_text_array(items, items.num_rows))

    def _queries(self, rows: pa.Table) -> tuple[np.ndarray, Keys]:
        """Vectors of sample rows in the space, and what guards know of them."""
        block = encode_rows(rows, self.history_length)
        if self.section.query == "history":
            block = block.without_items()
        return self._space.query_vectors(self._item_ID, block.item_row_N, block.history_row_NL), Keys.of(block)


def keys(rows: pa.Table) -> Keys:
    """The guards' keys of sample or example rows."""
    return Keys(*(rows[name].to_numpy() for name in ("sample_id", "user_row", "item_row", "time")))


def _count(data: Path) -> int:
    with connect_read(data) as connection:
        return int(connection.sql("SELECT count(*) FROM sample").fetchall()[0][0])


def sampled(data: Path, wanted: int, seed: int) -> pa.Table:
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


def _in_order(found: Iterator[tuple[tuple[int, Any], list[Any]]]) -> Iterator[list[Any]]:
    """Results by the number of their block."""
    waiting: dict[int, list[Any]] = {}
    following = 0
    for (number, _), columns in found:
        waiting[number] = columns
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _lists(values_NK: np.ndarray) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values_NK).reshape(-1)), values_NK.shape[1])
