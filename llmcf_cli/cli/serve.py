"""`llmcf serve`: answer over HTTP from a bundle, without an LLM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmcf_cli.cli.bundle import SignersOption


def serve(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="The bundle folder that train-rec wrote.")
    ] = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; beyond this machine, a key is required.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 for any free one.")] = 8000,
    watch: Annotated[
        Path | None,
        typer.Option(
            "--watch", metavar="FILE", help="Serve the bundle that this pointer file names, and follow changes."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=1, max=64, help="Processes, each with its own copy of the model.")
    ] = 1,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=0.001, help="Longest wait of a request.")
    ] = 5.0,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Maximum (user, candidate) pairs per request.")
    ] = 20_000,
    signers: SignersOption = None,
    engine: Annotated[
        Literal["torch", "onnx"],
        typer.Option(
            "--engine", help="What computes scores; onnx: the export that `llmcf export-onnx` wrote into the bundle."
        ),
    ] = "torch",
) -> None:
    from llmcf_cli.core.errors import AccessError, LlmcfError, PackageError
    from llmcf_cli.core.permissions import Host

    try:
        from llmcf_cli.serve.champion.pointer import pointed_at
        from llmcf_cli.serve.http.run import serve as run
        from llmcf_cli.serve.http.settings import KEY_VARIABLE, Limits, ServeSettings
    except ModuleNotFoundError as error:
        raise PackageError(error.name or "", where="llmcf serve") from error

    if (bundle is None) == (watch is None):
        what = "give either a bundle, or --watch FILE with a file that names one"
        raise LlmcfError(what, code="option-conflict", where="llmcf serve", hint="llmcf serve BUNDLE")
    key = os.environ.get(KEY_VARIABLE, "")
    if not key and not Host.of(f"http://{f'[{host}]' if ':' in host else host}").is_this_machine:
        raise AccessError("anyone who reaches this address could use it", code="address-open", where=f"--host {host}",
                          hint=f"export {KEY_VARIABLE}=$(openssl rand -hex 16); clients send it as a Bearer "
                          "token")  # fmt: skip
    limits = Limits(deadline_seconds=deadline, rows=max_rows)
    settings = ServeSettings(bundle, watch, signers, key, limits, engine)
    if watch is not None:
        pointed_at(watch)
    run(settings, host=host, port=port, workers=workers)
