"""`llmcf report`: a finished run as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.groups import remember
from llmcf_cli.cli.opening import AllowReadOption, find_run
from llmcf_cli.cli.stages import ArtifactsOption, SetOption


def report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A recipe; or the folder, key or start of the key of a comparison, eval-llm or balance.",
            callback=remember,
            autocompletion=recipe_names,
        ),
    ],
    set_: SetOption = None,
    artifacts: ArtifactsOption = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="File to write.", show_default="ARTIFACTS/report/KEY.html"),
    ] = None,
    allow_read: AllowReadOption = None,
) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.stages.look.page.render import write_page

    path = write_page(find_run(run, set_, artifacts, allow_read), out)
    console().print(f"report: {path}", markup=False, soft_wrap=True)
