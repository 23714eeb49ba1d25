"""How a file is written, found out of the file, and the file read by the readers that ingest uses."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.draft.asking import Decisions, Question
from llmcf_cli.data.sources.config import TableFormat
from llmcf_cli.data.sources.tables import ENDINGS
from llmcf_cli.tabular.csv import DELIMITERS, Dialect, first_line, read_csv
from llmcf_cli.tabular.files import ENCODINGS, encodings_of, require_file
from llmcf_cli.tabular.jsonl import each_record, exact_json, literal_or_json, read_json
from llmcf_cli.tabular.parquet import read_parquet
from llmcf_cli.tabular.sql import columns_of, name, scalar, text
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.unpack import opened, plain_suffix
from llmcf_cli.tabular.values import NUMBER, WHITE

_LINES = 200
"""Lines of a file that are looked at for its delimiter."""
_LONGEST = 1 << 16
_REGULAR = 0.95
"""Share of these lines that have as many columns as the first, by the right delimiter."""
_DATE = r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}.*"
_STRANGE = re.compile(r"\w*[^\x00-\x7f][\w ]*")
_NO_NAME = re.compile(rf"{NUMBER}|{_DATE}")


@dataclass(frozen=True)
class Layout:
    """A file that its publisher describes.

    Attributes:
        source: Where that is.
        names: Its columns.
        delimiter: Between them.
        encoding: Of the file.
    """

    source: str
    names: tuple[str, ...]
    delimiter: str
    encoding: str = "utf-8"


_GENRES = ("unknown", "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama",
           "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War",
           "Western")  # fmt: skip
_EVENT = ("user_id", "item_id", "rating", "timestamp")
LAYOUTS: Mapping[str, Layout] = {
    "u.data": Layout("MovieLens 100K's README", _EVENT, "\t"),
    "u.item": Layout("MovieLens 100K's README",
                     ("item_id", "title", "release_date", "video_release_date", "imdb_url", *_GENRES), "|", "latin-1"),
    "u.user": Layout("MovieLens 100K's README", ("user_id", "age", "gender", "occupation", "zip_code"), "|"),
    "ratings.dat": Layout("MovieLens 1M's README", _EVENT, "::"),
    "movies.dat": Layout("MovieLens 1M's README", ("item_id", "title", "genres"), "::", "latin-1"),
    "users.dat": Layout("MovieLens 1M's README", ("user_id", "gender", "age", "occupation", "zip_code"), "::"),
}  # fmt: skip
"""Files without a line of names whose columns are published → what they are."""


@dataclass(frozen=True)
class File:
    """A file that was read.

    Attributes:
        path: Where it is.
        form: How it is written.
        table: Its rows; every one is read.
        kinds: Column → DuckDB type.
        literal: Whether its lines are Python literals, which only Amazon's metadata of 2014 are.
    """

    path: Path
    form: TableFormat
    table: Table
    kinds: Mapping[str, str]
    literal: bool = False

    @property
    def rows(self) -> str:
        """The relation in SQL."""
        return self.table.relation


def read(con: Any, path: Path, number: int, decisions: Decisions) -> File | None:
    """Find out how a file is written, and read all of it into the relation `file_NUMBER`.

    Args:
        con: DuckDB connection.
        path: The file.
        number: Tells it from the other files.
        decisions: Gets what was found; what is unclear makes it None.

    Raises:
        DataError: The file is missing or cannot be read.
    """
    path, into = require_file(path, "given", "correct the path"), f"file_{number}"
    kind = _format(path)
    if kind == "parquet":
        table = read_parquet(con, path, into)
        decisions.note(path.name, "Parquet", "by its extension" if path.is_file() else "a folder of files")
        return File(path, TableFormat(), table, columns_of(con, table.relation))
    if path.is_dir():
        raise DataError("is a folder", code="path-folder", where=str(path), hint="name the file itself")
    if kind == "jsonl":
        return _read_json(con, path, into, decisions)
    return _read_csv(con, path, into, decisions)


def tables_of(paths: Sequence[Path]) -> list[Path]:
    """The files of some paths: of a folder each table in it, by the endings of names.

    A folder of Parquet files with the same columns stays one: it is a table in parts.

    Raises:
        DataError: A folder has no table.
    """
    found: list[Path] = []
    for path in paths:
        if not path.is_dir():
            found.append(path)
            continue
        inside = [
            file for file in sorted(path.iterdir())
            if file.is_file() and not file.name.startswith(".") and plain_suffix(file) in ENDINGS
        ]  # fmt: skip
        if not inside:
            raise DataError("contains no table", code="path-missing", where=str(path), allowed=tuple(ENDINGS),
                            hint="give the files, or a folder that contains them")  # fmt: skip
        parts = all(plain_suffix(file) == ".parquet" for file in inside) and _alike(inside)
        found += [path] if parts else inside
    return found


def _alike(files: Sequence[Path]) -> bool:
    """Whether Parquet files have the same columns."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return len({tuple(pq.read_schema(file).names) for file in files}) == 1
    except (pa.ArrowException, OSError):
        return False  # whoever reads it says what is wrong


def _format(path: Path) -> str:
    """`csv`, `jsonl` or `parquet`: by the ending, or by how the file begins where that says nothing."""
    ending = "" if path.is_dir() else plain_suffix(path)
    if path.is_dir() or ending == ".parquet":
        return "parquet"
    with opened(path) as handle:
        start = handle.read(256)
    if start.startswith(b"PAR1"):
        return "parquet"
    looks_json = start.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")
    if ending in ENDINGS and ending not in (".txt", ".json"):
        return ENDINGS[ending]
    return "jsonl" if looks_json else "csv"


def _read_json(con: Any, path: Path, into: str, decisions: Decisions) -> File:
    form = TableFormat(format=None if ENDINGS.get(plain_suffix(path)) == "jsonl" else "jsonl")
    literal = _is_literal(path)  # as Amazon's metadata of 2014 is
    table = read_json(con, path, into, parse=literal_or_json if literal else exact_json)
    why = "each line is a Python literal" if literal else "the file begins with an object"
    decisions.note(path.name, "JSON lines", f"{why}; {_counted(con, table)}")
    return File(path, form, table, columns_of(con, table.relation), literal)


def _is_literal(path: Path) -> bool:
    """Whether a line among the first is an object as Python writes it, and not as JSON does."""
    for line, _, problem in islice(each_record(path, exact_json), _LINES):
        if problem is not None:
            return any(n == line and not why for n, _, why in islice(each_record(path, literal_or_json), _LINES))
    return False


def _read_csv(con: Any, path: Path, into: str, decisions: Decisions) -> File | None:
    layout = LAYOUTS.get(path.name)
    encoding = layout.encoding if layout else _encoding(path, decisions)
    if encoding is None:
        return None
    lines = _first_lines(path, encoding)
    delimiter = layout.delimiter if layout else _delimiter(path, lines, decisions)
    if delimiter is None:
        return None
    quote = _quote(lines, delimiter)
    dialect = Dialect(delimiter, quote, encoding)
    cells = first_line(path, dialect).cells
    if layout and len(layout.names) != len(cells):
        raise DataError(
            f"has {len(cells)} columns instead of the {len(layout.names)} of {layout.source}", code="csv-columns",
            where=str(path), hint="rename the file, so that it is read like any other",
        )  # fmt: skip
    names = layout.names if layout else _places(cells)
    table = read_csv(con, path, into, dialect, names or None)
    if not names and (again := _recurring(con, table, cells)):
        told = _named(path, cells, again, decisions)
        if told is None:
            return None
        names = told
        table = read_csv(con, path, into, dialect, names or None)
    usual = "\t" if plain_suffix(path) == ".tsv" else ","
    form = TableFormat(
        format=None if ENDINGS.get(plain_suffix(path)) == "csv" else "csv", names=names, quote=quote,
        encoding=encoding, delimiter=None if delimiter == usual else delimiter,
    )  # fmt: skip
    titles = layout.source if layout else "the first line has values" if names else "the first line names the columns"
    shown = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "a bar"}.get(delimiter, repr(delimiter))
    decisions.note(path.name, f"{shown} between columns, {encoding}", f"{titles}; {_counted(con, table)}")
    return File(path, form, table, columns_of(con, table.relation))


def _counted(con: Any, table: Table) -> str:
    bad = f", {table.bad.count:,} lines cannot be read" if table.bad.count else ""
    return f"{scalar(con, f'SELECT count(*) FROM {table.relation}'):,} rows{bad}"


def _encoding(path: Path, decisions: Decisions) -> str | None:
    """Unicode shows itself. Of the others any may be meant in which all bytes have a meaning: that is asked."""
    fits = encodings_of(path, ("cp1252", *(e for e in ENCODINGS if e != "cp1252")))  # of equals the frequent one
    if fits[:1] in (("utf-8",), ("utf-16",)):
        return fits[0]
    shown: dict[str, str] = {}
    for encoding in fits:
        sample = _first_strange(path, encoding)
        if sample not in shown.values():  # two that read alike are one answer
            shown[encoding] = sample
    given = _by_its_name(decisions.given.get("--encoding"))
    if given in fits:
        return given
    return decisions.settle(Question("--encoding", "is not UTF-8, and several encodings fit", shown, str(path)))


def _by_its_name(given: str | None) -> str | None:
    """An encoding by the name that recipes have for it: `ISO-8859-1` is latin-1, as Python knows."""
    try:
        codec = codecs.lookup(given or "").name
    except (LookupError, ValueError):
        return given
    return next((name for name in ENCODINGS if codecs.lookup(name).name == codec), given)


def _first_strange(path: Path, encoding: str) -> str:
    """The words around the first few characters that encodings differ in."""
    with io.TextIOWrapper(opened(path), encoding=encoding, newline="") as handle:
        found: list[str] = []
        while (line := handle.readline(_LONGEST)) and len(found) < 3:
            found += _STRANGE.findall(line)
    return f"reads {', '.join(map(str.strip, found[:3]))[:60]}"


def _first_lines(path: Path, encoding: str) -> list[str]:
    encoding = "utf-8-sig" if encoding == "utf-8" else encoding
    with io.TextIOWrapper(opened(path), encoding=encoding, errors="replace", newline="") as handle:
        lines = [handle.readline(_LONGEST) for _ in range(_LINES)]
    return [line for line in lines if line.strip(WHITE)]


def _delimiter(path: Path, lines: list[str], decisions: Decisions) -> str | None:
    told = decisions.told("--delimiter")
    if told:
        return {"tab": "\t", "\\t": "\t"}.get(told, told)
    shares: dict[str, float] = {}
    for mark in ("::", *DELIMITERS):
        counts = [len(row) for row in _rows(lines, mark)]
        if counts and counts[0] > 1:
            shares[mark] = counts.count(counts[0]) / len(counts)
    regular = [mark for mark, share in shares.items() if share >= _REGULAR]
    if not shares or len(regular) == 1 or regular[:1] == ["::"]:
        return regular[0] if regular else ","
    if not regular:
        return max(shares, key=lambda mark: shares[mark])  # lines that it does not fit are counted as unreadable
    answers = {"tab" if mark == "\t" else mark: f"{len(next(_rows(lines, mark)))} columns" for mark in regular}
    found = decisions.settle(Question("--delimiter", "may have any of several delimiters", answers, str(path)))
    return None if found is None else {"tab": "\t"}.get(found, found)


def _rows(lines: list[str], mark: str) -> Any:
    if len(mark) > 1:
        return (line.split(mark) for line in lines)
    return csv.reader(lines, delimiter=mark)


def _quote(lines: list[str], delimiter: str) -> str:
    """None if a quote stands within values, and never around one: `7" single`."""
    marked = [cell.strip(WHITE) for line in lines if '"' in line for cell in line.rstrip("\r\n").split(delimiter)]
    return "" if any('"' in cell for cell in marked) and not any(cell.startswith('"') for cell in marked) else '"'


def _places(cells: tuple[str, ...]) -> tuple[str, ...]:
    """Names for the columns of a file whose first line holds values; none if it names them."""
    values = sum(bool(_NO_NAME.fullmatch(cell)) for cell in cells)
    return tuple(f"column_{place}" for place in range(1, len(cells) + 1)) if values else ()


def _recurring(con: Any, table: Table, cells: tuple[str, ...]) -> tuple[str, ...]:
    """Cells of the line of names that are values of their columns, too."""
    columns = [column for column in columns_of(con, table.relation) if column in cells]
    if not columns:
        return ()
    asked = ", ".join(f"count(*) FILTER (trim({name(column)}) = {text(column)})" for column in columns)
    counts = con.execute(f"SELECT {asked} FROM {table.relation}").fetchall()[0]
    return tuple(column for column, count in zip(columns, counts, strict=True) if count)


def _named(path: Path, cells: tuple[str, ...], again: tuple[str, ...], decisions: Decisions) -> tuple[str, ...] | None:
    """Names of the columns of a file whose first line may be either; empty: the line has them; None: unclear."""
    question = Question(
        "--header", f"starts with {', '.join(map(repr, again[:3]))}, which also occurs further down",
        {"yes": "the first line names the columns", "no": "it is a data row"}, str(path),
    )  # fmt: skip
    answer = decisions.settle(question)
    if answer is None:
        return None
    return () if answer == "yes" else tuple(f"column_{place}" for place in range(1, len(cells) + 1))
