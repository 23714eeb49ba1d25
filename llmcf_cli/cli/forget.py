"""`llmcf forget`: users leave all that a recipe made; said first, and done only with `--yes`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcf_cli.cli.completing import recipe_names
from llmcf_cli.cli.groups import remember
from llmcf_cli.cli.opening import AllowReadOption, opened
from llmcf_cli.cli.printing import JsonOption, print_json
from llmcf_cli.cli.stages import ArtifactsOption
from llmcf_cli.core.errors import LlmcfError

if TYPE_CHECKING:
    from llmcf_cli.data.forgotten import Forgotten
    from llmcf_cli.stages.engine.base import Context
    from llmcf_cli.stages.look.forget import Certificate

_LONGEST = 1 << 26  # bytes of a file of ids


def forget(
    recipe: Annotated[
        str,
        typer.Option("--recipe", metavar="RECIPE", callback=remember, autocompletion=recipe_names,
                     help="Recipe to remove them from, with its refreshes; it will name the list of these users."),
    ],
    users: Annotated[
        list[str] | None, typer.Argument(metavar="USER…", help="User ids, as in the tables.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option("--ids", metavar="FILE", help="User ids, one per line: not in the shell history.")
    ] = None,
    pointer: Annotated[
        list[Path] | None,
        typer.Option("--pointer", metavar="FILE", help="Keep the champion that this pointer file of `promote` names, "
                     "and list it; remove the bundles to roll back to. Repeatable."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what is listed; without it, only list.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Only search again: for these users, or for all on the recipe's list.")
    ] = False,
    artifacts: ArtifactsOption = None,
    allow_read: AllowReadOption = None,
    as_json: JsonOption = False,
) -> None:  # fmt: skip
    from llmcf_cli.data.forgotten import Forgotten
    from llmcf_cli.recipe.load import load_recipe
    from llmcf_cli.stages.look import forget as work
    from llmcf_cli.stages.look.holders import Sought, holders
    from llmcf_cli.stages.refreshing import alone

    if check and yes:
        raise LlmcfError(
            "exclude each other: one only searches, the other removes",
            code="option-conflict",
            where="--check, --yes",
            hint="leave one of them out",
        )
    context, loaded = opened(recipe, None, artifacts, allow_read), load_recipe(recipe)
    named = [*(users or ()), *_lines(ids)]
    file = work.list_of(loaded, context)
    listed = Forgotten.read(file) if file.is_file() else Forgotten.fresh()
    wanted = listed.only(named) if named else listed
    if not (named or check) or not wanted.users:
        raise LlmcfError("no users given", code="forget-nobody", where=recipe, hint="give user ids, or --ids FILE")
    meant = listed if check else listed.with_all(wanted)
    with tempfile.TemporaryDirectory() as folder:
        before = _contexts(recipe, listed.without(wanted), Path(folder) / "before.json", artifacts)
        after = _contexts(recipe, meant, Path(folder) / "after.json", artifacts)
        sought = Sought(wanted, before, after, _served(pointer or ()))
        with alone(context):
            found = holders(context.store, sought)
            texts = work.texts_of(sought, found, context.store)
            said = work.certificate(loaded, sought, found, texts, file, context.store)
            if check:
                _show(said, found.samples, as_json)
                if context.recipe.dataset.forgotten is None or not wanted.users <= listed.users:
                    raise LlmcfError(
                        "some of these users are not on the recipe's list: the next run reads them again",
                        code="forget-remains", where=str(file), hint="run llmcf forget with --yes",
                    )  # fmt: skip
                _stop_if_left(said)
                return
            if not yes:
                _show(said, found.samples, as_json)
                if not as_json:
                    _next(said)
                return
            place, earlier = work.certificate_file(loaded, wanted, file)
            said = work.carried_on(said, earlier)
            changed = work.write_list(loaded, meant, file)
            work.write_certificate(said, place)
            ended, failed = work.remove(context.store, said, found, texts)
            work.write_certificate(ended, place)
    _show(ended, found.samples, as_json)
    if not as_json:
        _end(ended, place, recipe if changed else "")
    if failed:
        raise failed[0]
    _stop_if_left(ended)


def _lines(file: Path | None) -> list[str]:
    from llmcf_cli.core.files import read_small

    if file is None:
        return []
    return [line for line in read_small(file, _LONGEST).decode("utf-8-sig").splitlines() if line]


def _contexts(recipe: str, without: Forgotten, file: Path, artifacts: Path | None) -> list[Context]:
    """What a recipe and its refreshes run in while a list names some users, or nobody."""
    from llmcf_cli.recipe.load import find_recipe
    from llmcf_cli.stages.deriving import refreshes_of

    file.write_text(without.written(), encoding="utf-8")
    change = [f"dataset.forgotten={file}" if without.users else "dataset.forgotten=null"]
    return [opened(str(one), change, artifacts) for one in (recipe, *refreshes_of(find_recipe(recipe)))]


def _served(pointers: Sequence[Path]) -> Mapping[Path, str]:
    """The champions → why they stay."""
    if not pointers:  # what reads them takes seconds to import
        return {}
    from llmcf_cli.serve.champion.pointer import read_pointer

    found = {}
    for file in pointers:
        bundle = (file.parent / read_pointer(file).champion.bundle).resolve()
        found[bundle] = f"served through {file}: promote another bundle, then run this again"
    return found


def _show(one: Certificate, samples: Mapping[str, frozenset[int]], as_json: bool) -> None:
    from llmcf_cli.cli.console import console
    from llmcf_cli.cli.tables import plain_table

    if as_json:
        print_json([one.model_dump(mode="json")])
        return
    unknown = f"; not found here: {one.unknown:,}" if one.unknown else ""
    console().print(f"{len(one.users):,} users, in {len(samples):,} ingests{unknown}", markup=False, soft_wrap=True)
    if one.removed:
        table = plain_table("what", "their rows", "why", "MB", "" if one.finished is None else "now")
        for entry in one.removed:
            now = "" if one.finished is None else "gone" if entry.gone else "STAYS"
            rows = f"{sum(entry.rows.values()):,}" if entry.rows else ""
            table.add_row(entry.what, rows, entry.why, f"{entry.bytes / 1e6:,.1f}", now)
        console().print(table)
    for left in one.remains:
        console().print(f"stays: {left.path} ({left.what}): {left.why}", style="yellow" if left.ours else None,
                        markup=False, soft_wrap=True)  # fmt: skip
    for what in one.not_looked_at:
        console().print(f"not searched: {what}", markup=False, soft_wrap=True)


def _next(one: Certificate) -> None:
    from llmcf_cli.cli.console import console

    console().print(f"{len(one.removed):,} would be removed; nothing was changed", markup=False)
    console().print("next: the same command with --yes")


def _end(one: Certificate, place: Path, changed: str) -> None:
    from llmcf_cli.cli.console import console

    if changed:
        console().print(
            f"{changed} now names {one.listed_in}: no ingest will read these users", markup=False, soft_wrap=True
        )
    gone = sum(entry.gone for entry in one.removed)
    console().print(f"removed {gone:,} of {len(one.removed):,}; certificate: {place}", markup=False, soft_wrap=True)
    console().print(f"next: llmcf run {one.recipe_file}", markup=False, soft_wrap=True)


def _stop_if_left(one: Certificate) -> None:
    left = [entry for entry in one.remains if entry.ours] + [entry for entry in one.removed if not entry.gone]
    if left:
        raise LlmcfError(
            f"{len(left):,} results or files of the recipe still hold them", code="forget-remains", where=left[0].path,
            hint="do what the list above says about each, then run llmcf forget with --yes",
        )  # fmt: skip
