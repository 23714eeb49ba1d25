"""`embed`: item texts → vectors in LanceDB. `examples`: the in-context examples with theirs, the store of retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmcf_cli.core.types import Config, FilePath
from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.collab import Collab, read_collaborative
from llmcf_cli.stages.gen_cot import GenCoT
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.store.open import connect_read, open_lance, read_lance, read_parquet
from llmcf_cli.store.tables import Table, cot_example, item_text


class _Encoder(Config):
    """The part of `match.space` that decides the vectors of texts."""

    encoder: FilePath


class Embed(Stage):
    """Encodes item texts once; matching, training and serving read the vectors."""

    name = "embed"
    version = 2

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"match.space": _Encoder(encoder=recipe.match.space.encoder)}  # type: ignore[attr-defined]

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(),)

    def run(self, job: Job) -> dict[str, Any]:
        encoder = _text_encoder(job)
        items = _rows(job.database, "SELECT item_row, item_id, text FROM item ORDER BY item_row")
        item_vectors = encoder.encode(items["text"], progress=job.progress, what="item texts")
        columns = [items["item_row"], items["item_id"], _vectors(item_vectors)]
        _write(job.out / "lance", item_text(encoder.dim), columns)
        return {"items": items.num_rows, "dim": encoder.dim, "seconds": encoder.seconds}


class Examples(Stage):
    """Encodes the chains of thought and joins them with their samples: the examples that `match` searches."""

    name = "examples"
    version = 1

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {
            "match.space": recipe.match.space, "match.without_cot": recipe.match.without_cot,
            "seed": recipe.seed if recipe.match.without_cot else None,
        }  # fmt: skip

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return [Ingest(), GenCoT(), Embed(), *space_stages(recipe)]

    def run(self, job: Job) -> dict[str, Any]:
        encoder = _text_encoder(job)
        cots = read_parquet(job.inputs["gen-cot"] / "cot.parquet", ["sample_id", "text"])
        examples = _examples(job, cots)
        cot_vectors = encoder.encode(examples["text"], progress=job.progress, what="chains of thought")
        vectors = self._example_vectors(job, examples)
        names = ("sample_id", "user_row", "item_row", "label", "time", "split")
        columns = [*(examples[name] for name in names), _vectors(vectors), _vectors(cot_vectors)]
        _write(job.out / "lance", cot_example(encoder.dim, vectors.shape[1]), columns)
        bare = examples.num_rows - cots.num_rows
        return {"examples": examples.num_rows, "bare": bare, "dim": encoder.dim, "seconds": encoder.seconds}

    @staticmethod
    def _example_vectors(job: Job, examples: pa.Table) -> Any:
        from llmcf_cli.features.batch import encode_rows
        from llmcf_cli.features.vectors import item_text_array

        space = registry().build("space", job.recipe.match.space)
        items = read_lance(job.inputs["embed"] / "lance", "item_text")
        collaborative = read_collaborative(job.inputs)
        latest_IC = None if collaborative is None else collaborative.item_FID[collaborative.last]
        item_ID = space.item_vectors(item_text_array(items, items.num_rows), latest_IC)
        rows = encode_rows(examples, job.recipe.dataset.history.max_length)
        return space.example_vectors(item_ID, rows.item_row_N, rows.history_row_NL)


def space_stages(recipe: Recipe) -> list[Stage]:
    """What the matching space is made from, beyond the item texts."""
    return [Collab()] if "collaborative" in recipe.match.space.needs else []


def _text_encoder(job: Job) -> Any:
    from llmcf_cli.llm.embed import TextEncoder

    return TextEncoder(job.context.locate.path(job.recipe.match.space.encoder))  # type: ignore[attr-defined]


def _rows(database: Path, query: str) -> pa.Table:
    with connect_read(database) as connection:
        return connection.sql(query).to_arrow_table()


def _examples(job: Job, cots: pa.Table) -> pa.Table:
    """The sample rows of the chains of thought with their texts, and those without one, by sample id."""
    from llmcf_cli.llm.rows import choose_train

    more = job.recipe.match.without_cot
    with connect_read(job.database) as connection:
        connection.register("cot_text", cots)
        chosen: Any = [] if more is None else choose_train(connection, more, job.recipe.seed, "match.without_cot")
        connection.register("bare", pa.table({"sample_id": pa.array(chosen, pa.int64())}))
        return connection.sql(
            """
            SELECT s.*, coalesce(c.text, '') AS text FROM sample s LEFT JOIN cot_text c USING (sample_id)
            WHERE c.sample_id IS NOT NULL OR sample_id IN (FROM bare) ORDER BY sample_id
            """
        ).to_arrow_table()


def _vectors(vectors_ND: Any) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), vectors_ND.shape[1])


def _write(folder: Path, spec: Table, columns: Sequence[Any]) -> None:
    data = pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema)
    open_lance(folder).create_table(spec.name, data)
