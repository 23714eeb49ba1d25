"""The users and items that knowledge is written about, and what it may be written from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from llmcf_cli.llm.engines.base import Subject
from llmcf_cli.recipe.asking import KnowledgeSection

ALWAYS = int(np.iinfo(np.int64).min)
"""`as_of` of what rests on no event."""

_BLOCK = 2048  # entities whose prompts are held in memory, and sorted by length, together

_TRAIN_EVENTS = "CREATE OR REPLACE TEMP VIEW train_event AS SELECT * FROM sample WHERE split = 'train' AND label = 1"
# The first share of each user's positive train events, at least one.
_EARLY = """
CREATE OR REPLACE TEMP TABLE early AS
SELECT user_row, item_row, time, place, part FROM (
    SELECT user_row, item_row, time, row_number() OVER (PARTITION BY user_row ORDER BY time, sample_id) AS place,
           greatest(1, floor(count(*) OVER (PARTITION BY user_row) * $share)) AS part
    FROM train_event
) WHERE place <= part
"""
_USERS = """
SELECT user_row FROM train_event GROUP BY user_row ORDER BY count(*) DESC, user_row LIMIT $count
"""
_ITEMS = """
SELECT item_row FROM item LEFT JOIN train_event USING (item_row)
GROUP BY item_row ORDER BY count(sample_id) DESC, item_row LIMIT $count
"""
_USER_TEXTS = """
SELECT user_row, max(time), any_value("user".text), list(item.text ORDER BY place), list(item_row ORDER BY place)
FROM early JOIN item USING (item_row) JOIN "user" USING (user_row)
WHERE user_row IN (SELECT unnest($rows)) AND place > part - $recent GROUP BY user_row
"""
_ITEM_TEXTS = "SELECT item_row, text FROM item WHERE item_row IN (SELECT unnest($rows))"


Subjects = Callable[[Any], tuple[int, Iterator[list[Subject]]]]
"""How many there are, and the subjects block by block, those with the most train events first; from a connection."""


def read_subjects(section: KnowledgeSection) -> dict[str, Subjects]:
    """`user` and `item` → what reads them. Of one connection each is read once."""
    return {"user": partial(_users, section), "item": partial(_items, section)}


def _users(section: KnowledgeSection, reader: Any) -> tuple[int, Iterator[list[Subject]]]:
    reader.execute(_TRAIN_EVENTS)
    reader.execute(_EARLY, {"share": section.user_events})
    rows = _rows(reader, _USERS, section.users)

    def blocks() -> Iterator[list[Subject]]:
        for block in _blocks(rows):
            found = reader.execute(_USER_TEXTS, {"rows": block, "recent": section.max_history}).fetchall()
            subjects = {row: Subject(row, *rest) for row, *rest in found}
            yield [subjects[row] for row in block]

    return len(rows), blocks()


def _items(section: KnowledgeSection, reader: Any) -> tuple[int, Iterator[list[Subject]]]:
    reader.execute(_TRAIN_EVENTS)
    rows = _rows(reader, _ITEMS, section.items)

    def blocks() -> Iterator[list[Subject]]:
        for block in _blocks(rows):
            found = dict(reader.execute(_ITEM_TEXTS, {"rows": block}).fetchall())
            yield [Subject(row, ALWAYS, found[row]) for row in block]

    return len(rows), blocks()


def _rows(reader: Any, query: str, count: int | None) -> list[int]:
    return [row for (row,) in reader.execute(query, {"count": 2**62 if count is None else count}).fetchall()]


def _blocks(rows: Sequence[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), _BLOCK):
        yield list(rows[start : start + _BLOCK])
