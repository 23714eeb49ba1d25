"""`llmcf serve`: answer over HTTP from a bundle, without an LLM."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from llmcf_cli.cli.bundle import SignersOption


def serve(
    bundle: Annotated[
        Path | None, typer.Argument(metavar="BUNDLE", help="The bundle folder that train-rec left.")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen at; beyond this machine with a key only.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8000,
    watch: Annotated[
        Path | None,
        typer.Option("--watch", metavar="FILE", help="Serve the bundle whose path this file holds, and follow it."),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", min=1, max=64, help="Processes, each with its own copy.")] = 1,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", min=0.001, help="Longest a request may wait.")
    ] = 5.0,
    max_rows: Annotated[
        int, typer.Option("--max-rows", min=1, help="Most (user, candidate) pairs of a request.")
    ] = 20_000,
    signers: SignersOption = None,
    engine: Annotated[
        Literal["torch", "onnx"],
        typer.Option("--engine", help="What computes scores; onnx: what `llmcf export-onnx` left in the bundle."),
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
        what = "give a bundle, or a file that names one with --watch"
        raise LlmcfError(what, code="option-conflict", where="llmcf serve", hint="llmcf serve BUNDLE")
    key = os.environ.get(KEY_VARIABLE, "")
    if not key and not Host.of(f"http://{f'[{host}]' if ':' in host else host}").is_this_machine:
        raise AccessError("anybody who reaches this address could ask", code="address-open", where=f"--host {host}",
                          hint=f"export {KEY_VARIABLE}=$(openssl rand -hex 16), which clients send as a Bearer "
                          "token")  # fmt: skip
    limits = Limits(deadline_seconds=deadline, rows=max_rows)
    settings = ServeSettings(bundle, watch, signers, key, limits, engine)
    if watch is not None:
        pointed_at(watch)
    run(settings, host=host, port=port, workers=workers)
