"""A container registry, asked by the OCI distribution API. It gets a key only if the user allowed that."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin

from llmcf_cli.core.errors import AccessError, AssetError, LlmcfError
from llmcf_cli.core.permissions import Host, Permissions
from llmcf_cli.store.fetch import HTTP_TIMEOUT, check_source

SCHEME = "oci://"
FORM = "oci://HOST/NAME@sha256:DIGEST"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
FILE_TYPE = "application/octet-stream"
_ADDRESS = re.compile(
    r"oci://(?P<host>[^/@]+)/(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_MAX_REPLY = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where a parcel is in a registry, or is to be.

    Attributes:
        host: The registry.
        name: Of the repository.
        digest: SHA-256 of the registry's manifest; None: none is named.
    """

    host: Host
    name: str
    digest: str | None = None

    @classmethod
    def of(cls, address: str) -> Place:
        """The place of an address.

        Raises:
            LlmcfError: It is none.
        """
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise LlmcfError("not an address in a registry", code="parcel-unpinned", where=address, allowed=(FORM,))
        return cls(Host.of(found["host"]), found["name"], found["digest"])

    def __str__(self) -> str:
        shown = str(self.host).partition("://")[2]
        return f"{SCHEME}{shown}/{self.name}" + (f"@sha256:{self.digest}" if self.digest else "")


class Registry:
    """One repository of a registry.

    Args:
        place: The repository.
        writes: Whether to send data there, which the user must have allowed.
    """

    def __init__(self, place: Place, *, writes: bool = False) -> None:
        self._place, self._scope = place, "pull,push" if writes else "pull"
        self._base = f"{place.host}/v2/{place.name}/"
        allowed = Permissions().hosts()
        if writes and place.host not in allowed:
            raise AccessError("you have not allowed sending parcels to this host", code="host-refused",
                              where=str(place.host), hint=f"if you trust it: llmcf keys allow {place.host} --env "
                              "VARIABLE_WITH_USER:PASSWORD, or --no-key")  # fmt: skip
        self.variable, self._key = Permissions().key_for(str(place.host)) if place.host in allowed else (None, "")
        self.headers: dict[str, str] = {}

    def url(self, path: str) -> str:
        """The whole address of a path below the repository."""
        return self._base + path

    def has(self, path: str) -> bool:
        """Whether there is a blob or manifest."""
        return bool(self._ask("HEAD", self.url(path), allowed=(200, 404)).status_code == 200)

    def small(self, path: str, most: int, kind: str = "*/*") -> bytes:
        """A small blob or manifest; of a larger one, somewhat more than `most` bytes."""
        return bytes(self._ask("GET", self.url(path), headers={"Accept": kind}, most=most).content)

    def send(self, digest: str, content: bytes) -> None:
        """Send a blob."""
        begun = self._ask("POST", self.url("blobs/uploads/"), content=b"", allowed=(202,))
        at = self._next(begun, self.url(""))
        at = f"{at}{'&' if '?' in at else '?'}digest=sha256:{digest}"
        self._ask("PUT", at, headers={"Content-Type": FILE_TYPE}, content=content, allowed=(201, 204))

    def put_manifest(self, content: bytes, tag: str) -> None:
        """Store a manifest under its digest and a tag, which keeps it from being cleaned away."""
        headers = {"Content-Type": MANIFEST_TYPE}
        self._ask("PUT", self.url(f"manifests/{tag}"), headers=headers, content=content, allowed=(201,))

    def _next(self, reply: Any, before: str) -> str:
        """Where a reply says to go on: at the registry, or at another host that the user allowed."""
        at = urljoin(before, str(reply.headers.get("Location", before)))
        host = Host.of(at)
        if host != self._place.host and host not in Permissions().hosts():
            raise AccessError(f"{self._place.host} redirects the upload to this host", code="host-refused",
                              where=str(host), hint=f"if you trust it: llmcf keys allow {host} --no-key")  # fmt: skip
        return at

    def _ask(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None,
        allowed: tuple[int, ...] = (200,), most: int = _MAX_REPLY,
    ) -> Any:  # fmt: skip
        """A reply, of a status that is allowed; a pass is got where the registry asks for one."""
        for again in (False, True):
            with self._told(url), _client() as client:
                passed = self.headers if Host.of(url) == self._place.host else {}
                reply = _small_reply(client, method, url, {**(headers or {}), **passed}, content, most)
            if reply.status_code == 401 and not again:
                self._get_pass(reply.headers.get("WWW-Authenticate", ""))
                continue
            break
        if reply.status_code in allowed:
            return reply
        said = " ".join(reply.content[:300].decode("utf-8", "replace").split())
        if reply.status_code in (401, 403):
            raise AccessError(
                f"the registry refuses: {said}", code="host-refused", where=str(self._place),
                hint=f"llmcf keys allow {self._place.host} --env VARIABLE_WITH_USER:PASSWORD",
            )  # fmt: skip
        raise AssetError(f"{method} {url} failed with status {reply.status_code}: {said}", code="asset-unfetchable",
                         where=str(self._place))  # fmt: skip

    def _get_pass(self, challenge: str) -> None:
        """What a registry wants to see: the user's key, or a token that its own server gives for it."""
        kind, _, rest = challenge.partition(" ")
        basic = {"Authorization": f"Basic {base64.b64encode(self._key.encode()).decode()}"} if self._key else {}
        if kind.lower() == "basic":
            self.headers = basic
        elif kind.lower() == "bearer":
            said = dict(_PARAMETER.findall(rest))
            realm = said.get("realm", "")
            check_source(realm)
            # The key goes to no other host than the user allowed it for.
            shown = basic if Host.of(realm) == self._place.host or Host.of(realm) in Permissions().hosts() else {}
            wanted = {"service": said.get("service", ""), "scope": f"repository:{self._place.name}:{self._scope}"}
            with self._told(realm), _client() as client:
                reply = client.get(realm, params=wanted, headers=shown)
                found = reply.json() if reply.status_code == 200 else {}
            token = found.get("token") or found.get("access_token") if isinstance(found, dict) else None
            self.headers = {"Authorization": f"Bearer {token}"} if isinstance(token, str) else {}

    @contextmanager
    def _told(self, url: str) -> Iterator[None]:
        import httpx2

        try:
            yield
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            raise AssetError(f"{url} cannot be reached: {error}", code="asset-unfetchable", where=str(self._place),
                             hint="check the connection, then run the same command to "
                             "resume") from error  # fmt: skip


def _client() -> Any:
    """A client that asks no host which the user would have to allow first, redirects included."""
    import httpx2

    hooks = {"request": [lambda request: check_source(str(request.url))]}
    return httpx2.Client(timeout=HTTP_TIMEOUT, follow_redirects=True, event_hooks=hooks)


def _small_reply(
    client: Any, method: str, url: str, headers: Mapping[str, str], content: bytes | None, most: int
) -> Any:
    """A reply whose body is read no further than somewhat more than `most` bytes."""
    import httpx2

    with client.stream(method, url, headers={"Accept-Encoding": "identity", **headers}, content=content) as reply:
        body = b""
        for chunk in reply.iter_raw(1 << 16):
            body += chunk
            if len(body) > most:
                break
        return httpx2.Response(reply.status_code, headers=reply.headers, content=body)
