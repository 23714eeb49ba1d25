"""Train samples with their texts, from the DuckDB file of ingest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmcf_cli.core.errors import LlmcfError
from llmcf_cli.recipe.sections import TrainSampleSection

# By a digest, so that the order is the same on every machine. A row of rank r in a stratum of n rows stands at
# (r − 1 + u) / n, u the stratum's own random start: each stratum's share of a prefix is its share of the whole, and a
# longer prefix contains every shorter one. Balanced: positives and negatives in turn, until one of them runs out.
_ORDER = """
WITH drawn AS (
    SELECT sample_id, CASE WHEN $balanced THEN label ELSE 0 END AS class, concat_ws(':', {strata}) AS stratum,
           md5(concat($seed::BIGINT, ':', sample_id)) AS position
    FROM sample {joins} WHERE split = $split AND ($since IS NULL OR time >= $since)
),
placed AS (
    SELECT sample_id, class, position,
           (row_number() OVER (PARTITION BY class, stratum ORDER BY position, sample_id) - 1
            + md5_number_lower(concat($seed::BIGINT, ' stratum ', stratum)) / pow(2, 64))
           / count(*) OVER (PARTITION BY class, stratum) AS place
    FROM drawn
)
SELECT sample_id FROM (
    SELECT sample_id, class, row_number() OVER (PARTITION BY class ORDER BY place, position, sample_id) AS rank
    FROM placed
)
ORDER BY rank, class DESC
LIMIT $count
"""
_BY_USER = "SELECT sample_id FROM sample WHERE sample_id IN (SELECT unnest($ids)) ORDER BY user_row, sample_id"
_STRATA = {
    "user": "user_row",
    "label": "label",
    "time": "ntile({quantiles}) OVER (ORDER BY time, sample_id)",
    "popularity": "popularity",
}
_POPULARITY = """
JOIN (
    SELECT item_row, ntile({quantiles}) OVER (ORDER BY count(*), item_row) AS popularity
    FROM sample WHERE split = 'train' GROUP BY item_row
) USING (item_row)
"""
_TEXTS = """
WITH chosen AS (SELECT * FROM sample WHERE sample_id IN (SELECT unnest($ids))),
step AS (
    SELECT sample_id, unnest(history) AS item_row, unnest(range(len(history))) AS position FROM chosen
),
history AS (
    SELECT sample_id, list(item.text ORDER BY position) AS texts
    FROM step JOIN item USING (item_row) GROUP BY sample_id
)
SELECT chosen.sample_id, chosen.label, item.text, "user".text, history.texts, user_row, item_row
FROM chosen JOIN item USING (item_row) JOIN "user" USING (user_row) LEFT JOIN history USING (sample_id)
"""
_BLANK = """
SELECT count(*) FROM sample JOIN item USING (item_row)
WHERE trim(text) = '' AND sample_id IN (SELECT unnest($ids))
"""


@dataclass(frozen=True)
class SampleTexts:
    """A sample as prompts read it.

    Attributes:
        sample_id: Its number.
        label: 1 or 0.
        item: Text of the target item.
        user: Text of the user.
        history: Texts of the earlier items, oldest first.
        user_row: The user.
        item_row: The target item.
    """

    sample_id: int
    label: int
    item: str
    user: str
    history: list[str]
    user_row: int
    item_row: int


def train_labels(connection: Any, since: int | None = None) -> tuple[int, int]:
    """Positive and negative samples of the train split, or of those from some time on."""
    positive, negative = connection.execute(
        "SELECT count(*) FILTER (label = 1), count(*) FILTER (label = 0) FROM sample WHERE split = 'train' "
        "AND ($since IS NULL OR time >= $since)", {"since": since},
    ).fetchone()  # fmt: skip
    return positive, negative


def train_order(
    connection: Any, seed: int, balance: str, count: int, *, strata: Sequence[str] = (), quantiles: int = 4,
    since: int | None = None,
) -> np.ndarray:  # fmt: skip
    """The first `count` train samples (int64 sample ids) in the seed's order.

    Args:
        connection: To the DuckDB file of ingest.
        seed: Determines the order; of two counts, the larger one's samples contain the smaller one's.
        balance: `labels`: positive and negative samples in turn, until one kind runs out; `none`: as they come.
        count: Most samples.
        strata: `user`, `label`, `time` and `popularity`: groups that get their share of any count, to within one row.
        quantiles: Groups of `time` and of `popularity`.
        since: Only samples from this time on; None: all.
    """
    return _order(connection, "train", seed, balance, count, strata, quantiles, since)


def _order(
    connection: Any, split: str, seed: int, balance: str, count: int, strata: Sequence[str] = (), quantiles: int = 1,
    since: int | None = None,
) -> np.ndarray:  # fmt: skip
    by = ", ".join(_STRATA[name].format(quantiles=quantiles) for name in strata) or "0"
    joins = _POPULARITY.format(quantiles=quantiles) if "popularity" in strata else ""
    given = {"split": split, "seed": seed, "balanced": balance == "labels", "count": count, "since": since}
    found = connection.execute(_ORDER.format(strata=by, joins=joins), given)
    id_N: np.ndarray = found.fetchnumpy()["sample_id"].astype(np.int64)
    return id_N


def choose_held_out(connection: Any, split: str, count: int, seed: int) -> np.ndarray:
    """Sample ids (int64, ascending) of up to `count` rows of a split, drawn as they come; more contain the fewer.

    Args:
        connection: To the DuckDB file of ingest.
        split: `validation` or `test`.
        count: Most rows.
        seed: Determines which.
    """
    return np.sort(_order(connection, split, seed, "none", count))


def by_user(connection: Any, sample_ids: np.ndarray) -> np.ndarray:
    """Sample ids, those of a user together and in the order of their numbers."""
    found = connection.execute(_BY_USER, {"ids": [int(i) for i in sample_ids]})
    id_N: np.ndarray = found.fetchnumpy()["sample_id"].astype(np.int64)
    return id_N


def choose_train(
    connection: Any, sample: TrainSampleSection, seed: int, where: str, since: int | None = None
) -> np.ndarray:
    """Sample ids (int64, ascending) of the train rows a recipe chooses; more rows always contain the fewer.

    Args:
        connection: To the DuckDB file of ingest.
        sample: How many, and which.
        seed: Determines which.
        where: Key path of `sample` in the recipe, for messages.
        since: Only rows from this time on, in microseconds since 1970; None: all.

    Raises:
        LlmcfError: There are fewer train rows than asked for.
    """
    total = sum(train_labels(connection, since))
    count = sample.count
    if count is None:
        count = max(1, round((sample.fraction or 0) * total))
    if count > total:
        raise LlmcfError(
            f"{count:,} samples requested, but the train split has {total:,}",
            code="sample-too-large", where=f"{where}.count",
            hint=f"set {where}.count to at most {total:,}",
        )  # fmt: skip
    order = train_order(connection, seed, sample.balance, count, strata=sample.stratify, quantiles=sample.quantiles,
                        since=since)  # fmt: skip
    return np.sort(order)


def blank_items(connection: Any, sample_ids: Sequence[int] | np.ndarray) -> int:
    """How many of some samples have a target item without text."""
    count: int = connection.execute(_BLANK, {"ids": [int(i) for i in sample_ids]}).fetchone()[0]
    return count


def refuse_blank(blank: int, samples: int, most: float, where: str) -> None:
    """Stop where prompts would be about nothing.

    Args:
        blank: Samples with an item without text.
        samples: All samples.
        most: Share of them that may have none.
        where: Stage, for the message.

    Raises:
        LlmcfError: There are more.
    """
    if samples and blank > most * samples:
        raise LlmcfError(
            f"the item has no text in {blank:,} of {samples:,} samples, so there is nothing to ask about",
            code="texts-blank", where=where,
            hint="name an item table in dataset.source and its columns in dataset.text.item (llmcf ingest counts "
            f"texts); or raise dataset.limits.blank_texts ({most:g})",
        )  # fmt: skip


def sample_texts(connection: Any, sample_ids: Sequence[int] | np.ndarray) -> list[SampleTexts]:
    """The texts of some samples, in the order of `sample_ids`."""
    ids = [int(i) for i in sample_ids]
    rows = connection.execute(_TEXTS, {"ids": ids}).fetchall()
    found = {
        sample_id: SampleTexts(sample_id, label, item, user, history or [], user_row, item_row)
        for sample_id, label, item, user, history, user_row, item_row in rows
    }
    return [found[i] for i in ids]
