"""`llmcf score`: answer requests from a bundle, without an LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcf_cli.cli.bundle import SignersOption

SHOWN = 10
WRITTEN = (".parquet", ".csv")
_TREATED = {
    "users": "scored with the embedding of unknown users", "items": "scored with the embedding of unknown items",
    "items of histories": "ignored",
}  # fmt: skip


def score(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="The bundle folder that train-rec wrote.")],
    requests: Annotated[
        Path,
        typer.Argument(
            metavar="REQUESTS",
            help="Parquet, JSON lines or CSV with user_id and item_id; optionally history (item ids, oldest first; "
            'in CSV as a quoted list: "[242, 50]") and time, written as in the data.',
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the scores to this .parquet or .csv file.")
    ] = None,
    signers: SignersOption = None,
) -> None:
    import pyarrow.csv as pc
    import pyarrow.parquet as pq
    from rich.table import Table

    from llmcf_cli.cli.console import console
    from llmcf_cli.core.errors import DataError
    from llmcf_cli.serve.requests import read_requests
    from llmcf_cli.serve.scorer import Scorer

    if out is not None and out.suffix not in WRITTEN:
        raise DataError(
            f"cannot write {out.suffix or 'this kind of'} file", code="file-ending", where=str(out), allowed=WRITTEN
        )
    scorer = Scorer.load(bundle, signers=signers)
    asked = read_requests(requests, scorer.form)
    scores = scorer.score(asked)
    table = Table(box=None, pad_edge=False)
    for column in scores.column_names:
        table.add_column(column)
    for row in scores.slice(0, SHOWN).to_pylist():
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    console().print(table)
    if scores.num_rows > SHOWN:
        console().print(f"… and {scores.num_rows - SHOWN:,} more", style="dim")
    for kind, unknown in scorer.unknown(asked).items():
        if unknown.requests:
            console().print(
                f"{unknown.requests:,} of {asked.num_rows:,} requests have {kind} that the bundle does not know "
                f"({unknown.ids:,} different, e.g. {', '.join(map(repr, unknown.examples))}): {_TREATED[kind]}",
                style="yellow", markup=False, soft_wrap=True,
            )  # fmt: skip
        if unknown.missing:
            console().print(
                f"{unknown.missing:,} of {asked.num_rows:,} requests have {kind} without an id: {_TREATED[kind]}",
                style="yellow", markup=False, soft_wrap=True,
            )  # fmt: skip
    kept = scorer.kept_histories(asked)
    if kept.requests:
        console().print(
            f"{kept.requests:,} of {asked.num_rows:,} requests have no history: {kept.kept:,} scored with the events "
            f"that the bundle has of their user, {kept.requests - kept.kept:,} without any",
            style="yellow" if kept.kept < kept.requests else "dim", markup=False, soft_wrap=True,
        )  # fmt: skip
    if out is not None:
        if out.suffix == ".csv":
            pc.write_csv(scores, out)
        else:
            pq.write_table(scores, out, compression="zstd")
        console().print(f"written to {out}", markup=False, soft_wrap=True)
