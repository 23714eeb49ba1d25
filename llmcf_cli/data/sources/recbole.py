"""RecBole atomic files: tab-separated, the header's cells read `name:type`, quotes are ordinary characters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from llmcf_cli.core.errors import DataError
from llmcf_cli.data.raw import (
    Dialect,
    Entity,
    FeatureColumns,
    Locate,
    RawTables,
    define_entity,
    define_interactions,
    define_no_entity,
    first_line,
    read_delimited,
    require_columns,
    require_file,
)  # fmt: skip
from llmcf_cli.data.report import BadRows
from llmcf_cli.data.sources.config import RecBoleConfig

_TYPES = ("token", "token_seq", "float", "float_seq")
_DIALECT = Dialect(delimiter="\t")


class RecBoleSource:
    """Reads `NAME.inter`, and `NAME.item` and `NAME.user` where they exist, without `float_seq` columns (vectors)."""

    def __init__(self, config: RecBoleConfig) -> None:
        self._config = config

    def load(self, con: Any, locate: Locate) -> RawTables:
        """See `Source.load`."""
        columns = self._config.columns
        path = _interaction_file(require_file(locate(self._config.path), "data set"))
        unparsable = {"interaction": BadRows()}
        types, unparsable["interaction"] = _read(con, path, "file_inter")
        has_rating = columns.rating in types
        if "rating" in columns.model_fields_set:
            require_columns([columns.rating], list(types), str(path))
        define_interactions(
            con, "file_inter",
            {"user_id": columns.user, "item_id": columns.item, "rating": columns.rating if has_rating else None,
             "time": columns.time}, str(path),
        )  # fmt: skip
        origin = {"interaction": str(path)}
        features: dict[str, list[str]] = {}
        for entity in get_args(Entity):
            file = path.with_suffix(f".{entity}")
            if not file.is_file():
                define_no_entity(con, entity)
                continue
            origin[entity] = str(file)
            features[entity], unparsable[entity] = self._load_entity(con, entity, file)
        if features or self._config.multi:
            known = sorted({column for columns in features.values() for column in columns})
            require_columns(self._config.multi, known, f"{path.parent} (.item and .user)")
        return RawTables("global", has_rating, origin, unparsable)

    def features(self, locate: Locate) -> dict[Entity, tuple[str, ...]]:
        """See `DescribedSource.features`."""
        path = _interaction_file(require_file(locate(self._config.path), "data set"))
        files: dict[Entity, Path] = {entity: path.with_suffix(f".{entity}") for entity in get_args(Entity)}
        return {entity: self._kept(entity, _header(f)) if f.is_file() else () for entity, f in files.items()}

    def _key(self, entity: Entity) -> str:
        return {"item": self._config.columns.item, "user": self._config.columns.user}[entity]

    def _kept(self, entity: Entity, types: Mapping[str, str]) -> tuple[str, ...]:
        keep = {"item": self._config.item_features, "user": self._config.user_features}[entity]
        if keep is not None:
            return keep
        return tuple(c for c, kind in types.items() if c != self._key(entity) and kind != "float_seq")

    def _load_entity(self, con: Any, entity: Entity, file: Path) -> tuple[list[str], BadRows]:
        config = self._config
        types, bad = _read(con, file, f"file_{entity}")
        features = FeatureColumns(self._key(entity), self._kept(entity, types), config.multi, config.separator)
        define_entity(con, entity, f"file_{entity}", features, str(file))
        return list(types), bad


def _interaction_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("*.inter"))
    if len(found) == 1:
        return found[0]
    names = tuple(p.name for p in found) or tuple(sorted(p.name for p in path.iterdir())[:20])
    what = "holds several .inter files" if found else "holds no .inter file"
    raise DataError(what, where=str(path), allowed=names, hint="name the .inter file itself in dataset.source.path")


def _read(con: Any, path: Path, into: str) -> tuple[dict[str, str], BadRows]:
    """Read one file into the table `into`; returns its columns with their RecBole types, and the bad lines."""
    types = _header(path)
    return types, read_delimited(con, path, into, list(types), 1, _DIALECT)


def _header(path: Path) -> dict[str, str]:
    """The columns of a file with their RecBole types."""
    types: dict[str, str] = {}
    for cell in first_line(path, _DIALECT):
        column, _, kind = cell.rpartition(":")
        if not column or kind not in _TYPES:
            raise DataError(
                f"the header cell {cell!r} is not name:type", where=f"{path}:1", allowed=_TYPES,
                hint="the first line names the columns, tab-separated, e.g. user_id:token",
            )  # fmt: skip
        if column in types:
            raise DataError(f"the column {column!r} occurs twice", where=f"{path}:1")
        types[column] = kind
    return types
