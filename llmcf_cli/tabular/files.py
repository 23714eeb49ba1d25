"""Files as they come: exact paths, packed or not, in some encoding, and what is said when they cannot be read."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.core.place import Place
from llmcf_cli.tabular.damage import find_damage
from llmcf_cli.tabular.unpack import BROKEN, opened

ENCODINGS = (
    "utf-8", "latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "iso8859-2", "iso8859-15", "cp1250", "cp1251",
    "cp1253", "cp1254", "cp437", "cp850", "koi8-r", "mac-roman", "gb18030", "big5", "shift_jis", "euc-jp", "euc-kr",
)  # fmt: skip
"""Encodings of text files, by Python's names."""
_KIND = re.compile(r"^[A-Z][A-Za-z -]* Error: ")


def exactly(path: Path) -> str:
    """A path for DuckDB, which takes it for that file alone, whatever characters it has."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


@contextmanager
def scratch_folder(con: Any) -> Iterator[Path]:
    """A folder that is gone afterwards, on the disk of the connection's database."""
    database = con.execute("SELECT path FROM duckdb_databases() WHERE database_name = current_database()").fetchone()
    beside = Path(database[0]).parent if database and database[0] else None
    with tempfile.TemporaryDirectory(dir=beside, prefix=".read-") as folder:
        yield Path(folder)


def require_file(path: Path, role: str, hint: str) -> Path:
    """`path`, if there is something.

    Raises:
        DataError: There is not; names the files beside it.
    """
    if path.exists():
        return path
    beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = closest(path.name, beside)
    suggestion = f'; did you mean "{near}"?' if near else ""
    raise DataError(
        f"the {role} file does not exist{suggestion}",
        code="path-missing",
        where=str(path),
        allowed=beside[:20],
        hint=hint,
    )


def first_sentence(error: Exception) -> str:
    """The first line of an error's message, without the name that DuckDB gives its kind."""
    message = str(error).strip()
    return _KIND.sub("", message.splitlines()[0]) if message else type(error).__name__


def unreadable(path: Path | str, error: Exception) -> DataError:
    """The error of a file that is damaged or not what it should be."""
    what = f"cannot be read: {first_sentence(error)}"
    return DataError(what, code="file-unreadable", where=str(path), hint="fetch the file again, or correct its format")


def unreadable_text(path: Path, error: Exception, encoding: str, setting: str) -> DataError:
    """The error of a text file, which is looked at for the cause.

    Args:
        path: The file.
        error: What its reader said.
        encoding: What it was read as.
        setting: The recipe's setting of the encoding; empty: there is none.
    """
    try:
        found = find_damage(path, encoding)
    except BROKEN:  # what the reader said is all there is
        found = None
    if found is None:
        return unreadable(path, error)
    hint = found.hint or encoding_hint(path, encoding, setting)
    reader = "" if isinstance(error, UnicodeError) else f" ({first_sentence(error)})"
    return DataError(
        f"{found.what}{reader}", code="lines-damaged", where=Place(file=str(path), line=found.line), hint=hint
    )


def encoding_hint(path: Path, encoding: str, setting: str) -> str:
    """What to do about a file that is not in an encoding: names one that all its bytes are in."""
    if not setting:
        return "save the file as UTF-8"
    other = next((e for e in encodings_of(path, _LIKELY) if e != encoding), None)
    return f"set {setting}: {other}" if other else f"set {setting} to the file's encoding, or save the file as UTF-8"


_LIKELY = ("utf-8", "cp1252", "latin-1")
_WIDE = ("utf-16", "utf-16-le", "utf-16-be")


def encodings_of(path: Path, among: Sequence[str] = ENCODINGS) -> tuple[str, ...]:
    """The encodings in which all bytes of a file have a meaning, in order; one alone where the file begins with a mark
    of UTF-16, or is UTF-8."""
    with opened(path) as handle:
        if handle.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            return ("utf-16",)
    if _is_in(path, "utf-8"):
        return ("utf-8",)
    return tuple(e for e in among if e not in ("utf-8", *_WIDE) and _is_in(path, e))


def _is_in(path: Path, encoding: str) -> bool:
    import codecs

    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with opened(path) as handle:
            while chunk := handle.read(1 << 20):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except (*BROKEN, UnicodeError):
        return False
    return True


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn DuckDB's errors while it reads `path` into a `DataError`; running out of memory stays what it is."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise unreadable(path, error) from error
