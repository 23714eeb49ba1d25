"""An HTTP client for a server that need not mean well: no answer is longer, or takes longer, than it may.

Timeouts of HTTP libraries are for one read from the network; a server that sends a byte a second, or headers without
end, never meets one. So bytes and seconds are counted where they are read, below the library.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpcore2
import httpx2
from openai import DefaultHttpxClient

MOST_BYTES = 16 << 20
"""Of an answer, headers included; the longest texts that models write have a tenth of it."""


class TooLongError(httpcore2.ReadError):
    """An answer has more bytes than are read."""


class PackedError(httpx2.DecodingError):
    """An answer is packed, though it was asked for plain: a few bytes may stand for gigabytes."""


class _Stream(httpcore2.NetworkStream):
    """A connection that counts what is read since something was last written to it."""

    def __init__(self, stream: httpcore2.NetworkStream, seconds: float) -> None:
        self._stream, self._seconds = stream, seconds
        self._read, self._end = 0, time.monotonic() + seconds

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = self._end - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout(f"no whole answer within {self._seconds:g} s")
        found = self._stream.read(max_bytes, left if timeout is None else min(left, timeout))
        self._read += len(found)
        if self._read > MOST_BYTES:
            raise TooLongError(f"an answer of more than {MOST_BYTES:,} bytes")
        return found

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, timeout)
        self._read, self._end = 0, time.monotonic() + self._seconds

    def close(self) -> None:
        self._stream.close()

    def start_tls(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _Stream(self._stream.start_tls(*args, **options), self._seconds)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore2.NetworkBackend):
    def __init__(self, backend: httpcore2.NetworkBackend, seconds: float) -> None:
        self._backend, self._seconds = backend, seconds

    def connect_tcp(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _Stream(self._backend.connect_tcp(*args, **options), self._seconds)

    def connect_unix_socket(self, *args: Any, **options: Any) -> httpcore2.NetworkStream:
        return _Stream(self._backend.connect_unix_socket(*args, **options), self._seconds)

    def sleep(self, seconds: float) -> None:
        self._backend.sleep(seconds)


def bounded_client(seconds: float, before: Callable[[], None]) -> httpx2.Client:
    """A client that follows no redirect, unpacks nothing, and reads `MOST_BYTES` and `seconds` of an answer at most.

    Args:
        seconds: From the last byte that is sent to the last that is received.
        before: Called before every request, those that are made again included.
    """
    client: httpx2.Client = DefaultHttpxClient(
        event_hooks={"request": [lambda request: before()], "response": [_refuse_packed]}, follow_redirects=False,
        headers={"Accept-Encoding": "identity"},
    )  # fmt: skip
    # The library has no public way to a client with the proxies of the environment and a network of one's own.
    for transport in (client._transport, *client._mounts.values()):
        pool = getattr(transport, "_pool", None)
        if pool is not None:
            pool._network_backend = _Backend(pool._network_backend, seconds)
    return client


def is_too_long(error: BaseException | None) -> bool:
    """Whether an error comes of an answer that is too long to be read, or packed."""
    while error is not None:
        if isinstance(error, TooLongError | PackedError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _refuse_packed(response: httpx2.Response) -> None:
    if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        response.close()
        packing = response.headers["content-encoding"]
        raise PackedError(f"an answer packed by {packing:.40}, which was not asked for", request=response.request)
