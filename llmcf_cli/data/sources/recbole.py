"""RecBole atomic files: tab-separated, the header's cells read `name:type`, quotes are ordinary characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.raw import TABLES, Locate, Meaning, RawData, Role
from llmcf_cli.data.sources.config import RecBoleConfig
from llmcf_cli.tabular.csv import Dialect, first_line, read_body
from llmcf_cli.tabular.files import require_file
from llmcf_cli.tabular.sql import columns_of, name
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import TimeFormat

_TYPES = ("token", "token_seq", "float", "float_seq")


class RecBoleSource:
    """Reads `NAME.inter`, and `NAME.item` and `NAME.user` where they exist, without `float_seq` columns (vectors)."""

    def __init__(self, config: RecBoleConfig) -> None:
        self._config = config
        self.times = TimeFormat(config.columns.time_format, config.columns.time_zone)
        self._dialect = Dialect("\t", encoding=config.encoding, settings="dataset.source")

    def load(self, con: Any, locate: Locate, rows: int | None = None) -> RawData:
        """See `Source.load`."""
        columns = self._config.columns
        named = require_file(locate(self._config.path), "data set", "correct dataset.source.path")
        path = _interaction_file(named)
        tables: dict[Role, Table] = {"interactions": self._read(con, path, "interactions", rows)}
        for entity, role in TABLES.items():
            file = path.with_suffix(f".{entity}")
            if file.is_file():
                if named == path:  # what lies beside a file may be a link to where the recipe may not read
                    locate(f"{self._config.path.removesuffix(path.suffix)}.{entity}")
                tables[role] = self._read(con, file, role, rows)
        rating: str | None = columns.rating
        if "rating" not in columns.model_fields_set and rating not in columns_of(con, tables["interactions"].relation):
            rating = None
        return RawData(tables, Meaning(
            columns.user, columns.item, rating, columns.time,
            times=self.times, keys={"item": columns.item, "user": columns.user},
            multi=self._config.multi, separator=self._config.separator, settings="dataset.source.columns",
        ))  # fmt: skip

    def _read(self, con: Any, path: Path, role: Role, rows: int | None) -> Table:
        """Read one file; its vectors stay out."""
        into = f"file_{role}"
        header = first_line(path, self._dialect)
        types = _types(header.cells, f"{path}:{header.line}")
        table = read_body(con, path, into, self._dialect, list(types), header.line, rows)
        kept = [column for column, kind in types.items() if kind != "float_seq"]
        if len(kept) == len(types):
            return table
        for column in set(types) - set(kept):
            con.execute(f"ALTER TABLE {table.relation} DROP COLUMN {name(column)}")
        left = ", ".join(column for column in types if column not in kept)
        return replace(table, notes=(*table.notes, f"columns of type float_seq are left out: {left}"))


def _types(cells: Sequence[str], where: str) -> dict[str, str]:
    """The columns of a header with their RecBole types."""
    types: dict[str, str] = {}
    for cell in cells:
        column, _, kind = cell.rpartition(":")
        if not column or kind not in _TYPES:
            raise DataError(
                f"the header cell {cell!r} is not name:type", code="header-invalid", where=where, allowed=_TYPES,
                hint="the first line names the columns, tab-separated, e.g. user_id:token",
            )  # fmt: skip
        if column in types:
            raise DataError(
                f"duplicate column {column!r}",
                code="column-twice",
                where=where,
                hint="give each column its own name",
            )
        types[column] = kind
    return types


def _interaction_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.inter"))
    if len(found) == 1:
        return found[0]
    names = tuple(p.name for p in found) or tuple(sorted(p.name for p in path.iterdir())[:20])
    what = "contains several .inter files" if found else "contains no .inter file"
    raise DataError(
        what,
        code="source-files",
        where=str(path),
        allowed=names,
        hint="name the .inter file itself in dataset.source.path",
    )
