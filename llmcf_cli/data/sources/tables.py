"""Parquet, CSV and JSON tables whose columns the recipe names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.raw import Locate, Meaning, RawData, Role
from llmcf_cli.data.sources.config import CsvConfig, JsonlConfig, ParquetConfig
from llmcf_cli.tabular.csv import Dialect, read_csv
from llmcf_cli.tabular.files import require_file
from llmcf_cli.tabular.jsonl import read_json
from llmcf_cli.tabular.parquet import read_parquet
from llmcf_cli.tabular.table import Table
from llmcf_cli.tabular.times import TimeFormat

_ROLES: tuple[Role, ...] = ("interactions", "items", "users")


class TableSource:
    """Reads one table of interactions, and optionally one of items and one of users."""

    def __init__(self, config: ParquetConfig | CsvConfig | JsonlConfig) -> None:
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
        config, into = self._config, f"file_{role}"
        if isinstance(config, ParquetConfig):
            return read_parquet(con, path, into, rows)
        if path.is_dir():
            raise DataError(
                "is a folder", code="path-folder", where=str(path), hint=f"name one file in dataset.source.{role}"
            )
        if isinstance(config, JsonlConfig):
            return read_json(con, path, into, rows)
        dialect = Dialect(config.delimiter, config.quote, config.encoding, "dataset.source")
        return read_csv(con, path, into, dialect, config.names.get(role), rows)
