"""The bytes of files, packed or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO

PACKED = (".gz", ".zst")
"""Endings of packed files, which are unpacked as they are read."""
BROKEN = (OSError, EOFError, zlib.error)
"""What reading a file may raise that is damaged or gone."""


def opened(path: Path) -> BinaryIO:
    """The bytes of a file, unpacked.

    Raises:
        OSError, EOFError, zlib.error: Now or while reading: the file cannot be read or unpacked.
    """
    if path.suffix == ".gz":
        return gzip.open(path)  # type: ignore[return-value]
    if path.suffix == ".zst":
        import io

        import pyarrow as pa

        packed = pa.PythonFile(pa.CompressedInputStream(str(path), "zstd"), mode="r")
        return io.BufferedReader(packed)
    return path.open("rb")


def plain_suffix(path: Path) -> str:
    """A file's ending without that of its packing, in lower case: `.csv` of `a.CSV.gz`."""
    return Path(path.stem if path.suffix in PACKED else path.name).suffix.lower()
