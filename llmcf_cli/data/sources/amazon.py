"""Amazon reviews 2014 (McAuley et al., SIGIR 2015): a review or an item per line, as JSON or as a Python literal."""

from __future__ import annotations

import ast
import gzip
import itertools
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmcf_cli.data.raw import (
    Dialect,
    Entity,
    FeatureColumns,
    Locate,
    RawTables,
    define_entity,
    define_interactions,
    define_no_entity,
    name,
    read_delimited,
    require_file,
    scalar,
    text,
    unreadable,
)  # fmt: skip
from llmcf_cli.data.report import MAX_BAD_SAMPLES, BadRows
from llmcf_cli.data.sources.config import Amazon2014Config

_REVIEW = {"user_id": "reviewerID", "item_id": "asin", "rating": "overall", "time": "unixReviewTime"}
_ITEM_SCHEMA = pa.schema([
    ("asin", pa.string()), ("title", pa.string()), ("brand", pa.string()), ("categories", pa.list_(pa.string())),
])  # fmt: skip
_BATCH_LINES = 10_000
_MAX_LINE = 1 << 20  # characters; a longer line is no record of these files
_NO_DELIMITER = "\x01"
_SHOWN = 120


class Amazon2014Source:
    """Reviews by DuckDB's JSON reader; metadata, in which many lines are Python literals, line by line in batches."""

    def __init__(self, config: Amazon2014Config) -> None:
        self._config = config

    def load(self, con: Any, locate: Locate) -> RawTables:
        """See `Source.load`."""
        reviews = require_file(locate(self._config.reviews), "reviews")
        origin, unparsable = {"interaction": str(reviews)}, {"interaction": _read_reviews(con, reviews)}
        define_interactions(con, "file_reviews", {column: column for column in _REVIEW}, str(reviews))
        define_no_entity(con, "user")
        if self._config.metadata is None:
            define_no_entity(con, "item")
        else:
            metadata = require_file(locate(self._config.metadata), "metadata")
            origin["item"] = str(metadata)
            unparsable["item"] = _read_metadata(con, metadata)
            define_entity(con, "item", "file_metadata", FeatureColumns("asin", None, (), " "), str(metadata))
        return RawTables("global", True, origin, unparsable)

    def features(self, locate: Locate) -> dict[Entity, tuple[str, ...]]:
        """See `DescribedSource.features`."""
        return {"item": tuple(_ITEM_SCHEMA.names[1:]) if self._config.metadata is not None else (), "user": ()}


def _read_reviews(con: Any, path: Path) -> BadRows:
    fields = ", ".join(f"record ->> {text(key)} AS {name(column)}" for column, key in _REVIEW.items())
    parsed = "CASE WHEN json_valid(line) THEN line::JSON END AS record"
    broken = read_delimited(
        con, path, "file_reviews", ["line"], 0, Dialect(_NO_DELIMITER),
        select=f"SELECT {fields}, CASE WHEN record IS NULL THEN line END AS bad FROM (SELECT line, {parsed} FROM {{}})",
    )  # fmt: skip
    count = scalar(con, "SELECT count(bad) FROM file_reviews")
    found = con.execute(
        f"SELECT bad FROM file_reviews WHERE bad IS NOT NULL ORDER BY bad LIMIT {MAX_BAD_SAMPLES}"
    ).fetchall()
    con.execute("DELETE FROM file_reviews WHERE bad IS NOT NULL")
    samples = broken.samples + tuple(f"{path.name}: no JSON: {line[:_SHOWN]!r}" for (line,) in found)
    return BadRows(broken.count + count, samples[:MAX_BAD_SAMPLES])


def _read_metadata(con: Any, path: Path) -> BadRows:
    con.execute(
        "CREATE OR REPLACE TABLE file_metadata (asin VARCHAR, title VARCHAR, brand VARCHAR, categories VARCHAR[])"
    )
    count, samples = 0, []
    lines = _lines(path)
    try:
        while batch := list(itertools.islice(lines, _BATCH_LINES)):
            rows = []
            for number, line in batch:
                row = _item(line)
                if row is not None:
                    rows.append(row)
                    continue
                count += 1
                if len(samples) < MAX_BAD_SAMPLES:
                    samples.append(f"{path.name}:{number}: neither JSON nor a Python literal: {line[:_SHOWN]!r}")
            con.register("metadata_batch", pa.Table.from_pylist(rows, _ITEM_SCHEMA))
            con.execute("INSERT INTO file_metadata SELECT * FROM metadata_batch")
            con.unregister("metadata_batch")
    except (OSError, EOFError, zlib.error) as error:
        raise unreadable(path, error) from error
    return BadRows(count, tuple(samples))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not blank."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", errors="replace") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                yield number, line.strip()


def _item(line: str) -> dict[str, Any] | None:
    """One item, or None if the line is none. `literal_eval` reads constants only; it runs nothing."""
    if len(line) > _MAX_LINE:
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        try:
            record = ast.literal_eval(line)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            return None
    if not isinstance(record, dict):
        return None
    paths = record.get("categories") or []
    if not isinstance(paths, list | tuple):
        return None
    return {
        "asin": _text(record.get("asin")), "title": _text(record.get("title")), "brand": _text(record.get("brand")),
        "categories": [" > ".join(map(str, p)) if isinstance(p, list | tuple) else str(p) for p in paths],
    }  # fmt: skip


def _text(value: Any) -> str | None:
    return None if value is None else str(value)
