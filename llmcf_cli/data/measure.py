"""What can be known of a data set once its samples are made, before anything is trained on them.

Measured from the tables that ingest leaves (`interaction`, `sample`, `user`, `item`), so that it can be told again for
any finished ingest. AUCs are of the validation split: the test split is not looked at but for its sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from llmcf_cli.data.raw import Entity, scalar, text
from llmcf_cli.data.report import SPLITS, JoinCount, Rule, SimilarIds, SliceCount, SplitCount, TextCount
from llmcf_cli.features.slices import cold_start_slices

# The first time that a user took an item: what lies strictly before a sample's time was taken before it.
_TAKEN = """
CREATE OR REPLACE TEMP TABLE taken AS
SELECT user_row, item_row, min(time) AS time FROM {events} GROUP BY user_row, item_row
"""
_TRAIN = """
CREATE OR REPLACE TEMP TABLE train_count AS
SELECT item_row, count(*) FILTER (label = 1) AS positives FROM {sample} WHERE split = 'train' GROUP BY item_row
"""
_RULES = {
    "taken_before": (
        "the user took the item before",
        "SELECT s.label, (t.time IS NOT NULL)::INT AS score FROM {sample} s LEFT JOIN taken t "
        "ON s.user_row = t.user_row AND s.item_row = t.item_row AND t.time < s.time WHERE split = $split",
    ),
    "popularity": (
        "the item's positives in train",
        "SELECT s.label, coalesce(c.positives, 0) AS score FROM {sample} s LEFT JOIN train_count c USING (item_row) "
        "WHERE split = $split",
    ),
    "train_negative": (
        "the pair was a negative in train (pairs not taken before)",
        "SELECT s.label, (n.item_row IS NOT NULL)::INT AS score FROM {sample} s LEFT JOIN (SELECT DISTINCT user_row, "
        "item_row FROM {sample} WHERE split = 'train' AND label = 0) n USING (user_row, item_row) WHERE split = $split "
        "AND NOT EXISTS (FROM taken t WHERE t.user_row = s.user_row AND t.item_row = s.item_row AND t.time < s.time)",
    ),
}

# Users and items that are drawn often make a pair that was drawn likely, whatever it is: of D draws, of which U are the
# user's and I the item's, it expects U · I / D.
_EXPECTED = {
    "train_negative": "SELECT s.label, 1 - exp(-coalesce(u.draws, 0) * coalesce(i.draws, 0) / d.draws) AS score "
    "FROM {sample} s LEFT JOIN (SELECT user_row, count(*) AS draws FROM {sample} WHERE split = 'train' AND label = 0 "
    "GROUP BY ALL) u USING (user_row) LEFT JOIN (SELECT item_row, count(*) AS draws FROM {sample} WHERE "
    "split = 'train' AND label = 0 GROUP BY ALL) i USING (item_row), (SELECT count(*)::DOUBLE AS draws FROM {sample} "
    "WHERE split = 'train' AND label = 0) d WHERE split = $split AND d.draws > 0 "
    "AND NOT EXISTS (FROM taken t WHERE t.user_row = s.user_row AND t.item_row = s.item_row AND t.time < s.time)",
}

# The share of pairs of a positive and a negative in which the positive scores higher; NULL without such a pair.
_AUC = """
SELECT sum(positive * (below + negative / 2)) / nullif(sum(positive) * sum(negative), 0)
FROM (SELECT positive, negative, sum(negative) OVER (ORDER BY score) - negative AS below
    FROM (SELECT score, count(*) FILTER (label = 1) AS positive, count(*) FILTER (label = 0) AS negative
        FROM ({query}) GROUP BY score))
"""


def prepare(con: Any, sample: str = "sample", events: str = "event") -> None:
    """Make the temporary tables that the measures below read.

    Args:
        con: Connection to the tables.
        sample: Name of the samples' table.
        events: Relation of events (user_row, item_row, time) in the unit of the samples' time.
    """
    con.execute(_TAKEN.format(events=events))
    con.execute(_TRAIN.format(sample=sample))


def split_counts(con: Any, sample: str = "sample") -> tuple[SplitCount, ...]:
    """Samples of each split by label, and how many of them are of a pair that the user took before."""
    rows = con.execute(
        f"SELECT s.split, s.label, count(*), count(t.time) FROM {sample} s LEFT JOIN taken t "
        "ON s.user_row = t.user_row AND s.item_row = t.item_row AND t.time < s.time GROUP BY ALL"
    ).fetchall()
    found = {(split, label): (count, repeated) for split, label, count, repeated in rows}
    none = (0, 0)
    return tuple(
        SplitCount(split, *(found.get((split, label), none)[0] for label in (1, 0)),
                   *(found.get((split, label), none)[1] for label in (1, 0)))
        for split in SPLITS
    )  # fmt: skip


def rules(con: Any, sample: str = "sample", split: str = "validation") -> tuple[Rule, ...]:
    """What rules without any model reach on a split: an AUC far from .5 where it should not be shows a leak."""
    found = []
    for code, (meaning, query) in _RULES.items():
        auc = _auc(con, query.format(sample=sample), split)
        by_chance = _EXPECTED.get(code) if auc is not None else None
        expected = None if by_chance is None else _mean_auc(con, by_chance.format(sample=sample), split)
        found.append(Rule(code, meaning, auc, expected))
    return tuple(found)


def _mean_auc(con: Any, query: str, split: str) -> float | None:
    """AUC expected of a rule that scores 1 with the query's probability `score`, else 0."""
    difference = con.execute(
        f"SELECT avg(score) FILTER (label = 1) - avg(score) FILTER (label = 0) FROM ({query})", {"split": split}
    ).fetchone()[0]
    return None if difference is None else 0.5 + difference / 2


def _auc(con: Any, query: str, split: str) -> float | None:
    """AUC of the query's `score` for its `label`, ties counting half; None with one label only."""
    found = con.execute(_AUC.format(query=query), {"split": split}).fetchone()[0]
    return None if found is None else float(found)


def cold_slices(con: Any, sample: str = "sample") -> tuple[SliceCount, ...]:
    """Test samples of each slice that the comparison shows, by label."""
    columns = {"train": "user_row, item_row, label", "test": "user_row, item_row, label, len(history) AS length"}
    train, test = (
        con.execute(f"SELECT {chosen} FROM {sample} WHERE split = $split", {"split": split}).fetchnumpy()
        for split, chosen in columns.items()
    )
    taken = train["label"] > 0
    masks = cold_start_slices(
        train["user_row"], (train["user_row"][taken], train["item_row"][taken]),
        (test["user_row"], test["item_row"]), test["length"],
    )  # fmt: skip
    label = test["label"] > 0
    return tuple(SliceCount(name, int(label[mask].sum()), int((~label[mask]).sum())) for name, mask in masks.items())


def text_counts(con: Any) -> Iterator[TextCount]:
    """Items and users without a text, and the samples that have none of their target item's."""
    for entity in ("item", "user"):
        rows, blank = con.execute(f"SELECT count(*), count(*) FILTER (text = '') FROM {entity}_text").fetchone()
        samples = scalar(
            con, f"SELECT count(*) FROM sample JOIN {entity}_text t USING ({entity}_row) WHERE t.text = ''"
        )
        yield TextCount(entity, rows, blank, samples)


def joins(con: Any, entities: Sequence[Entity]) -> Iterator[JoinCount]:
    """How many numbered items or users their tables lack, with a few ids of both sides."""
    for entity in entities:
        key = f"{entity}_id"
        wanted = scalar(con, f"SELECT count(*) FROM {entity}_number")
        if not wanted:
            continue  # rows were added that bring none
        lacking = f"FROM {entity}_number ANTI JOIN {entity}_feature USING ({key})"
        unjoined = scalar(con, f"SELECT count(*) {lacking}")
        if not unjoined:
            yield JoinCount(entity, wanted, 0)
            continue
        most = con.execute(
            f"SELECT {key}, count(*) FROM (SELECT * {lacking}) JOIN interaction USING ({entity}_row) GROUP BY {key} "
            f"ORDER BY 2 DESC, 1 LIMIT {_EXAMPLES}"
        ).fetchall()
        listed = con.execute(
            f"SELECT {key} FROM {entity}_feature ANTI JOIN {entity}_number USING ({key}) ORDER BY {key} LIMIT 3"
        ).fetchall()
        yield JoinCount(
            entity, wanted, unjoined, tuple(one for one, _ in most), tuple(one for (one,) in listed),
            tuple(count for _, count in most),
        )  # fmt: skip


def similar_ids(con: Any, events: str) -> Iterator[SimilarIds]:
    """Ids of items and of users that differ only in case, or in white space and punctuation around them.

    Args:
        con: Connection to the tables.
        events: Relation with `item_id` and `user_id`, before steps that drop rare ones.
    """
    for entity in ("item", "user"):
        key = f"{entity}_id"
        same = f"lower(regexp_replace({key}, {text(_AROUND)}, '', 'g'))"
        groups = (
            f"(SELECT list({key} ORDER BY {key}) AS ids FROM (SELECT DISTINCT {key} FROM {events}) "
            f"WHERE {same} <> '' GROUP BY {same} "
            "HAVING count(*) > 1)"
        )
        ids, different = con.execute(f"SELECT coalesce(sum(len(ids)), 0)::BIGINT, count(*) FROM {groups}").fetchone()
        if ids:
            rows = con.execute(f"SELECT ids[:4] FROM {groups} ORDER BY ids LIMIT {_EXAMPLES}").fetchall()
            yield SimilarIds(entity, ids, different, tuple(tuple(alike) for (alike,) in rows))


_EXAMPLES = 5
_AROUND = r"^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$"
