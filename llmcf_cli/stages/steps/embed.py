"""`embed`: item texts → vectors in LanceDB. `examples`: the in-context examples with theirs, the store of retrieval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import SerializeAsAny

from llmcf_cli.core.types import ComponentConfig, Config, FileRef
from llmcf_cli.data.output import IngestOutput
from llmcf_cli.features.vectors import item_text_array, vector_column
from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.stages.steps.ingest import BASE, Base, Ingest
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.links import link_tree
from llmcf_cli.store.open import connect_read, open_lance, read_lance, read_parquet
from llmcf_cli.store.tables import Table, cot_example, item_text

if TYPE_CHECKING:
    from llmcf_cli.llm.models.encoder import Encoder

EMBED_BASE = "base-embed"
"""Role of the vectors that those of an addition extend."""
_BLOCK = 4096  # examples whose texts and vectors are held in memory together


class EmbedOutput(Output):
    """Vectors of items."""

    lance = File("lance", "LanceDB table item_text")


class ExamplesOutput(Output):
    """The examples that `match` searches."""

    lance = File("lance", "LanceDB table cot_example")


@dataclass(frozen=True)
class EncodedTexts:
    """What an encoder read.

    Attributes:
        texts: Texts encoded.
        cut: Those longer than it reads.
        cut_share: Share of these.
        longest: Tokens that it reads of a text; None: all.
    """

    texts: int
    cut: int
    cut_share: float
    longest: int | None


@dataclass(frozen=True)
class EmbedReport:
    """Items as vectors.

    Attributes:
        items: How many.
        dim: Numbers in a vector.
        seconds: Time of encoding.
        read: What the encoder read.
        copied: Items whose vector is that of the base.
    """

    items: int
    dim: int
    seconds: float
    read: EncodedTexts
    copied: int = 0


@dataclass(frozen=True)
class ExamplesReport:
    """Examples as vectors.

    Attributes:
        examples: How many.
        dim: Numbers in a vector of a text.
        parts: Steps of the prompt whose texts have vectors of their own.
        seconds: Time of encoding.
        read: What the encoder read.
        dropped: Chains of thought that people dropped (`cot.review`).
        unknown_reviews: Verdicts on texts that are none of these.
    """

    examples: int
    dim: int
    parts: list[str]
    seconds: float
    read: EncodedTexts
    dropped: int = 0
    unknown_reviews: int = 0


class _Encoder(Config):
    """The part of `match.space` that decides the vectors of texts."""

    encoder: Annotated[str | SerializeAsAny[ComponentConfig], FileRef()]


class _Review(Config):
    """People's verdicts on chains of thought."""

    file: Annotated[str, FileRef()]


class Embed(Stage):
    """Encodes item texts once; matching, training and serving read the vectors.

    With `dataset.added` it takes the base's vectors of items whose text is the same, and encodes the others. Where no
    known item has another text, its files are the base's, and one with the new items.
    """

    name = "embed"
    version = 3
    report = EmbedReport
    output = EmbedOutput
    reads_texts = True

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"match.space": _Encoder(encoder=recipe.match.space.encoder)}  # type: ignore[attr-defined]

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        if not recipe.dataset.added:
            return (Ingest(),)
        return Ingest(), Base.of_recipe(recipe), EmbedBase.of_recipe(recipe)

    def run(self, job: Job) -> EmbedReport:
        items = _rows(job.database, "SELECT item_row, item_id, text FROM item ORDER BY item_row")
        new_n, same_n, base_IT = np.arange(items.num_rows), np.zeros(0, np.int64), np.zeros((1, 0), np.float32)
        if EMBED_BASE in job.inputs:
            base = read_lance(EmbedOutput(job.inputs[EMBED_BASE]).lance, "item_text")
            base_IT = item_text_array(base, base.num_rows)
            new_n, same_n = _by_text(items, IngestOutput(job.inputs[BASE]).database)
        seconds, dim, known = 0.0, base_IT.shape[1], len(base_IT) - 1
        if len(new_n):
            encoder = text_encoder(job)
            texts = items["text"].take(pa.array(new_n)) if len(same_n) else items["text"]
            encoded_nT = encoder.encode(texts, progress=job.progress, what="item texts")
            seconds, dim, read = encoder.seconds, encoder.dim, EncodedTexts(**encoder.counts)
        else:  # an encoder takes seconds to load
            before: EmbedReport = job.report_of(EmbedBase.of_recipe(job.recipe))
            encoded_nT, read = np.zeros((0, dim), np.float32), EncodedTexts(0, 0, 0.0, before.read.longest)
        lance, spec = EmbedOutput(job.out).lance, item_text(dim)
        if known and len(same_n) == known:
            link_tree(EmbedOutput(job.inputs[EMBED_BASE]).lance, lance)  # LanceDB adds files, and changes none
            rows, vector_NT = items.take(pa.array(new_n)), encoded_nT
        else:
            rows, vector_NT = items, np.zeros((items.num_rows, dim), np.float32)
            vector_NT[new_n] = encoded_nT
            if len(same_n):
                vector_NT[same_n] = base_IT[items["item_row"].to_numpy()[same_n]]
        _write(lance, spec, [rows["item_row"], rows["item_id"], vector_column(vector_NT)])
        return EmbedReport(items.num_rows, dim, seconds, read, len(same_n))


@dataclass(frozen=True)
class EmbedBase(Embed):
    """The vectors that those of the last of `dataset.added`, or under other cuts, extend.

    Attributes:
        additions: How many it has itself.
    """

    additions: int

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> EmbedBase:
        """That of a recipe with additions."""
        return cls(Base.of_recipe(recipe).additions)

    @property
    def variant(self) -> str:
        return Base(self.additions).variant

    @property
    def role(self) -> str:
        return EMBED_BASE

    def view(self, recipe: Recipe) -> Recipe:
        return Base(self.additions).view(recipe)


class Examples(Stage):
    """Encodes the chains of thought and joins them with their samples: the examples that `match` searches."""

    name = "examples"
    version = 2
    report = ExamplesReport
    output = ExamplesOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        review = recipe.cot.review
        found: dict[str, Any] = {"match.space": recipe.match.space}
        return found if review is None else {**found, "cot.review": _Review(file=review)}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return [Ingest(), GenCoT(), Embed()]

    def run(self, job: Job) -> ExamplesReport:
        encoder = text_encoder(job)
        written = CoTOutput(job.inputs["gen-cot"])
        cots = read_parquet(written.cots, ["sample_id", "text"])
        cots, dropped, unknown = _reviewed(job, cots)
        parts = _Parts(written.parts)
        examples, vectors = _examples(job, cots), _ExampleVectors(job)
        spec = cot_example(encoder.dim, vectors.of(examples.slice(0, 0)).shape[1], parts.steps)
        names = ("sample_id", "user_row", "item_row", "label", "time", "split")
        with job.progress.task("encode chains of thought", examples.num_rows, "texts") as task:

            def batches() -> Iterator[pa.RecordBatch]:
                for start in range(0, examples.num_rows, _BLOCK):
                    rows = examples.slice(start, _BLOCK)
                    texts = [rows["text"].to_pylist(), *parts.of(rows["sample_id"].to_pylist())]
                    encoded = (vector_column(encoder.encode(column)) for column in texts)
                    columns = [*(rows[name] for name in names), vector_column(vectors.of(rows)), *encoded]
                    yield from _table(spec, columns).to_batches()
                    task.advance(rows.num_rows)

            open_lance(ExamplesOutput(job.out).lance).create_table(spec.name, batches(), schema=spec.schema)
        return ExamplesReport(
            examples.num_rows, encoder.dim, list(parts.steps), encoder.seconds, EncodedTexts(**encoder.counts),
            dropped, unknown,
        )  # fmt: skip


class _ExampleVectors:
    """The vectors that examples are found by."""

    def __init__(self, job: Job) -> None:
        from llmcf_cli.match.space import SPACE

        self._space = registry().build(SPACE, job.recipe.match.space)
        self._length = job.recipe.dataset.history.max_length
        items = read_lance(EmbedOutput(job.inputs["embed"]).lance, "item_text")
        self._item_ID = self._space.item_vectors(item_text_array(items, items.num_rows))

    def of(self, examples: pa.Table) -> Any:
        """Vectors of some sample rows, float32 [N, D]."""
        from llmcf_cli.features.batch import encode_rows

        rows = encode_rows(examples, self._length)
        return self._space.example_vectors(self._item_ID, rows.item_row_N, rows.history_row_NL)


class _Parts:
    """What the steps of the prompt wrote.

    Attributes:
        steps: Their names in order; none for a prompt of one step, whose text is the chain of thought itself.
    """

    def __init__(self, file: Path) -> None:
        self._file = str(file)
        query = "SELECT step FROM read_parquet(?) GROUP BY step ORDER BY max(place), step"
        found = [step for (step,) in _query(query, [self._file])]
        self.steps: tuple[str, ...] = tuple(found) if len(found) > 1 else ()

    def of(self, sample_ids: Sequence[int]) -> list[list[str]]:
        """For each step its texts of some samples, empty where it wrote none."""
        if not self.steps:
            return []
        query = "SELECT step, sample_id, text FROM read_parquet(?) WHERE sample_id IN (SELECT unnest(?))"
        texts = {(step, sample): text for step, sample, text in _query(query, [self._file, list(sample_ids)])}
        return [[texts.get((step, sample), "") for sample in sample_ids] for step in self.steps]


def text_encoder(job: Job) -> Encoder:
    """What turns texts into vectors: a sentence encoder, or a component."""
    from llmcf_cli.llm.models.encoder import ENCODER, TextEncoder

    encoder: str | ComponentConfig = job.recipe.match.space.encoder  # type: ignore[attr-defined]
    if isinstance(encoder, str):
        return TextEncoder(job.context.locate.path(encoder))
    return registry().build(ENCODER, encoder)


def _by_text(items: pa.Table, base: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the items that an earlier ingest lacks or has another text of, and of the others."""
    with connect_read(base) as connection:
        connection.register("now", items.append_column("place", pa.array(np.arange(items.num_rows))))
        same = connection.sql("SELECT place FROM now JOIN item USING (item_row, item_id, text) ORDER BY place")
        same_n = same.to_arrow_table()["place"].to_numpy()
    return np.setdiff1d(np.arange(items.num_rows), same_n, assume_unique=True), same_n


def _rows(database: Path, query: str) -> pa.Table:
    with connect_read(database) as connection:
        return connection.sql(query).to_arrow_table()


def _examples(job: Job, cots: pa.Table) -> pa.Table:
    """The sample rows of the chains of thought with their texts, by sample id."""
    with connect_read(job.database) as connection:
        connection.register("cot_text", cots)
        return connection.sql(
            "SELECT s.*, c.text FROM sample s JOIN cot_text c USING (sample_id) ORDER BY sample_id"
        ).to_arrow_table()


def _reviewed(job: Job, cots: pa.Table) -> tuple[pa.Table, int, int]:
    """The chains of thought that nobody dropped, how many somebody did, and how many verdicts are on other texts."""
    from llmcf_cli.llm.writing.reviews import without_dropped

    review = job.recipe.cot.review
    return (cots, 0, 0) if review is None else without_dropped(cots, job.context.locate.path(review))


def _query(query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect() as connection:
        rows: list[tuple[Any, ...]] = connection.execute(query, list(values)).fetchall()
    return rows


def _write(folder: Path, spec: Table, columns: Sequence[Any]) -> None:
    """Add rows to a table, which may be there."""
    rows = _table(spec, columns)
    database = open_lance(folder)
    if spec.name not in database.list_tables().tables:
        database.create_table(spec.name, rows)
    elif rows.num_rows:
        database.open_table(spec.name).add(rows)


def _table(spec: Table, columns: Sequence[Any]) -> pa.Table:
    return pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema)
