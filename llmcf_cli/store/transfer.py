"""Parcels from a server: an exported folder that any static server shows, named by the digest of its manifest."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

from llmcf_cli.core.errors import AssetError, DataError, LlmcfError
from llmcf_cli.core.hashing import CHUNK_BYTES
from llmcf_cli.core.progress import SILENT, Task
from llmcf_cli.store.catalogue import Asset
from llmcf_cli.store.fetch import HTTP_TIMEOUT, Fetcher, check_source
from llmcf_cli.store.hub import FORM as HUB_FORM
from llmcf_cli.store.hub import SCHEME as HUB_SCHEME
from llmcf_cli.store.hub import HubSource
from llmcf_cli.store.oci import FORM, SCHEME, Place
from llmcf_cli.store.parcel import MANIFEST, MAX_MANIFEST, read_parcel_manifest
from llmcf_cli.store.parcel_source import Source, explained, open_parcel
from llmcf_cli.store.registry import RegistrySource

_FORMS = ("https://HOST/FOLDER#sha256=DIGEST", "FOLDER#sha256=DIGEST", FORM, HUB_FORM)
_PINNED = re.compile(r"(?P<place>[^#]+)#sha256=(?P<digest>[0-9a-f]{64})")


class WebSource(Source):
    """A parcel that a server shows. What was brought of an interrupted file is kept, and the file gone on with.

    Args:
        address: `https://…`, of the folder.
        digest: SHA-256 of its manifest.
        work: Folder for what is under way.

    Raises:
        AccessError: The address, or one that it redirects to, is of this machine's network and not allowed.
        AssetError: The server cannot be reached.
        DataError: The manifest is another than is asked for.
    """

    resumes = True

    def __init__(self, address: str, digest: str, work: Path) -> None:
        self._address, self._work = address.rstrip("/"), work
        with explained(MANIFEST, address):
            content = small_file(f"{self._address}/{MANIFEST}", MAX_MANIFEST)
        super().__init__(read_parcel_manifest(content, address), address)
        check_pin(self, digest)

    def fetch(self, path: str, target: Path, task: Task) -> None:
        file = self.listed(path, f"{self._address}/{quote(path)}")
        self._work.mkdir(parents=True, exist_ok=True)
        parcel = Asset(name="parcel", kind="dataset", description="", licence="", files=(file,))
        with explained(path, self.name):
            Fetcher(parcel, self._work, SILENT, task).fetch(file, target)


def open_address(address: str, work: Path) -> Source:
    """The parcel of an address: of a server or folder with `#sha256=DIGEST`, of a hub with the commit, too, or `oci://…`.

    Args:
        address: With the digest of the manifest, which `recipe export` and `recipe push` print.
        work: Folder for downloads under way.

    Raises:
        LlmcfError: The address has no digest, or is of no kind that is known.
        DataError: The parcel there is another one.
    """
    if address.startswith(SCHEME):
        return RegistrySource(Place.of(address), work)
    found = _PINNED.fullmatch(address)
    if found is None:
        raise LlmcfError("no digest, so its content could be anything", code="parcel-unpinned", where=address,
                         allowed=_FORMS,
                         hint="ask whoever shares it: `llmcf recipe push` prints the whole address")  # fmt: skip
    place, digest = found["place"], found["digest"]
    if place.startswith(HUB_SCHEME):
        source: Source = HubSource(place, work)
        check_pin(source, digest)
        return source
    if place.startswith("https://"):
        return WebSource(place, digest, work)
    if "://" in place:
        raise LlmcfError("not an address that parcels can be pulled from", code="parcel-unpinned", where=address,
                         allowed=_FORMS)  # fmt: skip
    source = open_parcel(Path(place))
    check_pin(source, digest)
    return source


def check_pin(source: Source, digest: str) -> None:
    """Check that a parcel is the one that is meant.

    Raises:
        DataError: It is another one.
    """
    if source.manifest.digest != digest:
        raise DataError(f"contains the parcel {source.manifest.digest}, not {digest}",
                        code="parcel-other", where=source.name,
                        hint="ask for the address again; the parcel may have been replaced")  # fmt: skip


def small_file(address: str, most: int) -> bytes:
    """A small file of a server; of a larger one, somewhat more than `most` bytes.

    Raises:
        AccessError: The address, or one that it redirects to, is of this machine's network and not allowed.
        AssetError: It cannot be had.
    """
    import httpx2

    hooks = {"request": [lambda request: check_source(str(request.url))]}
    content = b""
    try:
        with (
            httpx2.Client(timeout=HTTP_TIMEOUT, follow_redirects=True, event_hooks=hooks) as client,
            client.stream("GET", address, headers={"Accept-Encoding": "identity"}) as reply,
        ):
            reply.raise_for_status()
            for chunk in reply.iter_raw(CHUNK_BYTES):
                content += chunk
                if len(content) > most:
                    break
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise AssetError(f"{address} cannot be fetched: {error}", code="asset-unfetchable") from error
    return content
