"""What the terminal shows of the stage, and the plain command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.console import console
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument, SetOption

if TYPE_CHECKING:
    from llmcf_example_stage.stage import CotStatsReport


def show_stats(report: CotStatsReport) -> None:
    """Called once the stage has run."""
    spread = "" if report.median is None else f": {report.shortest:,} to {report.longest:,}, median {report.median:g}"
    console().print(f"{report.words:,} words in {report.texts:,} chains of thought{spread}")


def longest(
    recipe: RecipeArgument,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many.")] = 3,
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """`llmcf cot-longest`: its help is the summary that it is registered with."""
    import duckdb

    from llmcf_cli.llm.writing.cots import CoTOutput
    from llmcf_cli.stages.engine.run import plan
    from llmcf_example_stage.stage import CotStats, CotStatsOutput

    node = plan(opened(recipe, set_, artifacts, allow_read), [CotStats()])[-1].node
    node.require()  # else a StoreError that says to run `llmcf cot-stats`
    with duckdb.connect() as connection:
        rows = connection.execute(
            "SELECT sample_id, words, text FROM read_parquet($lengths) JOIN read_parquet($cots) USING (sample_id) "
            "ORDER BY words DESC, sample_id LIMIT $count",
            {"lengths": str(CotStatsOutput(node.folder).lengths), "count": count,
             "cots": str(CoTOutput(node.needs["gen-cot"].folder).cots)},
        ).fetchall()  # fmt: skip
    for sample_id, words, text in rows:
        console().print(f"sample {sample_id}, {words:,} words", style="bold", markup=False)
        console().print(text, markup=False)
