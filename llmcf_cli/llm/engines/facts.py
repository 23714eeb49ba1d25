"""Chains of thought from counts: what was taken before, by whom, and by users of like taste. No language model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcf_cli.llm.config import FactsEngineConfig
from llmcf_cli.llm.engines.base import Ingested, Subject
from llmcf_cli.llm.prompts.rows import SampleTexts
from llmcf_cli.store.open import connect_read, read_meta
from llmcf_cli.tabular.sql import name

_RECENT = 5  # events of the history that users of like taste share
_YEAR = (1500, 2100)  # whole numbers between are told by decade
# What a sample may know of others: train rows strictly older. Never its own user's verdict on its own item.
_BEFORE = "o.split = 'train' AND o.time < c.time AND NOT (o.user_row = c.user_row AND o.item_row = c.item_row)"
_CHOSEN = "WITH c AS (SELECT * FROM sample WHERE sample_id IN (SELECT unnest($ids)))"
_TASTE = """
, step AS (SELECT sample_id, unnest(history) AS item_row FROM c)
SELECT sample_id, trait, value, count(*) FROM step JOIN item_trait USING (item_row) GROUP BY ALL
"""
_TAKERS = """
, seen AS (SELECT c.sample_id, o.user_row, o.label FROM c JOIN sample o ON o.item_row = c.item_row AND {before})
SELECT sample_id, '', '', count(*), sum(label)::BIGINT FROM seen GROUP BY sample_id
UNION ALL
SELECT sample_id, trait, value, count(*), sum(label)::BIGINT FROM seen JOIN user_trait USING (user_row) GROUP BY ALL
"""
# Users who took something of the same history, and how much of it; then what they did with the item.
_LIKE_USERS = """
, step AS (SELECT sample_id, user_row, item_row, time, unnest(history[-$recent:]) AS past_row FROM c),
common AS (
    SELECT c.sample_id, c.item_row, c.time, o.user_row, count(DISTINCT o.item_row) AS shared
    FROM step c JOIN sample o ON o.item_row = c.past_row AND o.label = 1 AND o.user_row <> c.user_row
    AND o.split = 'train' AND o.time < c.time GROUP BY ALL
)
SELECT sample_id, count(*), sum(label)::BIGINT FROM (
    SELECT c.sample_id, o.label FROM common c JOIN sample o ON o.item_row = c.item_row AND o.user_row = c.user_row
    AND o.split = 'train' AND o.time < c.time
    QUALIFY row_number() OVER (PARTITION BY c.sample_id ORDER BY shared DESC, o.time DESC, o.user_row) <= $peers
) GROUP BY sample_id
"""


@dataclass(frozen=True)
class _Counts:
    """What was counted for a block of samples, by sample id.

    Attributes:
        taste: (trait, value) → events of the history that have it.
        seen: (trait, value) → verdicts on the item by users who have it, and how many were positive; ('', ''): all.
        peers: Verdicts on the item by users of like taste, and how many were positive.
    """

    taste: Mapping[int, Mapping[tuple[str, str], int]]
    seen: Mapping[int, Mapping[tuple[str, str], tuple[int, int]]]
    peers: Mapping[int, tuple[int, int]]


class FactsEngine:
    """Writes what can be counted up to a sample's time: traits of the user's history and of the item, and verdicts on
    the item by earlier users, by those with the same traits, and by those of like taste.

    Traits are the features that models read: categories and lists by value, years by decade, other numbers by third.

    Where users share no clock nothing is said of others: their train rows would all count as earlier, and with them the
    label of every row that later reads the text as an example's. What is read of it is learned, and is not there in
    evaluation.
    """

    def __init__(self, config: FactsEngineConfig) -> None:
        self._config = config

    def open(self, data: Ingested) -> None:
        """Find the traits of items and users."""
        self._words, self._database = data.words, data.database
        self._tells_others = read_meta(data.database)["clock"] == "global"
        with connect_read(data.database) as connection:
            features = connection.execute("SELECT entity, name, kind FROM feature ORDER BY ALL").fetchall()
            self._traits = {
                entity: " UNION ALL ".join(
                    _trait(connection, entity, feature, kind) for e, feature, kind in features if e == entity
                ) or f"SELECT {entity}_row, '' AS trait, '' AS value FROM \"{entity}\" WHERE false"
                for entity in ("item", "user")
            }  # fmt: skip
            self._traits = {
                entity: f"SELECT * FROM ({query}) WHERE value IS NOT NULL" for entity, query in self._traits.items()
            }
            self._of = {entity: _by_row(connection.execute(query).fetchall()) for entity, query in self._traits.items()}

    def write(self, rows: Sequence[SampleTexts]) -> list[str]:
        """A text of a few sentences for each sample."""
        counts = self._count([row.sample_id for row in rows])
        return [" ".join(self._sentences(row, counts)) for row in rows]

    def describe(self, entity: str, subjects: Sequence[Subject]) -> list[str]:
        """Of a user, the traits that the events to write from have most of, and the user's own; of an item its own text
        and traits. Nobody's verdict on an item is told: the text would be read by the very rows that were counted.
        """
        tell = self._user if entity == "user" else self._item
        return [" ".join(tell(subject)) for subject in subjects]

    def _user(self, subject: Subject) -> list[str]:
        counted = Counter(one for row in subject.history_rows for one in self._of["item"].get(row, []))
        top = sorted(counted.items(), key=lambda one: (-one[1], one[0]))[: 4 * self._config.most]
        said = []
        if top:
            parts = [f"{count} with {trait} {value}" for (trait, value), count in top]
            said.append(f"Of the user's {len(subject.history_rows)} {self._words.choices}, {_listed(parts)}.")
        if own := self._of["user"].get(subject.row, []):
            said.append(f"The user has {_listed([f'{trait} {value}' for trait, value in own])}.")
        return said

    def _item(self, subject: Subject) -> list[str]:
        said = [f"The item is {subject.text.strip().removesuffix('.')}."] if subject.text.strip() else []
        if own := self._of["item"].get(subject.row, []):
            said.append(f"It has {_listed([f'{trait} {value}' for trait, value in own])}.")
        return said

    def _count(self, ids: Sequence[int]) -> _Counts:
        views = "".join(f", {entity}_trait AS ({query})" for entity, query in self._traits.items())
        with connect_read(self._database) as connection:

            def ask(query: str, **values: Any) -> list[tuple[Any, ...]]:
                given = {"ids": list(ids), **values}
                found: list[tuple[Any, ...]] = connection.execute(_CHOSEN + views + query, given).fetchall()
                return found

            taste: dict[int, dict[tuple[str, str], int]] = defaultdict(dict)
            for sample, trait, value, count in ask(_TASTE):
                taste[sample][trait, value] = count
            seen: dict[int, dict[tuple[str, str], tuple[int, int]]] = defaultdict(dict)
            if not self._tells_others:
                return _Counts(taste, seen, {})
            for sample, trait, value, count, positive in ask(_TAKERS.format(before=_BEFORE)):
                seen[sample][trait, value] = count, positive
            peers = ask(_LIKE_USERS, peers=self._config.peers, recent=_RECENT)
        return _Counts(taste, seen, {sample: (count, positive) for sample, count, positive in peers})

    def _sentences(self, row: SampleTexts, counts: _Counts) -> list[str]:
        words, most = self._words, self._config.most
        taste, seen = counts.taste.get(row.sample_id, {}), counts.seen.get(row.sample_id, {})
        own, total = self._of["item"].get(row.item_row, []), len(row.history)
        said = []
        if taste:
            top = sorted(taste.items(), key=lambda one: (-one[1], one[0]))[:most]
            parts = [f"{count} with {trait} {value}" for (trait, value), count in top]
            said.append(f"Of the user's {total} earlier {words.choices}, {_listed(parts)}.")
        elif not total:
            said.append(f"The user has no earlier {words.choices}.")
        if own:
            said.append(f"The item has {_listed([f'{trait} {value}' for trait, value in own[: 2 * most]])}.")
        if own and total:
            shared = sorted(((taste.get(one, 0), one) for one in own), key=lambda one: (-one[0], one[1]))
            parts = [f"{_degree(count / total)} share its {trait} {value}" for count, (trait, value) in shared[:most]]
            said.append(f"Among these {words.choices}, {_listed(parts)}.")
        if ("", "") in seen:
            count, positive = seen["", ""]
            said.append(f"{_reception(positive, count)} users before {words.positive} it ({positive} of {count}).")
            groups = [(g, n) for g, n in seen.items() if g != ("", "") and g in self._of["user"].get(row.user_row, [])]
            parts = [
                f"{_reception(p, n).lower()} with the same {trait} ({value})" for (trait, value), (n, p) in
                sorted(groups, key=lambda one: (-one[1][0], one[0]))[:most]
            ]  # fmt: skip
            said += [f"Of them it was {_listed(parts)}."] if parts else []
        elif self._tells_others:
            said.append("Nobody has judged it before.")
        if row.sample_id in counts.peers:
            count, positive = counts.peers[row.sample_id]
            said.append(f"{_reception(positive, count)} of {count} users of like taste {words.positive} it.")
        if self._config.decision == "told":
            said.append(f"The user {words.decision(row.label)} it.")
        return said


def _trait(connection: Any, entity: str, feature: str, kind: str) -> str:
    """Query of (row, trait, value) of one feature; of none that tells nearly all rows apart, as titles do."""
    row, column, said = f"{entity}_row", name(feature), feature.replace("_", " ").replace("'", "''")
    table = f'"{entity}"'
    if kind == "multi":
        return f"SELECT {row}, '{said}' AS trait, unnest({column}) AS value FROM {table}"
    number = f"TRY_CAST({column} AS DOUBLE)"
    low, high, numbers, all_, values = connection.execute(
        f"SELECT min({number}), max({number}), count({number}), count({column}), count(DISTINCT {column}) FROM {table}"
    ).fetchone()
    numeric = all_ > 0 and numbers >= 0.95 * all_
    if numeric and _YEAR[0] <= low and high <= _YEAR[1]:
        value = f"(floor({number} / 10) * 10)::INTEGER || 's'"
    elif kind == "numeric":
        third = f"ntile(3) OVER (ORDER BY {number}, {row})"
        value = f"CASE {third} WHEN 1 THEN 'low' WHEN 2 THEN 'middling' ELSE 'high' END"
    else:
        value = f"{column}::VARCHAR"
    tells = numeric or values <= all_ / 2
    return f"SELECT {row}, '{said}' AS trait, {value} AS value FROM {table} WHERE {str(tells).lower()}"


def _by_row(rows: Sequence[tuple[int, str, str]]) -> dict[int, list[tuple[str, str]]]:
    found: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for row, trait, value in sorted(rows):
        found[row].append((trait, value))
    return found


def _listed(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _degree(share: float) -> str:
    return "none" if share == 0 else "few" if share < 0.2 else "some" if share < 0.5 else "most"


def _reception(positive: int, count: int) -> str:
    share = positive / count
    return "Hardly any" if share < 0.2 else "Few" if share < 0.45 else "About half" if share < 0.6 else "Most"
