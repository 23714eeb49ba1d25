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
from llmcf_cli.features.collaborative import Collaborative
from llmcf_cli.features.vectors import item_text_array
from llmcf_cli.match.ann import BATCH, AnnIndex
from llmcf_cli.match.guard import Clock, Guard, Keys
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
        search: Of an approximate index, one for each space: its pools, recall and latency.
    """

    samples: int
    examples: int
    k: int
    clock: Clock
    search: tuple[dict[str, Any], ...] = ()


def match_samples(
    section: MatchSection,
    *,
    data: Path,
    item_text: pa.Table,
    examples: pa.Table,
    collaborative: Collaborative | None = None,
    history_length: int,
    out: Path,
    keep: Path | None = None,
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
        for part in parts_of(collaborative):
            for columns in search.matches(part):
                writer.write_table(pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema))
                task.advance(len(columns[0]))
    return MatchReport(total, examples.num_rows, section.k, search.guard.clock, tuple(search.measured))


def tune_search(search: SampleSearch, collaborative: Collaborative | None, recall: float) -> tuple[list[Measured], int]:
    """Settings of an approximate index, cheapest first, measured on sampled train queries of the first part.

    Args:
        search: Samples and examples, with an approximate searcher.
        collaborative: Vectors by fold, where the space needs them.
        recall: What is wanted of the exact result.

    Returns:
        What was measured, and the place of the fastest that reaches the recall.

    Raises:
        LlmcfError: None reaches it.
    """
    part = next(parts_of(collaborative))
    item_ID, index = search.prepare(part)
    probe = search.probe(part, item_ID, index)
    if probe is None:
        raise DataError("there are no train samples to measure on", where="match tune", hint="check dataset.split")
    measured = list(probe.sweep(recall))
    return measured, measured.index(cheapest(measured, recall))


@dataclass(frozen=True)
class Part:
    """Samples that are matched in one space: a condition on `sample`, users, and the space's collaborative vectors."""

    name: str = "all"
    condition: str = "true"
    user_row_u: np.ndarray | None = None
    collaborative_IC: np.ndarray | None = None


def parts_of(collaborative: Collaborative | None) -> Iterator[Part]:
    """All samples, or with collaborative vectors the train samples of each fold and then the others."""
    if collaborative is None:
        yield Part()
        return
    for fold in range(collaborative.last):
        users = np.flatnonzero(collaborative.fold_of_user_U[1:] == fold) + 1
        yield Part(
            f"fold-{fold}", "split = 'train' AND user_row IN (FROM part_user)", users, collaborative.item_FID[fold]
        )
    yield Part("rest", "split <> 'train'", None, collaborative.item_FID[collaborative.last])


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
        self.keep, self.progress, self.measured = keep, progress, list[dict[str, Any]]()
        self.section, self.data, self.history_length = section, data, history_length
        self.space = registry().build("space", section.space)
        self.text_IT = item_text_array(item_text, item_text.num_rows)
        self.ids, self.labels, self.keys = (
            examples["sample_id"].to_numpy(),
            examples["label"].to_numpy(),
            keys(examples),
        )
        self.rows = encode_rows(example_rows(data, examples), history_length)
        self.guard = Guard(read_meta(data)["clock"], examples["split"].to_pylist(), section.exclude)

    def prepare(self, part: Part) -> tuple[np.ndarray, Index]:
        """The item vectors of a part's space, and the examples in it, ready to be searched."""
        item_ID = self.space.item_vectors(self.text_IT, part.collaborative_IC)
        example_ED = self.space.example_vectors(item_ID, self.rows.item_row_N, self.rows.history_row_NL)
        searcher = registry().build("searcher", self.section.search)
        if self.keep is not None:
            searcher = searcher.kept_in(self.keep / part.name, self.progress)
        return item_ID, searcher.prepare(
            example_ED, self.keys, self.labels, balance=self.section.balance, guard=self.guard
        )

    def probe(self, part: Part, item_ID: np.ndarray, index: AnnIndex) -> Probe | None:
        """Sampled queries of a part with their exact result; None if all of its samples are of the test split."""
        rows = _sampled(self.data, part, index.config.checked_queries, index.config.seed)
        if not rows.num_rows:
            return None
        block = encode_rows(rows, self.history_length)
        query_ND = self.space.query_vectors(item_ID, block.item_row_N, block.history_row_NL)
        return Probe(index, query_ND, keys(rows), self.section.k, self.progress)

    def matches(self, part: Part) -> Iterator[list[Any]]:
        """Columns of `example_match`, block by block.

        Raises:
            LlmcfError: An approximate index misses its recall.
        """
        item_ID, index = self.prepare(part)
        if isinstance(index, AnnIndex):
            self._check(part, item_ID, index)
        for rows in _samples(self.data, part):
            block = encode_rows(rows, self.history_length)
            query_ND = self.space.query_vectors(item_ID, block.item_row_N, block.history_row_NL)
            found = index.search(query_ND, keys(rows), k=self.section.k)
            ids_NK = np.where(found.index_NK >= 0, self.ids[found.index_NK], -1)
            yield [rows["sample_id"], _lists(ids_NK), _lists(found.score_NK)]

    def _check(self, part: Part, item_ID: np.ndarray, index: AnnIndex) -> None:
        probe = self.probe(part, item_ID, index)
        if probe is not None:
            measured = probe.measure(index)
            require(measured, index.config.min_recall)
            self.measured.append({"part": part.name, "pools": index.kinds, **asdict(measured)})


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


def _sampled(data: Path, part: Part, wanted: int, seed: int) -> pa.Table:
    """Samples of a part in seeded runs of neighbours in time; none of the test split, which only `predict` reads."""
    with connect_read(data) as connection:
        if part.user_row_u is not None:
            connection.register("part_user", pa.table({"user_row": part.user_row_u}))
        kept = f"({part.condition}) AND split <> 'test'"
        count = connection.sql(f"SELECT count(*) FROM sample WHERE {kept}").fetchall()[0][0]
        connection.register("run", pa.table({"first": runs_in_time(count, wanted, seed)}))
        return connection.sql(
            f"""
            SELECT * EXCLUDE (place) FROM (
                SELECT *, row_number() OVER (ORDER BY time, sample_id) - 1 AS place FROM sample WHERE {kept}
            ) WHERE place - place % {BATCH} IN (FROM run) ORDER BY place
            """
        ).to_arrow_table()


def _samples(data: Path, part: Part) -> Iterator[pa.Table]:
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
