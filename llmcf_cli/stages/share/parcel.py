"""What of a recipe travels, and where it lies in a parcel."""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llmcf_cli import __version__
from llmcf_cli.core.errors import DataError, LlmcfError, StoreError
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.progress import Progress
from llmcf_cli.llm.writing.travel import Exported
from llmcf_cli.recipe.library import library_dir
from llmcf_cli.recipe.load import LoadedRecipe
from llmcf_cli.recipe.references import references_of
from llmcf_cli.stages.engine.base import Context
from llmcf_cli.stages.engine.report import to_json
from llmcf_cli.stages.share.card import Data, Told, write_card
from llmcf_cli.stages.share.lock import LIBRARY_PREFIX, Lock, Now, lock_now, write_lock
from llmcf_cli.stages.share.results import is_finished, with_results
from llmcf_cli.stages.share.texts import export_cache
from llmcf_cli.stages.steps.evaluate import Comparison, EvaluateOutput
from llmcf_cli.store.assets import ASSET_PREFIX, CATALOGUE_FILE
from llmcf_cli.store.parcel import ParcelManifest, Part, pack

OWN = "llmcf"
"""Folder of a parcel for what is no file of the recipe."""
TEXTS = f"{OWN}/texts.parquet"
RESULTS, BUNDLE = f"{OWN}/results", f"{OWN}/bundle"
CARD = "README.md"
PARTS: tuple[Part, ...] = ("texts", "results", "data", "bundle")
"""Parts that may be left out; the first two are in unless they are."""
LARGEST = 100_000_000
"""Bytes of a data file that travels; of a larger one, the digest does."""

_Placed = dict[str, tuple[Part, Path]]


@dataclass(frozen=True)
class Wanted:
    """What to pack.

    Attributes:
        parts: Of `PARTS`.
        without: What texts must not be about: `user`, `item`.
        licence: Of what is packed, in the words of whoever packs it.
        made: Date, UTC.
    """

    parts: Collection[Part]
    without: Collection[str] = ()
    licence: str = ""
    made: str = ""


@dataclass(frozen=True)
class Packing:
    """A parcel about to be written.

    Attributes:
        files: Path in the parcel → part, and the file.
        lock: The lock in it.
        lock_path: Where that lies in it.
        data: Data files that the recipe names.
        texts: What is in the file of texts; None: there is none.
        notes: What somebody who packs should know.
    """

    files: _Placed
    lock: Lock
    lock_path: str
    data: tuple[Data, ...]
    texts: Exported | None
    notes: tuple[str, ...]


def gather(loaded: LoadedRecipe, context: Context, wanted: Wanted, work: Path, progress: Progress) -> Packing:
    """Find, and as far as it does not exist yet make, everything that goes into a parcel.

    Args:
        loaded: The recipe.
        context: What it runs in.
        wanted: What to pack.
        work: Empty folder for what is made.
        progress: Where to report.

    Raises:
        LlmcfError: A file cannot travel, or what is asked for is not made.
    """
    now = lock_now(loaded, context, wanted.made)
    finished = is_finished(now.steps)
    placed, data, notes = _recipe_files(loaded, context, now.lock, "data" in wanted.parts)
    texts = None
    if "texts" in wanted.parts:  # before vectors are read: prompts are rendered in copies of this process
        texts = _add_texts(context, wanted, work, placed, notes)
    lock = with_results(now, progress) if finished else now.lock
    stem = Path(lock.recipe.removeprefix(LIBRARY_PREFIX)).stem
    base = _base(placed, loaded)
    lock_path = posixpath.join(base, f"{stem}.lock.yaml")
    write_lock(lock, work / "lock.yaml")
    placed[lock_path] = ("recipe", work / "lock.yaml")
    comparison = _comparison(now) if finished else None
    if "results" in wanted.parts:
        notes += _add_results(now, comparison, work, placed)
    if "bundle" in wanted.parts:
        notes += _add_bundle(comparison, placed)
    told = Told(
        lock=lock, lock_path=lock_path, parts={path: part for path, (part, _) in placed.items()}, data=data,
        texts=texts, licence=wanted.licence, comparison=None if comparison is None else to_json(comparison),
        recipe=loaded,
    )  # fmt: skip
    if CARD in placed:
        raise DataError("the recipe has a file with this name, which is reserved for the parcel's card",
                        code="parcel-path", where=CARD, hint="rename the recipe's file")  # fmt: skip
    (work / CARD).write_text(write_card(told), encoding="utf-8")
    placed[CARD] = ("card", work / CARD)
    return Packing(placed, lock, lock_path, data, texts, tuple(notes))


def export(packing: Packing, target: Path, licence: str, progress: Progress) -> ParcelManifest:
    """Write a parcel, a zip or a folder.

    Raises:
        StoreError: Something is there, or it cannot be written.
    """
    resolved = packing.lock.resolved
    return pack(
        target, packing.files, progress, name=packing.lock.name, description=str(resolved.get("description", "")),
        licence=licence, llmcf=__version__, lock=packing.lock_path,
    )  # fmt: skip


def _recipe_files(
    loaded: LoadedRecipe, context: Context, lock: Lock, with_data: bool
) -> tuple[_Placed, tuple[Data, ...], list[str]]:
    """Files of the recipe where they belong in a parcel, what data there are, and notes."""
    base, library = loaded.base.resolve(), library_dir().resolve()
    found: dict[str, tuple[Part, Path]] = {}  # by the path from the recipe's folder, which may begin with `..`
    data, notes = [], []
    for file in loaded.files:
        if not file.resolve().is_relative_to(library):
            found[_from(base, file.resolve())] = ("recipe", file)
    if (base / CATALOGUE_FILE).is_file() and not base.is_relative_to(library):
        found[CATALOGUE_FILE] = ("recipe", base / CATALOGUE_FILE)
    prompts = {reference.name for reference in references_of(loaded.root) if reference.prompt is not None}
    for ref in lock.contents:
        if ref.startswith(ASSET_PREFIX):
            if with_data:
                found |= {path: ("data", file) for path, file in _own_asset(ref, base, context)}
            continue
        path = context.locate.path(ref)
        if path.resolve().is_relative_to(library):
            continue  # it comes with llmcf
        whole = Path(ref).is_absolute() or ref.startswith("~")
        if ref in prompts:
            if whole:
                raise DataError("a prompt with an absolute path cannot be packed", code="parcel-path", where=ref,
                                hint="put it beside the recipe, and use the relative path")  # fmt: skip
            found[_place(ref, loaded, base)] = ("recipe", path)
            continue
        files = list(_files(path))
        size = sum(file.stat().st_size for file in files)
        fits = not whole and all(file.stat().st_size <= LARGEST for file in files)
        if with_data and not fits:
            why = "its path is absolute" if whole else f"one of its files has more than {LARGEST / 1e6:,.0f} MB"
            notes.append(f"{ref}: only its digest is packed: {why}")
        if with_data and fits:
            for file in files:
                below = "" if file == path else f"/{file.relative_to(path).as_posix()}"
                found[posixpath.normpath(_place(ref, loaded, base) + below)] = ("data", file)
        data.append(Data(ref, lock.contents[ref], size, with_data and fits))
    return _rooted(found, base), tuple(data), notes


def _rooted(found: Mapping[str, tuple[Part, Path]], base: Path) -> _Placed:
    """The same by paths from the parcel's folder: it holds as many folders around the recipe's as paths climb."""
    up = max((path.split("/").count("..") for path in found), default=0)
    around = "/".join(base.parts[len(base.parts) - up :]) if up else ""
    return {posixpath.normpath(posixpath.join(around, path)): file for path, file in found.items()}


def _base(placed: _Placed, loaded: LoadedRecipe) -> str:
    """The recipe's folder in the parcel."""
    return next((posixpath.dirname(path) for path, (_, file) in placed.items() if file == loaded.path), "")


def _place(ref: str, loaded: LoadedRecipe, base: Path) -> str:
    """Where a reference lies, from the recipe's folder.

    What is found in `LLMCF_DATA` goes where it is looked for first: beside the recipe.
    """
    around = [folder for folder in (base, *(file.parent.resolve() for file in loaded.files)) if (folder / ref).exists()]
    return _from(base, around[0] / ref) if around else posixpath.normpath(Path(ref).as_posix())


def _from(base: Path, file: Path) -> str:
    return Path(os.path.relpath(file, base)).as_posix()


def _files(path: Path) -> Iterator[Path]:
    """A file, or those below a folder; a link is refused, as it would bring what lies elsewhere."""
    if kind_of(path) == "file":
        yield path
        return
    for file in sorted(path.rglob("*")):
        if file.is_symlink():
            raise DataError("is a link; a parcel contains only files", code="parcel-path", where=str(file),
                            hint="replace the link with the file itself")  # fmt: skip
        if file.is_file():
            yield file


def _own_asset(ref: str, base: Path, context: Context) -> Iterator[tuple[str, Path]]:
    """Files that the recipe's own catalogue takes from its folder."""
    for file in context.locate.asset(ref).files:
        path = Path(file.source.removeprefix("file:"))
        if file.source.startswith("file:") and path.is_relative_to(base):
            yield _from(base, path), path


def _add_texts(context: Context, wanted: Wanted, work: Path, placed: _Placed, notes: list[str]) -> Exported | None:
    try:
        found = export_cache(context, work / "texts.parquet", wanted.without)
    except StoreError as error:
        if error.code != "not-made":
            raise
        notes.append("contains no texts: none were generated here")
        return None
    if not found.texts:
        notes.append("contains no texts: " + (", ".join(
            f"{count:,} were written from a {about}" for about, count in found.left_out.items()
        ) or "the recipe asks for none"))  # fmt: skip
        return None
    placed[TEXTS] = ("texts", work / "texts.parquet")
    if "user" not in wanted.without:
        notes.append("texts are written from users' histories; --without user leaves those out")
    return found


def _comparison(now: Now) -> Comparison:
    return cast("Comparison", now.steps[-1].node.require())


def _add_results(now: Now, comparison: Comparison | None, work: Path, placed: _Placed) -> list[str]:
    if comparison is None:
        return ["contains no results, because the run has not finished: llmcf run RECIPE"]
    output = EvaluateOutput(now.steps[-1].node.folder)
    report: dict[str, Any] = to_json(comparison)
    if report["served"]:
        report["served"]["bundle"] = ""  # a folder of this machine
    (work / "comparison.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    placed[f"{RESULTS}/comparison.json"] = ("results", work / "comparison.json")
    for file in (output.page, output.metrics, output.picture, output.plot):
        if file.is_file():
            placed[f"{RESULTS}/{file.name}"] = ("results", file)
    return []


def _add_bundle(comparison: Comparison | None, placed: _Placed) -> list[str]:
    if comparison is None or comparison.served is None:
        what = "there is no bundle: the run has not finished, or its arm failed"
        raise LlmcfError(what, code="not-made", where="bundle", hint="llmcf run RECIPE")
    folder = Path(comparison.served.bundle)
    for file in _files(folder):
        placed[f"{BUNDLE}/{file.relative_to(folder).as_posix()}"] = ("bundle", file)
    return ["the bundle contains users' ids and, unless serve.histories is false, their latest events"]
