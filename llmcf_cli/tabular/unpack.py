"""The bytes of files, packed or not."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from llmcf_cli.core.errors import DataError

PACKED = (".gz", ".zst")
"""Endings of packed files, which are unpacked as they are read."""
BROKEN = (OSError, EOFError, zlib.error)
"""What reading a file may raise that is damaged or gone."""


MOST_FREE = 1 << 26
"""Bytes that any packed file may have when it is unpacked."""
MOST_TIMES = 200
"""Times its own size that a larger one may have then; tables have 3 to 50."""
LONGEST_LINE = 1 << 24
"""Bytes of a line past which a table is no text; DuckDB leaves lines past twice that out without a word."""
MAX_BLANK_LINES = 100_000
"""One after the other, past which nothing is looked for behind them."""
_CHUNK = 1 << 20


class _Bounded(io.RawIOBase):
    """Unpacked bytes, no more of them than a packed file of that size should have."""

    def __init__(self, stream: Any, path: Path) -> None:
        self._stream, self._path, self._read = stream, path, 0
        self._most = max(MOST_FREE, MOST_TIMES * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self._stream.read(len(buffer))
        self._read += len(found)
        if self._read > self._most:
            what = f"unpacks to more than {MOST_TIMES} times its size"
            raise DataError(
                what, code="unpack-limit", where=str(self._path), hint="if that is expected, unpack it first"
            )
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._stream.close()
        super().close()


def check_packed(path: Path) -> None:
    """Look at a packed file as a whole, before the work of reading what is in it begins.

    Raises:
        DataError: It unpacks to far more than files do.
        OSError, EOFError, zlib.error: It cannot be read or unpacked.
    """
    if path.suffix in PACKED:
        with opened(path) as handle:
            while handle.read(_CHUNK):
                pass


def check_text(path: Path) -> None:
    """Look at a file that a library reads by itself: it must not unpack without end, nor have endless lines.

    Raises:
        DataError: It does.
        OSError, EOFError, zlib.error: It cannot be read or unpacked.
    """
    if path.suffix not in PACKED and path.stat().st_size <= LONGEST_LINE:
        return
    run = 0
    with opened(path) as handle:
        while chunk := handle.read(_CHUNK):
            end = max(chunk.rfind(b"\n"), chunk.rfind(b"\r"))
            run = run + len(chunk) if end < 0 else len(chunk) - end
            if run > LONGEST_LINE:
                what = f"has a line of more than {LONGEST_LINE:,} bytes"
                raise DataError(what, code="line-limit", where=str(path), hint="check the file's line endings")


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked.

    Raises:
        DataError: While reading: it unpacks to far more than files do.
        OSError, EOFError, zlib.error: Now or while reading: the file cannot be read or unpacked.
    """
    if path.suffix == ".gz":
        return io.BufferedReader(_Bounded(gzip.open(path), path), _CHUNK)
    if path.suffix == ".zst":
        import pyarrow as pa

        packed = pa.PythonFile(pa.CompressedInputStream(str(path), "zstd"), mode="r")
        return io.BufferedReader(_Bounded(packed, path), _CHUNK)
    return path.open("rb")


def plain_suffix(path: Path) -> str:
    """A file's ending without that of its packing, in lower case: `.csv` of `a.CSV.gz`."""
    return Path(path.stem if path.suffix in PACKED else path.name).suffix.lower()
