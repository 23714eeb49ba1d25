"""What a sample was matched with, and why: its examples with their texts, labels, times and parts of the score.

Legend: K examples, I items, T text, D dimensions of an item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmcf_cli.core.errors import DataError, StoreError
from llmcf_cli.core.types import ComponentConfig
from llmcf_cli.features.batch import encode_rows
from llmcf_cli.features.vectors import item_text_array
from llmcf_cli.match.space import SPACE
from llmcf_cli.plugin import registry
from llmcf_cli.store.open import connect_read, read_clock

NEAREST = 5
_ROW = """
SELECT s.*, u.user_id, i.item_id, i.text AS item, h.texts AS history_texts
FROM chosen JOIN sample s USING (sample_id) JOIN "user" u USING (user_row) JOIN item i USING (item_row)
LEFT JOIN (
    SELECT sample_id, list(item.text ORDER BY place) AS texts
    FROM (SELECT sample_id, unnest(history) AS item_row, generate_subscripts(history, 1) AS place
          FROM chosen JOIN sample USING (sample_id)) JOIN item USING (item_row) GROUP BY sample_id
) h USING (sample_id)
ORDER BY chosen.place
"""


@dataclass(frozen=True)
class Row:
    """A sample in words.

    Attributes:
        sample_id: Its id.
        user_id: The user's id.
        item_id: The item's id.
        item: The item's text.
        label: 0 or 1.
        time: Microseconds since 1970 in UTC, or the position within the user.
        split: Its split.
        history: Texts of the items before it, oldest first.
    """

    sample_id: int
    user_id: str
    item_id: str
    item: str
    label: int
    time: int
    split: str
    history: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """An example of a sample.

    Attributes:
        row: The example.
        score: Its stored score.
        history_score: Weighted likeness of the histories; with `item_score` the sum is the dot product of the space.
        item_score: Weighted likeness of the items.
        cot: Its chain of thought; empty where it has none.
    """

    row: Row
    score: float
    history_score: float
    item_score: float
    cot: str


@dataclass(frozen=True)
class Explanation:
    """A sample and its examples.

    Attributes:
        query: The sample.
        examples: Best first.
        k: Places there are.
        clock: `global` or `per_user`: what times are.
    """

    query: Row
    examples: tuple[Found, ...]
    k: int
    clock: str


def find_samples(database: Path, user: str, item: str, split: str | None = None) -> list[int]:
    """Ids of a user's samples of an item, oldest first.

    Raises:
        DataError: The user or item is not known (with the nearest known ids), or the user has no such sample.
    """
    with connect_read(database) as connection:
        for entity, name in (("user", user), ("item", item)):
            if not connection.execute(f'SELECT count(*) FROM "{entity}" WHERE {entity}_id = ?', [name]).fetchone()[0]:
                raise _unknown(connection, entity, name)
        query = (
            'SELECT sample_id, item_id, split FROM sample JOIN "user" USING (user_row) JOIN item USING (item_row) '
            "WHERE user_id = ? ORDER BY time, sample_id"
        )
        rows = connection.execute(query, [user]).fetchall()
    found = [sample for sample, of, where in rows if of == item and split in (None, where)]
    if not found:
        others = list(dict.fromkeys(of for _, of, where in rows if split in (None, where)))[-NEAREST:]
        where = f" in the {split} split" if split else ""
        raise DataError(
            f"user {user!r} has no sample of item {item!r}{where}", code="pair-unknown", where="--item", allowed=others
        )
    return found


def _unknown(connection: Any, entity: str, name: str) -> DataError:
    near = connection.execute(
        f'SELECT {entity}_id FROM "{entity}" ORDER BY jaro_winkler_similarity({entity}_id, $1) DESC, '
        f"levenshtein({entity}_id, $1), {entity}_id LIMIT {NEAREST}",
        [name],
    ).fetchall()
    nearest = ", ".join(repr(found) for (found,) in near)
    return DataError(
        f"unknown {entity} {name!r}; the nearest known ids are {nearest}", code="id-unknown", where=f"--{entity}"
    )


def explain(
    sample_id: int, space: ComponentConfig, *, database: Path, matches: Path, cots: Path, item_text: pa.Table,
    history_length: int, query: str = "row",
) -> Explanation:  # fmt: skip
    """A sample, what it was matched with, and the parts of each score.

    Args:
        sample_id: The sample.
        space: Settings of the space.
        database: DuckDB file of ingest.
        matches: Table `example_match`.
        cots: Table `cot`.
        item_text: LanceDB table `item_text`.
        history_length: Most recent events that count, as in the recipe.
        query: The recipe's `match.query`: with `history` the sample's item is no part of a score.

    Raises:
        StoreError: The sample was not matched, or it or an example does not exist.
    """
    with connect_read(database) as connection:
        match = connection.execute(
            "SELECT example_sample_id, score FROM read_parquet(?) WHERE sample_id = ?", [str(matches), sample_id]
        ).fetchall()
        if not match:
            raise StoreError(
                f"no matches of sample {sample_id}",
                code="not-matched",
                where=str(matches),
                hint="find a sample by --user and --item",
            )
        filled = [(example, score) for example, score in zip(*match[0], strict=True) if example != -1]
        ids = [sample_id, *(example for example, _ in filled)]
        rows = _rows(connection, ids)
        if rows.num_rows < len(ids):
            raise StoreError(
                "a match names a sample that does not exist",
                code="match-broken",
                where=str(matches),
                hint="llmcf audit RECIPE",
            )
        texts = dict(connection.execute(
            "SELECT sample_id, text FROM read_parquet(?) JOIN chosen USING (sample_id)", [str(cots)]
        ).fetchall())  # fmt: skip
    history_K, item_K = _parts(rows, space, item_text, history_length)
    item_K = item_K if query == "row" else np.zeros_like(item_K)
    asked, *examples = (_row(row) for row in rows.to_pylist())
    parts = zip(examples, filled, history_K.tolist(), item_K.tolist(), strict=True)
    found = tuple(Found(row, score, h, i, texts.get(row.sample_id, "")) for row, (_, score), h, i in parts)
    return Explanation(asked, found, len(match[0][0]), read_clock(database))


def rows_of(database: Path, sample_ids: Sequence[int]) -> list[Row]:
    """Samples in words, in this order; without those that do not exist."""
    with connect_read(database) as connection:
        return [_row(row) for row in _rows(connection, sample_ids).to_pylist()]


def _rows(connection: Any, sample_ids: Sequence[int]) -> pa.Table:
    """Samples with texts; leaves them as `chosen` on the connection."""
    chosen = pa.table({"sample_id": pa.array(sample_ids, pa.int64()), "place": range(len(sample_ids))})
    connection.register("chosen", chosen)
    return connection.sql(_ROW).to_arrow_table()


def _parts(
    rows: pa.Table, config: ComponentConfig, item_text: pa.Table, history_length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted likeness of histories [K] and items [K] of the first row and the others."""
    samples = encode_rows(rows, history_length)
    space = registry().build(SPACE, config)
    item_ID = space.item_vectors(item_text_array(item_text, item_text.num_rows))
    query = space.query_vectors(item_ID, samples.item_row_N[:1], samples.history_row_NL[:1])[0].astype(np.float64)
    examples = space.example_vectors(item_ID, samples.item_row_N[1:], samples.history_row_NL[1:])
    dim = item_ID.shape[1]
    return examples[:, :dim] @ query[:dim], examples[:, dim:] @ query[dim:]


def _row(row: dict[str, Any]) -> Row:
    names = ("sample_id", "user_id", "item_id", "item", "label", "time", "split")
    return Row(**{name: row[name] for name in names}, history=tuple(row["history_texts"] or ()))
