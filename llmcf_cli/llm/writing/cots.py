"""Reading the chains of thought that `gen-cot` kept: each with its sample, its parts and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmcf_cli.core.errors import LlmcfError, StoreError
from llmcf_cli.recipe.words import Words
from llmcf_cli.store.layout import File, Output
from llmcf_cli.store.open import connect_read

SCORES = ("score", "coherence", "completeness", "relevance", "consistency")

_ROWS = f"""
SELECT c.sample_id, u.user_id, i.item_id, s.label, s.time, u.text AS user, i.text AS item, c.prompt, c.text,
       p.parts, {", ".join(f"c.{name}" for name in SCORES)}
FROM read_parquet($cots) c JOIN sample s USING (sample_id) JOIN item i USING (item_row)
JOIN "user" u USING (user_row) JOIN (
    SELECT sample_id, list({{'step': step, 'text': text}} ORDER BY place) AS parts
    FROM read_parquet($parts) GROUP BY sample_id
) p USING (sample_id)
"""
_FORMATS = {"jsonl": "FORMAT json", "parquet": "FORMAT parquet, COMPRESSION zstd"}
_MOST = 50  # rows that one look returns


class CoTOutput(Output):
    """Chains of thought, and what they were chosen from."""

    cots = File("cot.parquet", "table cot")
    parts = File("cot_part.parquet", "table cot_part")
    candidates = File("cot_candidate.parquet", "table cot_candidate")
    dropped = File("cot_dropped.parquet", "table cot_dropped")


@dataclass(frozen=True)
class Written:
    """Where chains of thought are.

    Attributes:
        data: DuckDB file of ingest.
        folder: Artifact of `gen-cot`.
        words: Of the label.
    """

    data: Path
    folder: Path
    words: Words = Words()

    @property
    def _files(self) -> dict[str, str]:
        output = CoTOutput(self.folder)
        return {"cots": str(output.cots), "parts": str(output.parts)}

    def of(self, **known: object) -> list[Mapping[str, Any]]:
        """The chains of thought with these values, by sample id, at most 50.

        Args:
            known: `sample_id`, `user_id`, `item_id`; None: any.

        Raises:
            LlmcfError: There is none; says what there is.
        """
        wanted = {name: value for name, value in known.items() if value is not None}
        conditions = " AND ".join(f"{name} = ${name}" for name in wanted) or "true"
        found = self._rows(f"WHERE {conditions} ORDER BY sample_id LIMIT {_MOST}", wanted)
        if not found:
            asked = ", ".join(f"{name} {value}" for name, value in wanted.items())
            raise LlmcfError(
                f"no chain of thought was kept for {asked}", code="cot-missing", where="gen-cot",
                hint="only a sample of the train rows has one: llmcf cot show RECIPE --best 5, or cot export for all",
            )  # fmt: skip
        return found

    def ranked(self, order: Literal["best", "worst"], count: int) -> list[Mapping[str, Any]]:
        """The chains of thought with the highest or lowest score, by sample id among equals."""
        direction = {"best": "DESC", "worst": "ASC"}[order]
        return self._rows(f"ORDER BY score {direction}, sample_id LIMIT $count", {"count": count})

    def export(self, file: Path, form: str) -> int:
        """Write all of them to a file, which appears only complete.

        Args:
            file: Where to.
            form: `jsonl` or `parquet`.

        Returns:
            How many.

        Raises:
            StoreError: The file cannot be written.
        """
        import duckdb

        partial = file.with_name(f".{file.name}.partial")
        target = str(partial).replace("'", "''")
        try:
            with connect_read(self.data) as connection:
                query = f"COPY ({_ROWS} ORDER BY sample_id) TO '{target}' ({_FORMATS[form]})"
                (count,) = connection.execute(query, self._files).fetchone()
            partial.replace(file)
        except (duckdb.IOException, OSError) as error:
            partial.unlink(missing_ok=True)
            raise StoreError(
                f"cannot be written: {str(error).splitlines()[0]}", code="store-unwritable", where=str(file)
            ) from error
        return int(count)

    def _rows(self, rest: str, values: Mapping[str, object]) -> list[Mapping[str, Any]]:
        with connect_read(self.data) as connection:
            table = connection.sql(f"{_ROWS} {rest}", params={**self._files, **values}).to_arrow_table()
        rows: list[Mapping[str, Any]] = table.to_pylist()
        return rows
