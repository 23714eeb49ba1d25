"""`llmcf clean`: what can go from an artifact folder, by size; removed only with `--yes`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.cli.stages import ArtifactsOption
from llmcf_cli.core.errors import StoreError

if TYPE_CHECKING:
    from llmcf_cli.stages.look.clean import Unneeded
    from llmcf_cli.store.artifacts import ArtifactStore


def clean(
    keep: Annotated[
        list[str],
        typer.Argument(
            metavar="KEEP…",
            help="Recipes whose results to keep, including those of their refreshes; and folders of results, such as "
            "runs or bundles, to keep with everything they were made from.",
            autocompletion=recipe_names,
        ),
    ],
    pointer: Annotated[
        list[Path] | None,
        typer.Option("--pointer", metavar="FILE", help="Keep the bundles that this pointer file of `promote` names. "
                     "Repeatable."),
    ] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", min=0, help="Only what is at least this old.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed; without it, only list.")] = False,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    from datetime import UTC, datetime, timedelta

    from llmcf_cli.recipe.load import find_recipe
    from llmcf_cli.stages.deriving import refreshes_of
    from llmcf_cli.stages.look.clean import needs, unneeded
    from llmcf_cli.stages.pipeline import artifact_root
    from llmcf_cli.stages.replay.kept import changes_of, is_replay, recipes_of, unfinished
    from llmcf_cli.store.artifacts import ArtifactStore

    store = ArtifactStore(artifact_root(artifacts))
    folders = [Path(one) for one in keep if Path(one).is_dir() and not is_replay(Path(one))]
    named = [one for one in keep if not Path(one).is_dir()]
    recipes = [opened(one, None, artifacts, allow_read) for one in named]
    replays = [Path(one) for one in keep if is_replay(Path(one))]
    replays += [folder for one in recipes for folder in unfinished(store.root, one.recipe.name)]
    recipes += [opened(str(file), None, artifacts) for one in named for file in refreshes_of(find_recipe(one))]
    recipes += [
        opened(str(file), changes_of(folder), artifacts) for folder in replays for file in recipes_of(folder)
    ]  # fmt: skip
    folders += [bundle for file in pointer or () for bundle in _bundles(file, store.root)]
    kept = needs(store, recipes, folders)
    before = None if older_than is None else datetime.now(UTC) - timedelta(days=older_than)
    found = unneeded(store, kept.keys, before)
    free = [one for one in found if not one.busy]
    removed, failed = [], []
    for one in free if yes else ():
        try:
            store.remove(one.stage, one.key)
            removed.append(one)
        except StoreError as error:  # somebody began to use it, or it is not ours: the others can go
            failed.append(error)
    if as_json:
        print_json([{**vars(one), "removed": one in removed} for one in found])
    else:
        _show(store, found, kept.bytes)
        _end(free, removed, yes)
    if failed:
        raise failed[0]


def _show(store: ArtifactStore, found: Sequence[Unneeded], kept: int) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table
    from llmcf_cli.stages.pipeline import generations

    if found:
        table = plain_table("what", "recipe", "key", "changed (UTC)", "MB", "")
        table.columns[4].justify = "right"
        for one in found:
            what = one.label if one.kind == "artifact" else f"{one.label}, {one.kind}"
            when = f"{one.changed:%Y-%m-%d %H:%M}"
            table.add_row(what, one.recipe, one.key, when, _mb(one.bytes), f"stays: {one.busy}" if one.busy else "")
        console().print(table)
    console().print(f"{_mb(kept)} MB in {store.root} are needed and kept", markup=False, soft_wrap=True)
    texts = generations(store.root)
    if texts.is_file():
        console().print(
            f"{_mb(texts.stat().st_size)} MB of generated texts are always kept, because they cost calls: {texts}",
            markup=False, soft_wrap=True,
        )  # fmt: skip


def _end(free: Sequence[Unneeded], removed: Sequence[Unneeded], yes: bool) -> None:
    from llmcf_cli.cli.console import console

    if not free:
        console().print("nothing to remove")
    elif yes:
        console().print(f"removed {len(removed):,} of {len(free):,}: {_mb(sum(one.bytes for one in removed))} MB")
    else:
        console().print(f"{len(free):,} can be removed: {_mb(sum(one.bytes for one in free))} MB; nothing was removed")
        console().print("next: the same command with --yes")


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def _bundles(pointer: Path, root: Path) -> list[Path]:
    """The bundles that a pointer names and that lie below a folder: elsewhere none is in danger."""
    from llmcf_cli.serve.champion.pointer import read_pointer

    held = read_pointer(pointer)
    named = [one.bundle for one in (held.champion, held.previous, held.withdrawn) if one is not None]
    found = [(pointer.parent / name).resolve() for name in named]
    return [bundle for bundle in found if bundle.is_dir() and bundle.is_relative_to(root.resolve())]
