"""`embed`: item texts and chains of thought → vectors in LanceDB, the example store of retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmcf_cli.plugin import registry
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.base import Job, Stage
from llmcf_cli.stages.gen_cot import GenCoT
from llmcf_cli.stages.ingest import Ingest
from llmcf_cli.store.open import connect_read, open_lance, read_parquet
from llmcf_cli.store.tables import Table, cot_example, item_text


class Embed(Stage):
    """Encodes texts once; matching, training and serving read the vectors."""

    name = "embed"
    version = 1

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {"match.space": recipe.match.space}

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (Ingest(), GenCoT())

    def run(self, job: Job) -> dict[str, Any]:
        from llmcf_cli.llm.embed import TextEncoder

        space_config = job.recipe.match.space
        encoder = TextEncoder(job.context.locate.path(space_config.encoder))  # type: ignore[attr-defined]
        items = _rows(job.database, "SELECT item_row, item_id, text FROM item ORDER BY item_row")
        item_vectors = encoder.encode(items["text"].to_pylist(), progress=job.progress, what="item texts")
        lance = job.out / "lance"
        columns = [items["item_row"], items["item_id"], _vectors(item_vectors)]
        _write(lance, item_text(encoder.dim), columns)

        cots = read_parquet(job.inputs["gen-cot"] / "cot.parquet", ["sample_id", "text"])
        examples = _examples(job.database, cots)
        cot_vectors = encoder.encode(examples["text"].to_pylist(), progress=job.progress, what="chains of thought")
        vectors = self._example_vectors(job, item_vectors, examples)
        names = ("sample_id", "user_row", "item_row", "label", "time", "split")
        columns = [*(examples[name] for name in names), _vectors(vectors), _vectors(cot_vectors)]
        _write(lance, cot_example(encoder.dim, vectors.shape[1]), columns)
        return {
            "items": items.num_rows,
            "examples": examples.num_rows,
            "dim": encoder.dim,
            "seconds": encoder.seconds,
        }

    @staticmethod
    def _example_vectors(job: Job, item_vectors: Any, examples: pa.Table) -> Any:
        import numpy as np

        from llmcf_cli.features.batch import encode_rows

        space = registry().build("space", job.recipe.match.space)
        padded = np.concatenate([np.zeros_like(item_vectors[:1]), item_vectors])
        rows = encode_rows(examples, job.recipe.dataset.history.max_length)
        return space.example_vectors(padded, rows.item_row_N, rows.history_row_NL)


def _rows(database: Path, query: str) -> pa.Table:
    with connect_read(database) as connection:
        return connection.sql(query).to_arrow_table()


def _examples(database: Path, cots: pa.Table) -> pa.Table:
    """The sample rows of the chains of thought with their texts, by sample id."""
    with connect_read(database) as connection:
        connection.register("cot_text", cots)
        return connection.sql(
            "SELECT s.*, c.text FROM sample s JOIN cot_text c USING (sample_id) ORDER BY sample_id"
        ).to_arrow_table()


def _vectors(vectors_ND: Any) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.reshape(-1)), vectors_ND.shape[1])


def _write(folder: Path, spec: Table, columns: Sequence[Any]) -> None:
    data = pa.table(dict(zip(spec.schema.names, columns, strict=True))).cast(spec.schema)
    open_lance(folder).create_table(spec.name, data)
