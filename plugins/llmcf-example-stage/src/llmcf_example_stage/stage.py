"""The stage: chains of thought → their lengths in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.llm.writing.cots import CoTOutput
from llmcf_cli.recipe.schema import Recipe
from llmcf_cli.stages.engine.base import Job, Stage
from llmcf_cli.stages.steps.gen_cot import GenCoT
from llmcf_cli.store.layout import File, Output
from llmcf_example_stage.config import CotStatsConfig

_LENGTHS = r"""
SELECT sample_id,
    len(list_filter(string_split_regex(trim(text), '\s+'), lambda word: length(word) >= $letters))::INTEGER AS words
FROM read_parquet($cots) ORDER BY ALL
"""


class CotStatsOutput(Output):
    """Lengths of the chains of thought."""

    lengths = File("cot_length.parquet", "sample_id and words, a row per chain of thought")


@dataclass(frozen=True)
class CotStatsReport:
    """How long the chains of thought are.

    Attributes:
        texts: How many there are.
        words: In all of them.
        shortest, median, longest: Words of one; None where there is none.
    """

    texts: int
    words: int
    shortest: int | None
    median: float | None
    longest: int | None


class CotStats(Stage):
    """Counts the words of every chain of thought that `gen-cot` kept."""

    name = "cot-stats"
    version = 1
    report = CotStatsReport
    output = CotStatsOutput

    def sections(self, recipe: Recipe) -> dict[str, Any]:
        return {
            self.name: recipe.stage_settings(self.name, CotStatsConfig)
        }  # the rest that determines it is in the key of gen-cot

    def needs(self, recipe: Recipe) -> Sequence[Stage]:
        return (GenCoT(),)

    def run(self, job: Job) -> CotStatsReport:
        import duckdb

        cots, out = CoTOutput(job.inputs[GenCoT.name]).cots, CotStatsOutput(job.out)
        with duckdb.connect() as connection:
            letters = job.recipe.stage_settings(self.name, CotStatsConfig).min_letters
            connection.sql(_LENGTHS, params={"cots": str(cots), "letters": letters}).write_parquet(str(out.lengths))
            found = connection.read_parquet(str(out.lengths)).aggregate(
                "count(*), coalesce(sum(words), 0), min(words), median(words), max(words)"
            )
            texts, words, *spread = found.fetchall()[0]
        return CotStatsReport(texts, int(words), *spread)
