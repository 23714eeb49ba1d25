"""Content digests: the names by which results are found again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from llmcf_cli.core.files import kind_of

CHUNK_BYTES = 1 << 20


def digest_json(data: Any) -> str:
    """SHA-256 (hex) of plain JSON data in canonical form: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: A float is NaN or infinite.
        TypeError: Something in `data` is not JSON.
    """
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_text(text: str) -> str:
    """SHA-256 (hex) of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in blocks of 1 MiB."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def digest_path(path: Path) -> str:
    """SHA-256 of a file, or of a folder's sorted (relative path, file digest) pairs.

    Raises:
        DataError: It is, or holds, something that is neither file nor folder.
    """
    if kind_of(path) == "file":
        return digest_file(path)
    files = sorted(p for p in path.rglob("*") if kind_of(p) == "file")
    return digest_json([[p.relative_to(path).as_posix(), digest_file(p)] for p in files])
