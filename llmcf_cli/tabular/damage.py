"""What keeps a text file from being read, found by looking at its bytes, in words that say what to change."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from llmcf_cli.tabular.unpack import opened

LONGEST = 2_000_000
"""Bytes of a line past which DuckDB gives up."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LINE_ENDS = "line ends"
_CONTROL = re.compile(rb"[\x80-\x9f]")
_ENDS = {"LF": r"\n", "CRLF": r"\r\n"}


@dataclass(frozen=True)
class Damage:
    """The first thing in a file that no reader gets past.

    Attributes:
        what: What it is.
        line: Where, from 1.
        hint: What to do about it; empty where that is to name another encoding.
        kind: `LINE_ENDS` for that, else empty.
    """

    what: str
    line: int
    hint: str = ""
    kind: str = ""


def find_damage(path: Path, encoding: str) -> Damage | None:
    """Look for another encoding, bytes that are no text, lines that end unlike the first, and endless lines.

    Reads the file a line at a time, to the end if nothing is wrong; call it when a reader has failed.

    Args:
        path: The file; `.gz` and `.zst` are unpacked.
        encoding: What it is read as. In `utf-16` only its beginning is looked at.

    Raises:
        OSError, EOFError, zlib.error: The file cannot be read or unpacked at all.
    """
    first_end = ""
    with opened(path) as handle:
        for number, line in enumerate(iter(lambda: handle.readline(LONGEST + 1), b""), 1):
            found = _wide(line, encoding) if number == 1 else None
            if found or encoding.startswith("utf-16"):
                return found
            found = _in_line(line, number, encoding)
            if found:
                return found
            end = _end_of(line)
            first_end = first_end or end
            if end and end != first_end:
                return Damage(
                    f"lines end in {_ENDS[first_end]} up to here and in {_ENDS[end]} from here on", number,
                    f"use the same line ending throughout, e.g. sed -i 's/\\r$//' {path}", LINE_ENDS,
                )  # fmt: skip
    return None


def _wide(line: bytes, encoding: str) -> Damage | None:
    """Whether the first line is of UTF-16 and should not be, or the other way round."""
    looks = line.startswith(_UTF16)
    if encoding.startswith("utf-16"):
        return None if looks or b"\0" in line else Damage(f"is not {encoding}", 1)
    return Damage(f"is utf-16, not {encoding}", 1) if looks else None


def _in_line(line: bytes, number: int, encoding: str) -> Damage | None:
    if len(line) > LONGEST:
        return Damage(f"has a line of more than {LONGEST:,} bytes", number, "check line endings and quotes")
    if b"\0" in line:
        return Damage("has NUL bytes, so it is not text, or is UTF-16", number)
    try:
        line.decode(encoding)
    except UnicodeDecodeError as error:
        return Damage(f"is not {encoding}: the byte 0x{line[error.start]:02x} is not a character in it", number)
    control = _CONTROL.search(line) if encoding == "latin-1" else None
    if control:
        what = f"is not latin-1: the byte 0x{control[0][0]:02x} is a control character in it"
        return Damage(what, number)
    return None


def _end_of(line: bytes) -> str:
    """How a line ends; empty for a last line without an end."""
    if line.endswith(b"\n"):
        return "CRLF" if line.endswith(b"\r\n") else "LF"
    return ""
