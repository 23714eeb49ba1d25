"""`llmcf assets`: the data sets and models that recipes name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.core.errors import AssetError
from llmcf_cli.core.text import visible

if TYPE_CHECKING:
    from llmcf_cli.store.assets import AssetStore

app = typer.Typer(no_args_is_help=True)

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names from `llmcf assets list`.")]
CatalogueFolder = Annotated[
    Path | None,
    typer.Option("--beside", metavar="DIR", help="Also read the assets.yaml in this folder (a recipe's)."),
]


@app.command("list")
def list_(beside: CatalogueFolder = None, as_json: JsonOption = False) -> None:
    """List every asset: size, licence, and whether it is here."""
    from rich.table import Table

    from llmcf_cli.cli.console import console

    store = _store(beside)
    if as_json:
        print_json([
            {"name": one.name, "kind": one.kind, "description": one.description, "licence": one.licence,
             "bytes": one.size, "state": store.status(one.name)} for one in store.list()
        ])  # fmt: skip
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "kind"):
        table.add_column(column, no_wrap=True)
    table.add_column("MB", justify="right")
    table.add_column("state", no_wrap=True)
    table.add_column("licence")
    for asset in store.list():
        size, state = f"{asset.size / 1e6:,.1f}", store.status(asset.name)
        table.add_row(asset.name, asset.kind, size, state, asset.licence)
    console().print(table)
    console().print(f"kept in {store.cache}", markup=False, soft_wrap=True)


@app.command()
def fetch(
    names: Names = None,
    all_: Annotated[bool, typer.Option("--all", help="Fetch every asset of the catalogue.")] = False,
    beside: CatalogueFolder = None,
) -> None:
    """Fetch assets and verify them; skip those already here."""
    from llmcf_cli.cli.console import make_progress

    if bool(names) == all_:
        raise typer.BadParameter("give names, or --all")
    store, progress = _store(beside), make_progress()
    for name in names or [asset.name for asset in store.list()]:
        asset = store.get(name)
        was_here = store.status(name) == "ready"
        folder = store.fetch(name, progress)
        typer.echo(f"{name}: {'already here' if was_here else 'fetched'}, {asset.size / 1e6:,.1f} MB in {folder}")
        typer.echo(f"  licence: {visible(asset.licence)}")


@app.command()
def verify(names: Names = None, beside: CatalogueFolder = None) -> None:
    """Check the digests of assets' files against the catalogue; by default, of all assets here."""
    from llmcf_cli.cli.console import make_progress

    store, progress = _store(beside), make_progress()
    here = [asset.name for asset in store.list() if store.status(asset.name) in ("ready", "damaged")]
    problems: list[AssetError] = []
    for name in names or here:
        found = store.verify(name, progress)
        problems.extend(found)
        if not found:
            typer.echo(f"ok: {name}")
    if problems:
        for problem in problems[:-1]:
            typer.echo(visible(str(problem)), err=True)
        raise problems[-1]


def _store(beside: Path | None) -> AssetStore:
    from llmcf_cli.recipe.library import library_dir
    from llmcf_cli.store.assets import open_assets

    return open_assets(library_dir(), *([beside] if beside else []))
