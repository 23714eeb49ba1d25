"""Blocks of a user's history: what a text about the user may be written from, and which samples may read it.

A user's events in the order of histories are cut into blocks of n. A sample that comes after p of them lies in block
p // n, and reads what was written from the first n · (p // n) events, its `basis`. These are among the p events
strictly before the sample, whatever other samples there are, so the same text serves every sample of the block and none
sees its own time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.recipe.dataset import HistorySection
from llmcf_cli.store.tables import SAMPLE_TIME

_ALL = f"SELECT user_row, item_row, {SAMPLE_TIME} AS time, place FROM interaction"
_EVENTS = {
    "positive": f"SELECT i.* FROM ({_ALL}) i SEMI JOIN (FROM sample WHERE label = 1) USING (user_row, item_row, time)",
    "all": _ALL,
}
# In the order of histories: that of `interaction.place`.
_PLACES = """
CREATE OR REPLACE TEMP TABLE event_place AS
SELECT user_row, item_row, time, row_number() OVER (PARTITION BY user_row ORDER BY place) AS place FROM ({events})
"""
_SEEN = """
CREATE OR REPLACE TEMP TABLE event_seen AS SELECT user_row, time, max(place) AS seen FROM event_place GROUP BY ALL
"""
_BLOCKS = """
WITH s AS (SELECT sample_id, user_row, time FROM sample WHERE sample_id IN (SELECT unnest($ids))),
e AS (FROM event_seen WHERE user_row IN (SELECT user_row FROM s))
SELECT s.sample_id, s.user_row, coalesce(e.seen, 0)
FROM s ASOF LEFT JOIN e ON s.user_row = e.user_row AND s.time > e.time
"""
_HISTORIES = """
SELECT k.user_row, k.basis, max(e.time), list(item.text ORDER BY e.place)
FROM (SELECT unnest($users) AS user_row, unnest($bases) AS basis) k
JOIN event_place e ON e.user_row = k.user_row AND e.place <= k.basis AND e.place > k.basis - $recent
JOIN item USING (item_row) GROUP BY ALL
"""

BlockKey = tuple[int, int]
"""(user row, basis)."""


@dataclass(frozen=True)
class Block:
    """Where in its user's history a sample lies.

    Attributes:
        user_row: The user.
        basis: First events that texts about the user are written from; 0: there is none yet.
        since: Events between these and the sample.
    """

    user_row: int
    basis: int
    since: int

    @property
    def key(self) -> BlockKey:
        """Names the text that the sample reads."""
        return self.user_row, self.basis


@dataclass(frozen=True)
class Basis:
    """What a text about a user is written from.

    Attributes:
        as_of: Time of the last event.
        history: Texts of the most recent events, oldest first, as many as a history holds.
    """

    as_of: int
    history: list[str]


class Blocks:
    """The blocks of all users' histories.

    Args:
        connection: To the DuckDB file of ingest; gets two temporary tables.
        section: What histories hold, as ingest built them.
        block: Events of a block.
    """

    def __init__(self, connection: Any, section: HistorySection, block: int) -> None:
        self._connection, self._block, self._recent = connection, block, section.max_length
        connection.execute(_PLACES.format(events=_EVENTS[section.events]))
        connection.execute(_SEEN)

    def of(self, sample_ids: Sequence[int]) -> list[Block]:
        """The block of each sample, in the order given."""
        rows = self._connection.execute(_BLOCKS, {"ids": [int(i) for i in sample_ids]}).fetchall()
        found = {sample: Block(user, seen - seen % self._block, seen % self._block) for sample, user, seen in rows}
        return [found[int(i)] for i in sample_ids]

    def bases(self, keys: Sequence[BlockKey]) -> dict[BlockKey, Basis]:
        """What the texts of some blocks are written from; nothing for a basis of 0."""
        given = {"users": [user for user, _ in keys], "bases": [basis for _, basis in keys], "recent": self._recent}
        rows = self._connection.execute(_HISTORIES, given).fetchall() if keys else []
        return {(user, basis): Basis(as_of, history) for user, basis, as_of, history in rows}
