"""`llmcf score`: answer requests from a bundle, without an LLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pyarrow as pa

SHOWN = 10
WRITTEN = (".parquet", ".csv")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("score", help="Score (user, item) requests with a trained bundle.")(score)


def score(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder that train-rec left.")],
    requests: Annotated[
        Path,
        typer.Argument(
            metavar="REQUESTS",
            help="Parquet, JSON lines or CSV: user_id, item_id and, if there is one, history: item ids, oldest first, "
            'in CSV as a quoted list: "[242, 50]".',
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the scores: .parquet or .csv.")
    ] = None,
) -> None:
    import pyarrow.csv as pc
    import pyarrow.parquet as pq
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.core.errors import DataError
    from llmcf_cli.serve.scorer import Scorer

    if out is not None and out.suffix not in WRITTEN:
        raise DataError(f"cannot write {out.suffix or 'this kind of'} file", where=str(out), allowed=WRITTEN)
    scorer, asked = Scorer.load(bundle), _read(requests)
    scores = scorer.score(asked)
    table = Table(box=None, pad_edge=False)
    for column in scores.column_names:
        table.add_column(column)
    for row in scores.slice(0, SHOWN).to_pylist():
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    console().print(table)
    if scores.num_rows > SHOWN:
        console().print(f"… and {scores.num_rows - SHOWN:,} more", style="dim")
    unknown = scorer.unknown(asked)
    if any(unknown.values()):
        counts = ", ".join(f"{kind} {count:,}" for kind, count in unknown.items() if count)
        console().print(f"ids the bundle lacks: {counts}; scored by what else is known", style="yellow")
    if out is not None:
        if out.suffix == ".csv":
            pc.write_csv(scores, out)
        else:
            pq.write_table(scores, out, compression="zstd")
        console().print(f"written to {out}", markup=False, soft_wrap=True)


def _read(path: Path) -> pa.Table:
    """Requests from a file, by its ending.

    Raises:
        DataError: There is no such file, its ending is unknown, or it cannot be parsed.
    """
    import duckdb

    from llmcf_cli.core.errors import DataError

    readers = {".parquet": "read_parquet", ".jsonl": "read_json", ".json": "read_json", ".csv": "read_csv"}
    if path.suffix not in readers:
        raise DataError(f"cannot read {path.suffix or 'this kind of'} file", where=str(path), allowed=sorted(readers))
    if not path.is_file():
        raise DataError("no such file", where=str(path))
    try:
        with duckdb.connect() as connection:
            rows = connection.sql(f"FROM {readers[path.suffix]}(?)", params=[str(path)])
            if path.suffix == ".csv" and "history" in rows.columns:
                rows = rows.project("* REPLACE (CAST(history AS VARCHAR[]) AS history)")  # CSV has no lists of its own
            return rows.to_arrow_table()
    except duckdb.Error as error:
        raise DataError(f"cannot be read: {str(error).splitlines()[0]}", where=str(path)) from error
