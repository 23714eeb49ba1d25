"""Parquet and CSV tables whose columns the recipe names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.raw import (
    Dialect,
    Entity,
    FeatureColumns,
    Locate,
    RawTables,
    columns_of,
    define_entity,
    define_interactions,
    define_no_entity,
    first_line,
    name,
    read_delimited,
    reading,
    require_columns,
    require_file,
    text,
)  # fmt: skip
from llmcf_cli.data.report import BadRows
from llmcf_cli.data.sources.config import CsvConfig, ParquetConfig

Role = Literal["interactions", "items", "users"]
_OTHER_ENCODING = "save the file as utf-8, or name its encoding in dataset.source.encoding: latin-1 or utf-16"
_DELIMITERS = (";", "\t", "|", ",")


class TableSource:
    """Reads one table of interactions, and optionally one of items and one of users."""

    def __init__(self, config: ParquetConfig | CsvConfig) -> None:
        self._config = config

    def load(self, con: Any, locate: Locate) -> RawTables:
        """See `Source.load`."""
        config, columns = self._config, self._config.columns
        relation, where, bad = self._read(con, locate, "interactions", config.interactions)
        define_interactions(con, relation, self._named(), where)
        origin, unparsable = {"interaction": where}, {"interaction": bad}
        known: list[str] = []
        for entity, role, reference, features in self._entities():
            if reference is None:
                define_no_entity(con, entity)
                continue
            relation, origin[entity], unparsable[entity] = self._read(con, locate, role, reference)
            define_entity(con, entity, relation, features, origin[entity])
            known += columns_of(con, relation)
        require_columns(config.multi, known, "dataset.source.multi")
        clock = "global" if columns.time is not None else "per_user"
        return RawTables(clock, columns.rating is not None, origin, unparsable)

    def features(self, locate: Locate) -> dict[Entity, tuple[str, ...]]:
        """See `DescribedSource.features`."""
        self._require("interactions", self._config.interactions, locate, [c for c in self._named().values() if c])
        found: dict[Entity, tuple[str, ...]] = {}
        for entity, role, reference, features in self._entities():
            if reference is None:
                found[entity] = ()
                continue
            columns = self._require(role, reference, locate, [features.key, *(features.keep or ())])
            keep = columns if features.keep is None else features.keep
            found[entity] = tuple(column for column in keep if column != features.key)
        return found

    def _named(self) -> dict[str, str | None]:
        """What `define_interactions` asks for → the column that the recipe names."""
        columns = self._config.columns
        time = columns.position if columns.time is None else columns.time
        return {"user_id": columns.user, "item_id": columns.item, "rating": columns.rating, "time": time}

    def _require(self, role: Role, reference: str, locate: Locate, wanted: Sequence[str]) -> list[str]:
        """The columns of a table, which must have those that are wanted."""
        path = require_file(locate(reference), role)
        columns = self._columns(path, role)
        require_columns(wanted, columns, str(path))
        return columns

    def _entities(self) -> Iterator[tuple[Entity, Role, str | None, FeatureColumns]]:
        """Entity, role of its table, reference to it, and which of its columns are kept."""
        config = self._config
        yield (
            "item",
            "items",
            config.items,
            self._features(config.item_key or config.columns.item, config.item_features),
        )
        yield (
            "user",
            "users",
            config.users,
            self._features(config.user_key or config.columns.user, config.user_features),
        )

    def _columns(self, path: Path, role: Role) -> list[str]:
        if isinstance(self._config, CsvConfig):
            return _csv_columns(path, role, self._config)
        import duckdb

        with duckdb.connect() as con:
            return _parquet_columns(con, path)

    def _features(self, key: str, keep: tuple[str, ...] | None) -> FeatureColumns:
        return FeatureColumns(key, keep, self._config.multi, self._config.separator)

    def _read(self, con: Any, locate: Locate, role: Role, reference: str) -> tuple[str, str, BadRows]:
        """The relation that holds a table, where it comes from, and the lines that did not parse."""
        path = require_file(locate(reference), role)
        if isinstance(self._config, CsvConfig):
            relation, bad = _read_csv(con, path, role, self._config)
        else:
            relation, bad = _read_parquet(con, path, role), BadRows()
        return relation, str(path), bad


def _read_parquet(con: Any, path: Path, role: Role) -> str:
    """A view over a Parquet file or a folder of them: nothing is read before the checks. Vectors and blobs stay out."""
    kept = ", ".join(map(name, _parquet_columns(con, path)))
    con.execute(f"CREATE OR REPLACE VIEW file_{role} AS SELECT {kept} FROM {_parquet(path)}")
    return f"file_{role}"


def _parquet(path: Path) -> str:
    pattern = str(path / "**" / "*.parquet") if path.is_dir() else str(path)
    return f"read_parquet({text(pattern)})"


def _parquet_columns(con: Any, path: Path) -> list[str]:
    with reading(path):
        kinds = columns_of(con, _parquet(path))
    return [c for c, kind in kinds.items() if not kind.startswith(("FLOAT[", "DOUBLE[")) and kind != "BLOB"]


def _read_csv(con: Any, path: Path, role: Role, config: CsvConfig) -> tuple[str, BadRows]:
    names, relation = _csv_columns(path, role, config), f"file_{role}"
    header = 0 if config.names.get(role) else 1
    return relation, read_delimited(con, path, relation, names, header, _dialect(config))


def _dialect(config: CsvConfig) -> Dialect:
    return Dialect(config.delimiter, config.quote, config.encoding, _OTHER_ENCODING)


def _csv_columns(path: Path, role: Role, config: CsvConfig) -> list[str]:
    """The columns of a file: as named in the recipe, else by its first line."""
    if path.is_dir():
        raise DataError("is a folder", where=str(path), hint=f"name one CSV file in dataset.source.{role}")
    given = config.names.get(role, ())
    found = first_line(path, _dialect(config))
    names = list(given) or found
    other = next((mark for mark in _DELIMITERS if len(found) == 1 and mark in found[0]), config.delimiter)
    if other != config.delimiter:
        raise DataError(
            f"has one column by the delimiter {config.delimiter!r}: {found[0]!r}", where=f"{path}:1",
            hint=f"set dataset.source.delimiter: {json.dumps(other)} in the recipe",
        )  # fmt: skip
    if len(set(names)) != len(names):
        raise DataError("names a column twice", where=f"{path}:1", allowed=tuple(names))
    if len(names) != len(found):
        raise DataError(
            f"has {len(found)} columns, but dataset.source.names.{role} names {len(names)}", where=f"{path}:1",
            hint="correct the names or the delimiter",
        )  # fmt: skip
    return names
