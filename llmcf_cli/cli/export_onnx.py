"""`llmcf export-onnx`: a trained ranking bundle's model as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcf_cli.cli.bundle import BundleArgument


def export_onnx(
    bundle: BundleArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder to create; by default `onnx` in the bundle, where "
                     "`llmcf serve --engine onnx` looks."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:  # fmt: skip
    from llmcf_cli.core.errors import ModelError, PackageError
    from llmcf_cli.serve.core import EXPORTED
    from llmcf_cli.serve.scorer import Scorer

    try:
        from llmcf_cli.rec.onnx import export
    except ModuleNotFoundError as error:
        raise PackageError(error.name or "", where="llmcf export-onnx") from error

    scorer = Scorer.load(bundle)
    if scorer.finder is not None:
        raise ModelError("a cascade is two models; export its ranking model", code="onnx-task", where=str(bundle),
                         hint=f"llmcf export-onnx {bundle / 'rank'}")  # fmt: skip
    folder = bundle / EXPORTED if out is None else out
    made = export.export_onnx(scorer.model, scorer.values_of, folder, scorer.digest, replace=force)
    sizes = ", ".join(str(size) for size in export.SIZES)
    typer.echo(f"ok: {folder}, {made.file.bytes / 1e6:.1f} MB, opset {made.opset}; scores of {sizes} candidates are "
               f"the model's within {export.TOLERANCE:g}")  # fmt: skip
    for port in made.inputs + made.outputs:
        typer.echo(f"  {port.name} {port.dtype} [{', '.join(map(str, port.shape))}]: {port.meaning}")
