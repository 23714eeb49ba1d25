"""Parcels in a container registry: `oci://HOST/NAME@sha256:DIGEST`.

Each file is a blob under its own digest, a large one several, so what is there is never sent again: registries do not
take up a blob in the middle. The parcel is one manifest, whose digest is the address; blobs have their path as title,
as ORAS has it. Loopback is asked over http.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from llmcf_cli.core.errors import AssetError, DataError, LlmcfError
from llmcf_cli.core.progress import SILENT, Progress, Task
from llmcf_cli.store.catalogue import Asset, AssetFile
from llmcf_cli.store.fetch import Fetcher, copy_verified
from llmcf_cli.store.oci import FILE_TYPE, FORM, MANIFEST_TYPE, Place, Registry
from llmcf_cli.store.parcel import MANIFEST, MAX_MANIFEST, read_parcel_manifest
from llmcf_cli.store.parcel_source import Source, explained

PIECE = 32 << 20
"""Bytes of a blob: what a kill costs at most."""
_ARTIFACT_TYPE = "application/vnd.llmcf.parcel.v1"
_TITLE = "org.opencontainers.image.title"
_EMPTY = b"{}"
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Sending:
    """What a push would send.

    Attributes:
        place: Where to.
        files: Different files, and parts of large ones, that the registry lacks.
        bytes: Of these.
        there: Those that it has.
        variable: Environment variable whose key the registry gets; None: none.
    """

    place: Place
    files: int
    bytes: int
    there: int
    variable: str | None


class RegistrySource(Source):
    """A parcel in a registry. What was brought of an interrupted file is kept, and the file gone on with.

    Args:
        place: With a digest.
        work: Folder for what is under way.

    Raises:
        AccessError: The registry is of this machine's network and not allowed, or wants a key.
        AssetError: It cannot be reached, or has no such parcel.
        DataError: What it gives has another digest, or is no parcel.
    """

    resumes = True

    def __init__(self, place: Place, work: Path) -> None:
        if place.digest is None:
            raise LlmcfError("no digest, so its content could be anything",
                             code="parcel-unpinned", where=str(place),
                             allowed=(FORM,), hint="ask whoever shares it: `llmcf recipe push` prints the whole "
                             "address")  # fmt: skip
        self._registry, self._work = Registry(place), work
        with explained(MANIFEST, str(place)):
            content = self._registry.small(f"manifests/sha256:{place.digest}", MAX_MANIFEST, MANIFEST_TYPE)
            _check_digest(content, place.digest, str(place))
            blobs = _blobs(content, place)
            if len(of := blobs.get(MANIFEST, [])) != 1:
                raise _no_parcel(place)
            listed = self._registry.small(f"blobs/sha256:{of[0][0]}", MAX_MANIFEST)
            _check_digest(listed, of[0][0], f"{place}: {MANIFEST}")
        super().__init__(read_parcel_manifest(listed, str(place)), str(place))
        self._blobs = blobs
        for path, file in self.manifest.files.items():
            if sum(size for _, size in blobs.get(path, [])) != file.size or not blobs.get(path):
                raise DataError("differs in the registry from the parcel's manifest", code="parcel-changed", where=path)

    def fetch(self, path: str, target: Path, task: Task) -> None:
        self._work.mkdir(parents=True, exist_ok=True)
        parts = [self._work / f"{digest}.blob" for digest, _ in self._blobs[path]]
        with explained(path, self.name):
            for (digest, size), part in zip(self._blobs[path], parts, strict=True):
                self._bring(digest, size, part, task)
            with SILENT.task("join", None, "B") as quiet, io.BufferedReader(_Joined(parts)) as stream:
                copy_verified(stream, self.listed(path, f"file:{parts[0]}"), target, quiet)
        for part in parts:
            part.unlink(missing_ok=True)

    def _bring(self, digest: str, size: int, part: Path, task: Task) -> None:
        if part.is_file():  # whole: it was checked before it got this name
            task.advance(size)
            return
        url = self._registry.url(f"blobs/sha256:{digest}")
        if not self._registry.has(f"blobs/sha256:{digest}"):  # and asks for another pass where the last has run out
            raise AssetError("not in the registry", code="asset-unfetchable", where=part.name)
        file = AssetFile(path=part.name, source=url, sha256=digest, size=size)
        parcel = Asset(name="parcel", kind="dataset", description="", licence="", files=(file,))
        Fetcher(parcel, self._work, SILENT, task, self._registry.headers).fetch(file, part)


class _Joined(io.RawIOBase):
    """Files read as one after the other."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._left = [*files]
        self._open: IO[bytes] | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._open is None:
                if not self._left:
                    return 0
                self._open = self._left.pop(0).open("rb")
            if count := self._open.readinto(buffer):  # type: ignore[attr-defined]
                return int(count)
            self._open.close()
            self._open = None

    def close(self) -> None:
        if self._open is not None:
            self._open.close()
        super().close()


def look_where(source: Source, address: str) -> Sending:
    """What a push would send, and where; nothing is sent yet but questions.

    Raises:
        AccessError: The user has not allowed that anything is sent there.
        AssetError: The registry cannot be reached.
    """
    place = Place.of(address)
    registry = Registry(place, writes=True)
    there: dict[str, bool] = {}
    sizes: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as work, explained(MANIFEST, str(place)):
        for path in source.manifest.files:
            for piece in _pieces(source, path, Path(work) / "file"):
                sizes[piece.digest] = piece.size
                if piece.digest not in there:
                    there[piece.digest] = registry.has(f"blobs/sha256:{piece.digest}")
    lacking = [digest for digest, is_there in there.items() if not is_there]
    return Sending(
        place, len(lacking), sum(sizes[one] for one in lacking), len(there) - len(lacking), registry.variable
    )


def push(source: Source, address: str, progress: Progress) -> Place:
    """Put a parcel into a registry; what is there is not sent again.

    Returns:
        Its place, by digest.

    Raises:
        AccessError: The user has not allowed that anything is sent there, or the registry refuses it.
        AssetError: The registry cannot be reached, or takes no parcels.
        DataError: A file of the parcel is not as it should be.
    """
    place = Place.of(address)
    registry = Registry(place, writes=True)
    source.check()
    manifest = source.manifest
    with tempfile.TemporaryDirectory() as folder, progress.task("push", manifest.size, "B") as task:
        work = Path(folder) / "file"
        layers = []
        for path in manifest.files:
            with explained(path, str(place)):
                pieces = _pieces(source, path, work)
                lacking = [one for one in pieces if not registry.has(f"blobs/sha256:{one.digest}")]
                if lacking and len(pieces) == 1:
                    _read(source, path, work)
                for one in pieces:
                    if one in lacking:
                        registry.send(one.digest, one.of(work))
                        task.advance(one.size)
                    else:
                        task.skip(one.size)
            layers += [_layer(path, one.digest, one.size) for one in pieces]
        with explained(MANIFEST, str(place)):
            listing = manifest.text().encode()
            for content in (listing, _EMPTY):
                registry.send(hashlib.sha256(content).hexdigest(), content)
            layers.insert(0, _layer(MANIFEST, hashlib.sha256(listing).hexdigest(), len(listing)))
            said = {"title": manifest.name, "description": manifest.description, "licenses": manifest.licence}
            whole = json.dumps({
                "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": _ARTIFACT_TYPE,
                "config": {"mediaType": "application/vnd.oci.empty.v1+json", "size": len(_EMPTY),
                           "digest": f"sha256:{hashlib.sha256(_EMPTY).hexdigest()}"},
                "layers": layers,
                "annotations": {f"org.opencontainers.image.{key}": value for key, value in said.items() if value},
            }, sort_keys=True).encode()  # fmt: skip
            registry.put_manifest(whole, f"llmcf-{manifest.digest[:16]}")
    return Place(place.host, place.name, hashlib.sha256(whole).hexdigest())


@dataclass(frozen=True)
class _Piece:
    """A part of a file that is one blob.

    Attributes:
        digest: SHA-256.
        start: Its first byte in the file.
        size: Its bytes.
    """

    digest: str
    start: int
    size: int

    def of(self, file: Path) -> bytes:
        """Its bytes, of the whole file."""
        with file.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.size)


def _pieces(source: Source, path: str, work: Path) -> list[_Piece]:
    """The blobs of a file; one that has several is at `work` after that."""
    file = source.manifest.files[path]
    if file.size <= PIECE:
        return [_Piece(file.sha256, 0, file.size)]
    _read(source, path, work)
    found: list[_Piece] = []
    with work.open("rb") as stream:
        while content := stream.read(PIECE):
            found.append(_Piece(hashlib.sha256(content).hexdigest(), sum(one.size for one in found), len(content)))
    return found


def _read(source: Source, path: str, work: Path) -> None:
    with SILENT.task("read", None, "B") as quiet:
        source.fetch(path, work, quiet)


def _layer(path: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": FILE_TYPE, "digest": f"sha256:{digest}", "size": size, "annotations": {_TITLE: path}}


def _blobs(content: bytes, place: Place) -> dict[str, list[tuple[str, int]]]:
    """Path → digest and size of its blobs, in order, of a registry's manifest."""
    found: dict[str, list[tuple[str, int]]] = {}
    try:
        for layer in json.loads(content)["layers"]:
            digest, size = _SHA256.fullmatch(layer["digest"]), layer["size"]
            if digest is None or type(size) is not int or size < 0:
                raise _no_parcel(place)
            found.setdefault(str(layer["annotations"][_TITLE]), []).append((digest[1], size))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _no_parcel(place) from error
    return found


def _no_parcel(place: Place) -> DataError:
    return DataError(
        "not a parcel", code="parcel-invalid", where=str(place), hint="publish one with: llmcf recipe push"
    )


def _check_digest(content: bytes, digest: str, where: str) -> None:
    if hashlib.sha256(content).hexdigest() != digest:
        raise DataError("does not match its digest", code="parcel-changed", where=where)
