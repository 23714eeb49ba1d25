"""Parquet, CSV and JSON tables whose columns the recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.raw import Locate, Meaning, RawData, Role
from llmcf_cli.data.sources.config import CsvConfig, JsonlConfig, MixedConfig, ParquetConfig, TableFormat
from llmcf_cli.tabular.csv import Dialect, read_csv
from llmcf_cli.tabular.files import require_file
from llmcf_cli.tabular.jsonl import read_json
from llmcf_cli.tabular.parquet import read_parquet
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import TimeFormat
from llmcf_cli.tabular.unpack import plain_suffix

_ROLES: tuple[Role, ...] = ("interactions", "items", "users")


class TableSource:
    """Reads one table of interactions, and optionally one of items and one of users."""

    def __init__(self, config: ParquetConfig | CsvConfig | JsonlConfig | MixedConfig) -> None:
        self._config = config
        self.times = TimeFormat(config.columns.time_format, config.columns.time_zone)

    def load(self, con: Any, locate: Locate, rows: int | None = None) -> RawData:
        """See `Source.load`."""
        config, columns = self._config, self._config.columns
        tables: dict[Role, Table] = {}
        for role in _ROLES:
            reference = getattr(config, role)
            if reference is not None:
                path = require_file(locate(reference), role, f"correct dataset.source.{role}")
                tables[role] = self._read(con, path, role, rows)
        return RawData(tables, Meaning(
            columns.user, columns.item, columns.rating, columns.time, columns.position,
            self.times,
            {"item": config.item_key or columns.item, "user": config.user_key or columns.user},
            config.multi, config.separator, "dataset.source.columns",
        ))  # fmt: skip

    def _read(self, con: Any, path: Path, role: Role, rows: int | None) -> Table:
        into, given = f"file_{role}", self._format(path, role)
        if given.format == "parquet":
            return read_parquet(con, path, into, rows)
        if path.is_dir():
            raise DataError(
                "is a folder", code="path-folder", where=str(path), hint=f"name one file in dataset.source.{role}"
            )
        if given.format == "jsonl":
            return read_json(con, path, into, rows)
        own = f".formats.{role}" if isinstance(self._config, MixedConfig) else ""
        delimiter = given.delimiter or ("\t" if plain_suffix(path) == ".tsv" else ",")
        dialect = Dialect(delimiter, given.quote, given.encoding, f"dataset.source{own}")
        return read_csv(con, path, into, dialect, given.names or None, rows)

    def _format(self, path: Path, role: Role) -> TableFormat:
        """How a file is written: as the recipe says, or by the ending of its name."""
        config, ending = self._config, "" if path.is_dir() else plain_suffix(path)
        found = "parquet" if path.is_dir() else ENDINGS.get(ending)
        if isinstance(config, MixedConfig):
            given = config.formats.get(role, TableFormat())
            if given.format is None and found is None:
                raise DataError(
                    f"has an unknown extension, {ending!r}", code="table-format",
                    where=str(path), allowed=tuple(ENDINGS),
                    hint=f"name its format in dataset.source.formats.{role}.format: csv, jsonl or parquet",
                )  # fmt: skip
            return given.model_copy(update={"format": given.format or found})
        if found is not None and found != config.type and ending not in _ANY:
            raise DataError(
                f"is {found} by its extension, but dataset.source.type is {config.type}", code="table-format",
                where=str(path),
                hint="set dataset.source.type: tables, which takes each table's format from its extension; options of "
                "one table (delimiter, encoding) go into dataset.source.formats",
            )  # fmt: skip
        if not isinstance(config, CsvConfig):
            return TableFormat(format=config.type)
        return TableFormat(
            format="csv", delimiter=config.delimiter, quote=config.quote, encoding=config.encoding,
            names=config.names.get(role, ()),
        )  # fmt: skip


_ANY = ("", ".txt", ".json")
"""Endings of files that may be of another format, if the recipe says so."""
ENDINGS: Mapping[str, Literal["csv", "jsonl", "parquet"]] = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".ndjson": "jsonl",
    ".parquet": "parquet",
}  # fmt: skip
"""Ending of a file's name, packed or not → its format."""
