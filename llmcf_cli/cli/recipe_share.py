"""`llmcf recipe export`, `import`, `push` and `pull`: recipes with what they rest on, from one machine to another."""

from __future__ import annotations

import tempfile
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.cli.stages import ArtifactsOption, RecipeArgument

if TYPE_CHECKING:
    from llmcf_cli.stages.share.parcel import Packing
    from llmcf_cli.stages.share.receive import Offer
    from llmcf_cli.store.registry import Sending

TargetArgument = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to create; nothing is overwritten.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Write without asking.")]
_LISTED = 30
_ADDRESSES = 5


class Further(StrEnum):
    """Parts that are packed if asked for."""

    data = "data"
    bundle = "bundle"


class Left(StrEnum):
    """What is packed unless it is left out."""

    texts = "texts"
    results = "results"
    user = "user"


def export(
    recipe: RecipeArgument,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="FILE.zip, or a folder to create.")],
    with_: Annotated[
        list[Further] | None,
        typer.Option("--with", help="Also pack this: data files up to 100 MB each, or the model to serve. Repeatable."),
    ] = None,
    without: Annotated[
        list[Left] | None,
        typer.Option("--without", help="Leave this out; `user`: texts written from users' histories. Repeatable."),
    ] = None,
    licence: Annotated[
        str,
        typer.Option("--licence", metavar="TEXT", help="Licence of what you pack, e.g. CC-BY-4.0; noted on the card."),
    ] = "",
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
) -> None:
    """Pack a recipe with its prompts, lock, generated texts and results, so that others can reproduce it."""
    from datetime import UTC, datetime

    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.share.parcel import PARTS, Wanted, gather
    from llmcf_cli.stages.share.parcel import export as write

    progress = make_progress()
    context = opened(recipe, None, artifacts, allow_read)
    chosen = [part for part in PARTS if part in (with_ or ()) or part in ("texts", "results")]
    parts = [part for part in chosen if part not in (without or ())]
    about = [one for one in without or () if one == "user"]
    wanted = Wanted(parts, about, licence, datetime.now(UTC).date().isoformat())
    with tempfile.TemporaryDirectory() as work:
        packing = gather(load_recipe(recipe), context, wanted, Path(work), progress)
        _print_packing(packing)
        manifest = write(packing, target, licence, progress)
    what = f"{len(manifest.files)} files, {manifest.size / 1e6:,.2f} MB in {target}"
    console().print(what, markup=False, soft_wrap=True)
    console().print(f"sha256 {manifest.digest}", markup=False, soft_wrap=True)
    console().print(f"next: llmcf recipe import {target} FOLDER, anywhere", markup=False, soft_wrap=True)


def import_(
    source: Annotated[Path, typer.Argument(metavar="PARCEL", help="A zip or folder written by `llmcf recipe export`.")],
    target: TargetArgument,
    sha256: Annotated[
        str | None, typer.Option("--sha256", metavar="DIGEST", help="Require this digest of the parcel.")
    ] = None,
    yes: YesOption = False,
    artifacts: ArtifactsOption = None,
) -> None:
    """Unpack a recipe after showing what it contains, fetches, sends and needs; its texts go into the cache."""
    from llmcf_cli.stages.share.receive import look
    from llmcf_cli.store.parcel_source import open_parcel
    from llmcf_cli.store.transfer import check_pin

    parcel = open_parcel(source)
    if sha256 is not None:
        check_pin(parcel, sha256)
    _take(look(parcel), target, yes, artifacts)


def push(
    source: Annotated[Path, typer.Argument(metavar="PARCEL", help="A zip or folder written by `llmcf recipe export`.")],
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO",
            help="A shared or web-served folder; oci://HOST/NAME; or hf://datasets/OWNER/NAME.",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send without asking.")] = False,
) -> None:
    """Publish a parcel for others to pull; an interrupted push resumes."""
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.core.errors import LlmcfError
    from llmcf_cli.stages.share.receive import push as put
    from llmcf_cli.store import hub, registry
    from llmcf_cli.store.oci import SCHEME
    from llmcf_cli.store.parcel_source import open_parcel
    from llmcf_cli.store.shelf import list_parcels

    parcel = open_parcel(source)
    if to.startswith(SCHEME):
        _print_sending(registry.look_where(parcel, to))
        if not yes:
            typer.confirm(f"send this to {to}?", abort=True)
        there = registry.push(parcel, to, make_progress())
        console().print(f"{len(parcel.manifest.files)} files in {there}", markup=False, soft_wrap=True)
        console().print(f"next: llmcf recipe pull {there} FOLDER", markup=False, soft_wrap=True)
        return
    if to.startswith(hub.SCHEME):
        size = parcel.manifest.size / 1e6
        console().print(f"sends {len(parcel.manifest.files)} files, {size:,.2f} MB, to {hub.hub_host()}", markup=False)
        console().print("a new repository there will be private", markup=False)
        if not yes:
            typer.confirm(f"send this to {to}?", abort=True)
        address = hub.push(parcel, to, make_progress())
        console().print(f"{len(parcel.manifest.files)} files in {to}", markup=False, soft_wrap=True)
        console().print(f"next: llmcf recipe pull '{address}' FOLDER", markup=False, soft_wrap=True)
        return
    if "://" in to:
        raise LlmcfError("parcels cannot be pushed to this address", code="parcel-unpinned", where=to,
                         allowed=("FOLDER", "oci://HOST/NAME", "hf://datasets/OWNER/NAME"))  # fmt: skip
    folder = Path(to)
    place = put(parcel, folder, make_progress())
    index = list_parcels(folder)
    console().print(f"{len(parcel.manifest.files)} files in {place}, listed in {index}", markup=False, soft_wrap=True)
    pin = f"#sha256={parcel.manifest.digest}"
    console().print(f"next: llmcf recipe pull '{place}{pin}' FOLDER", markup=False, soft_wrap=True)
    console().print(f"or, where a server shows {folder}: https://HOST/{place.name}{pin}", markup=False, soft_wrap=True)


def pull(
    address: Annotated[
        str,
        typer.Argument(metavar="ADDRESS", help="https://HOST/FOLDER#sha256=DIGEST, FOLDER#sha256=DIGEST, "
                       "oci://HOST/NAME@sha256:DIGEST, or hf://…@COMMIT#sha256=DIGEST."),
    ],
    target: TargetArgument,
    yes: YesOption = False,
    artifacts: ArtifactsOption = None,
) -> None:  # fmt: skip
    """Import a parcel from a server, a registry or a shared folder; an interrupted pull resumes."""
    import shutil

    from llmcf_cli.stages.share.receive import look
    from llmcf_cli.store.transfer import open_address

    work = target.with_name(f".{target.name}.fetching")
    _take(look(open_address(address, work)), target, yes, artifacts)
    shutil.rmtree(work, ignore_errors=True)


def search(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[WORD]...",
            help="Words that must all be in the name or description; without any, all recipes are listed.",
        ),
    ] = None,
    in_: Annotated[
        list[str] | None,
        typer.Option("--in", metavar="ADDRESS", help="A folder of parcels, or its https:// address. Repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Search the recipes that come with llmcf, and shared folders of parcels."""
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table
    from llmcf_cli.stages.share.search import search as find

    found = find(words or (), in_ or ())
    if as_json:
        print_json(found)
        return
    table = plain_table("recipe", "what it does", "licence", "MB")
    for one in found:
        table.add_row(one.name, one.description, one.licence, f"{one.size / 1e6:,.2f}" if one.size else "")
    console().print(table)
    for one in [one for one in found if one.address][:_ADDRESSES]:
        console().print(f"next: llmcf recipe pull '{one.address}' FOLDER", soft_wrap=True)


def _take(offer: Offer, target: Path, yes: bool, artifacts: Path | None) -> None:
    from llmcf_cli.cli.console import console, make_progress
    from llmcf_cli.stages.pipeline import artifact_root, generations
    from llmcf_cli.stages.share.receive import receive

    cache = generations(artifact_root(artifacts))
    _print_offer(offer, target, cache)
    if not yes:
        typer.confirm(f"write this to {target}?", abort=True)
    found = receive(offer, target, cache, make_progress())
    console().print(f"{len(offer.source.manifest.files)} files in {target}", markup=False, soft_wrap=True)
    if found.texts is not None:
        kept = f", {found.texts.kept:,} differ from those here, which were kept" if found.texts.kept else ""
        said = f"{found.texts.texts:,} texts: {found.texts.new:,} new in {cache}{kept}"
        console().print(said, markup=False, soft_wrap=True)
    recipe = offer.lock.recipe if "/" not in offer.lock.recipe else ""
    if (found.lock.parent / recipe).is_file():
        console().print(f"next: llmcf recipe inspect {found.lock.parent / recipe}", markup=False, soft_wrap=True)
    console().print(f"next: llmcf run --locked {found.lock}", markup=False, soft_wrap=True)


def _print_sending(sending: Sending) -> None:
    from llmcf_cli.cli.console import console

    shown = f", with the key in {sending.variable}" if sending.variable else ""
    console().print(f"sends {sending.files:,} files, {sending.bytes / 1e6:,.2f} MB, to {sending.place.host}{shown}",
                    markup=False, soft_wrap=True)  # fmt: skip
    if sending.there:
        console().print(f"{sending.there:,} files are already there", markup=False)


def _print_packing(packing: Packing) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table

    table = plain_table("packs", "part", "MB")
    for path, (part, file) in sorted(packing.files.items())[:_LISTED]:
        table.add_row(path, part, f"{file.stat().st_size / 1e6:,.3f}")
    console().print(table)
    if len(packing.files) > _LISTED:
        console().print(f"and {len(packing.files) - _LISTED:,} more files")
    for data in packing.data:
        if not data.inside:
            said = f"! {data.name}: packs its digest, not its {data.size / 1e6:,.2f} MB (for these: --with data)"
            console().print(said, style="yellow", markup=False, soft_wrap=True)
    for note in packing.notes:
        console().print(f"! {note}", style="yellow", markup=False, soft_wrap=True)


def _print_offer(offer: Offer, target: Path, cache: Path) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table
    from llmcf_cli.stages.share.receive import largest

    manifest = offer.source.manifest
    console().print(f"{manifest.name}: {manifest.description}", markup=False, soft_wrap=True)
    table = plain_table("writes", "files", "MB")
    for part, (count, size) in offer.parts.items():
        table.add_row(part, f"{count:,}", f"{size / 1e6:,.3f}")
    console().print(table)
    files = plain_table(f"largest files, below {target}", "MB")
    for path, size in largest(offer, _LISTED):
        files.add_row(path, f"{size / 1e6:,.3f}")
    console().print(files)
    console().print(f"licence: {manifest.licence or 'not stated'}", markup=False, soft_wrap=True)
    if offer.parts.get("texts"):
        console().print(f"its texts go into {cache}", markup=False, soft_wrap=True)
    if offer.lock.assets:
        assets = plain_table("a run fetches", "MB", "licence")
        for name, asset in offer.lock.assets.items():
            assets.add_row(name, f"{asset.size / 1e6:,.1f}", asset.licence)
        console().print(assets)
    for server in offer.servers:
        console().print(f"! sends prompts to {server} once you allow it", style="yellow", markup=False)
    for name, origin in offer.missing.items():
        said = f"! needs the plugin of {name}, {origin}, which is not installed; install it yourself if you trust it"
        console().print(said, style="yellow", markup=False, soft_wrap=True)
