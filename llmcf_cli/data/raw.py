"""What a source hands over, and the SQL that every source shares.

A source creates three relations in the DuckDB connection it is given, and describes them in a `RawTables`:

- `raw_interaction(user_id, item_id, rating, time)`: of any type that casts; the checks cast and count what does not.
- `raw_item(item_id, …features)` and `raw_user(user_id, …features)`: a feature is a text (one value) or a list of texts.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from llmcf_cli.core.errors import DataError, closest
from llmcf_cli.core.files import kind_of
from llmcf_cli.data.damage import LONGEST, find_damage
from llmcf_cli.data.report import MAX_BAD_SAMPLES, BadRows, Clock

Entity = Literal["item", "user"]
Locate = Callable[[str], Path]
_KIND = re.compile(r"^[A-Z][A-Za-z -]* Error: ")
_SHOWN = 120  # characters of a line that did not parse


@dataclass(frozen=True)
class RawTables:
    """Facts about the three raw relations.

    Attributes:
        clock: `global` if `time` is a clock shared by all users, `per_user` if it only orders a user's events.
        has_rating: False if `raw_interaction.rating` is empty because the data have none.
        origin: File that `interaction`, `item` and `user` were read from; absent: there is no such table.
        unparsable: Lines that did not parse and are not in the relations, by table.
    """

    clock: Clock
    has_rating: bool
    origin: Mapping[str, str]
    unparsable: Mapping[str, BadRows] = field(default_factory=dict)


class Source(Protocol):
    """A source: built with its configuration, asked once."""

    def load(self, con: Any, locate: Locate) -> RawTables:
        """Create `raw_interaction`, `raw_item` and `raw_user` in `con`.

        Args:
            con: DuckDB connection on a scratch database that lies on disk.
            locate: File or folder of a reference in the configuration.

        Raises:
            DataError: A file or column is missing, or a file cannot be read.
        """


@runtime_checkable
class DescribedSource(Source, Protocol):
    """A source that can say, without reading the data, what its items and users will have."""

    def features(self, locate: Locate) -> Mapping[Entity, Sequence[str]]:
        """The columns of `raw_item` and `raw_user` beside the id; empty where there is no such table.

        Raises:
            DataError: A file is missing, its beginning cannot be read, or it lacks a column that the recipe names.
        """


@dataclass(frozen=True)
class Dialect:
    """How lines of a delimited text file split into columns.

    Attributes:
        delimiter: What stands between columns.
        quote: What stands around a column that holds it; empty: nothing does.
        encoding: Of the file.
        other_encoding: What to do about a file in another encoding.
    """

    delimiter: str
    quote: str = ""
    encoding: str = "utf-8"
    other_encoding: str = "save the file as utf-8"


def name(identifier: str) -> str:
    """An SQL identifier, quoted."""
    return '"' + identifier.replace('"', '""') + '"'


def text(value: str) -> str:
    """An SQL string literal, quoted."""
    return "'" + value.replace("'", "''") + "'"


def scalar(con: Any, sql: str) -> Any:
    """The single value a query returns."""
    return con.execute(sql).fetchone()[0]


def columns_of(con: Any, relation: str) -> dict[str, str]:
    """Column → DuckDB type of a table, a view or a table function, in order."""
    return {row[0]: row[1] for row in con.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()}


def require_file(path: Path, role: str) -> Path:
    """`path`, if there is something.

    Raises:
        DataError: There is not; names the files beside it.
    """
    if kind_of(path) != "nothing":
        return path
    beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
    near = closest(path.name, beside)
    suggestion = f'; did you mean "{near}"?' if near else ""
    raise DataError(
        f"the {role} file does not exist{suggestion}", where=str(path), allowed=beside[:20],
        hint="correct dataset.source in the recipe",
    )  # fmt: skip


def require_columns(wanted: Sequence[str], available: Sequence[str], where: str) -> None:
    """Check that a file has the columns a recipe names.

    Raises:
        DataError: Some are missing; names each with the closest existing one, and all that exist.
    """
    missing = [column for column in wanted if column not in available]
    if not missing:
        return
    parts = []
    for column in missing:
        near = closest(column, available)
        parts.append(f'"{column}"' + (f' (did you mean "{near}"?)' if near else ""))
    plural = "s" if len(missing) > 1 else ""
    raise DataError(
        f"has no column{plural} {', '.join(parts)}", where=where, allowed=tuple(available),
        hint="correct the column names under dataset.source in the recipe",
    )  # fmt: skip


def read_delimited(
    con: Any,
    path: Path,
    into: str,
    names: Sequence[str],
    skip: int,
    dialect: Dialect,
    select: str = "SELECT * FROM {}",
) -> BadRows:
    """Read a text file into the table `into`, every column as text, empty values as NULL.

    Args:
        names: The file's columns, in order.
        skip: Leading lines that are no data.
        select: What to keep of the rows; `{}` stands for the file.

    Returns:
        Lines with too few or too many columns, a broken quote or invalid characters.

    Raises:
        DataError: The file cannot be read at all.
    """
    columns = ", ".join(f"{text(column)}: 'VARCHAR'" for column in names)
    options = {
        "delim": text(dialect.delimiter), "quote": text(dialect.quote), "escape": text(dialect.quote),
        "encoding": text(dialect.encoding), "header": "false", "skip": str(skip), "auto_detect": "false",
        "columns": f"{{{columns}}}", "nullstr": "''", "store_rejects": "true", "rejects_limit": "0",
        "rejects_table": text(f"{into}_reject"), "rejects_scan": text(f"{into}_reject_scan"),
    }  # fmt: skip
    arguments = ", ".join(f"{option} = {value}" for option, value in options.items())
    query = select.format(f"read_csv({text(str(path))}, {arguments})")
    with reading(path, dialect):
        con.execute(f"CREATE OR REPLACE TABLE {name(into)} AS {query}")
    rejected = con.execute(
        f"SELECT count(*) OVER (), line, first(csv_line), first(error_type::VARCHAR ORDER BY column_idx) "
        f"FROM {name(into + '_reject')} GROUP BY line ORDER BY line LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    samples = tuple(
        f"{path.name}:{line}: {_rejection(kind, len(names), dialect)}: {row[:_SHOWN]!r}"
        for _, line, row, kind in rejected
    )
    return BadRows(rejected[0][0] if rejected else 0, samples)


def first_sentence(error: Exception) -> str:
    """The first line of an error's message, without the name that DuckDB gives its kind."""
    message = str(error).strip()
    return _KIND.sub("", message.splitlines()[0]) if message else type(error).__name__


def _rejection(kind: str, columns: int, dialect: Dialect) -> str:
    """What is wrong with a line, from DuckDB's kind of rejection."""
    known = {
        "MISSING COLUMNS": f"fewer than {columns} columns", "TOO MANY COLUMNS": f"more than {columns} columns",
        "UNQUOTED VALUE": "a quote that is not closed, or text after it",
        "INVALID ENCODING": f"not {dialect.encoding}",
        "LINE SIZE OVER MAXIMUM": f"longer than {LONGEST:,} bytes",
    }  # fmt: skip
    return known.get(kind, kind.lower())


def unreadable(path: Path | str, error: Exception, dialect: Dialect | None = None) -> DataError:
    """The error of a file that is damaged or not what it should be.

    Args:
        path: The file.
        error: What its reader said.
        dialect: Of a text file, which is looked at for the cause.
    """
    reader = "" if isinstance(error, UnicodeError) else f" ({first_sentence(error)})"
    try:
        found = find_damage(Path(path), dialect.encoding) if dialect else None
    except (OSError, EOFError, zlib.error):  # what the reader said is all there is
        found = None
    if found is None:
        what = f"cannot be read: {first_sentence(error)}"
        return DataError(what, where=str(path), hint="fetch the file again or correct its format")
    hint = found.hint or dialect.other_encoding
    return DataError(f"{found.what}{reader}", where=f"{path}:{found.line}", hint=hint)


@contextmanager
def reading(path: Path | str, dialect: Dialect | None = None) -> Iterator[None]:
    """Turn DuckDB's errors while it reads `path` into a `DataError`; running out of memory stays what it is."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException:
        raise
    except duckdb.Error as error:
        raise unreadable(path, error, dialect) from error


def first_line(path: Path, dialect: Dialect) -> list[str]:
    """The columns of a text file's first line.

    Raises:
        DataError: The file is empty or not text in the dialect's encoding.
    """
    encoding = "utf-8-sig" if dialect.encoding == "utf-8" else dialect.encoding
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        # More than the line is decoded: only what is wrong in the line itself counts.
        with opener(path, "rt", encoding=encoding, errors="surrogateescape", newline="") as handle:
            line = handle.readline()
        line.replace("\0", "\udc00").encode("utf-8")
    except (OSError, EOFError, UnicodeError, zlib.error) as error:
        raise unreadable(path, error, dialect) from error
    line = line.rstrip("\r\n")
    if not line:
        raise DataError("is empty", where=str(path))
    if len(dialect.delimiter) > 1 or not dialect.quote:
        return line.split(dialect.delimiter)
    return next(csv.reader([line], delimiter=dialect.delimiter, quotechar=dialect.quote))


def define_interactions(con: Any, relation: str, columns: Mapping[str, str | None], where: str) -> None:
    """Create the view `raw_interaction` over a relation.

    Args:
        columns: `user_id`, `item_id`, `rating` and `time` → the relation's column; None: there is none.

    Raises:
        DataError: A column is missing.
    """
    require_columns([c for c in columns.values() if c is not None], list(columns_of(con, relation)), where)
    parts = [
        f"{name(source) if source is not None else 'NULL::DOUBLE'} AS {alias}" for alias, source in columns.items()
    ]
    con.execute(f"CREATE OR REPLACE VIEW raw_interaction AS SELECT {', '.join(parts)} FROM {relation}")


@dataclass(frozen=True)
class FeatureColumns:
    """Which columns of an item or user table are kept, and how.

    Attributes:
        key: The id column.
        keep: Feature columns; None: every other one.
        split: Those whose text holds several values.
        separator: What separates them.
    """

    key: str
    keep: Sequence[str] | None
    split: Sequence[str]
    separator: str


def define_entity(con: Any, entity: Entity, relation: str, features: FeatureColumns, where: str) -> None:
    """Create the view `raw_item` or `raw_user` over a relation: the id and its features, as text or lists of texts.

    Raises:
        DataError: A column is missing.
    """
    available = columns_of(con, relation)
    keep = [c for c in available if c != features.key] if features.keep is None else list(features.keep)
    require_columns([features.key, *keep], list(available), where)
    parts = [f"{name(features.key)}::VARCHAR AS {entity}_id"]
    for column in keep:
        kind = available[column]
        if column in features.split and not kind.endswith("[]"):
            value = f"string_split({name(column)}::VARCHAR, {text(features.separator)})"
        else:
            value = f"{name(column)}::VARCHAR{'[]' if kind.endswith('[]') else ''}"
        parts.append(f"{value} AS {name(column)}")
    con.execute(f"CREATE OR REPLACE VIEW raw_{entity} AS SELECT {', '.join(parts)} FROM {relation}")


def define_no_entity(con: Any, entity: Entity) -> None:
    """Create an empty `raw_item` or `raw_user`, for data without such a table."""
    con.execute(f"CREATE OR REPLACE TABLE raw_{entity} ({entity}_id VARCHAR)")
