"""Stored matches checked again by SQL, from the tables alone: nothing here calls the code that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcf_cli.core.errors import StoreError
from llmcf_cli.core.types import Clock
from llmcf_cli.match.guard import Exclude
from llmcf_cli.match.limits import Limits
from llmcf_cli.match.reports import AuditReport, Violation
from llmcf_cli.store.open import connect_read

SHOWN = 5
BINS = 20
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

# `pair`: one row per place of a match, with what is known of both sides; e_* are NULL for an unknown example.
_PAIR = """
CREATE TEMP TABLE pair AS
WITH place AS (
    SELECT sample_id, unnest(range(1, len(example_sample_id) + 1)) AS place,
           unnest(example_sample_id) AS example_id, unnest(score) AS score
    FROM read_parquet($matches)
)
SELECT p.sample_id, p.place, p.example_id, p.score, p.example_id <> -1 AS filled,
       q.sample_id IS NOT NULL AS known, q.user_row, q.item_row, q.time, q.split,
       e.sample_id IS NOT NULL AS e_known, e.user_row AS e_user, e.item_row AS e_item, e.time AS e_time,
       e.split AS e_split, e.label AS e_label
FROM place p
LEFT JOIN sample q ON q.sample_id = p.sample_id
LEFT JOIN sample e ON e.sample_id = p.example_id AND p.example_id <> -1
"""
_LATER = {
    "global": "e_time >= time",
    "per_user": "e_time >= time AND e_user = user_row",
}
# Kind → (meaning, rows that violate it: sample_id and example_id; {half}, {later}, {per_user} are filled in).
_CHECKS = {
    "own_row": (
        "a sample among its own examples",
        "SELECT sample_id, example_id FROM pair WHERE filled AND example_id = sample_id",
    ),
    "same_pair": (
        "an example of the same user and item",
        "SELECT sample_id, example_id FROM pair WHERE filled AND example_id <> sample_id "
        "AND e_user = user_row AND e_item = item_row",
    ),
    "own_item": (
        "an example of the same item despite match.exclude: own_item",
        "SELECT sample_id, example_id FROM pair WHERE filled AND e_item = item_row",
    ),
    "future": (
        "an example not strictly before the sample",
        "SELECT sample_id, example_id FROM pair WHERE filled AND {later}",
    ),
    "not_train": (
        "an example that is not a train row",
        "SELECT sample_id, example_id FROM pair WHERE filled AND e_known AND e_split <> 'train'",
    ),
    "duplicate": (
        "an example twice in one row",
        "SELECT sample_id, example_id FROM pair WHERE filled GROUP BY ALL HAVING count(*) > 1",
    ),
    "unknown_example": (
        "an example that is not a sample",
        "SELECT sample_id, example_id FROM pair WHERE filled AND NOT e_known",
    ),
    "unknown_sample": (
        "a match of something that is not a sample",
        "SELECT DISTINCT sample_id, NULL::BIGINT AS example_id FROM pair WHERE NOT known",
    ),
    "repeated_sample": (
        "a sample with more than one row",
        "SELECT sample_id, NULL::BIGINT AS example_id FROM read_parquet($matches) "
        "GROUP BY sample_id HAVING count(*) > 1",
    ),
    "unmatched_sample": (
        "a sample without a row",
        "SELECT sample_id, NULL::BIGINT AS example_id FROM sample ANTI JOIN read_parquet($matches) USING (sample_id)",
    ),
    "label_imbalance": (
        "more than half of the examples with one label",
        "SELECT sample_id, NULL::BIGINT AS example_id FROM pair WHERE filled GROUP BY sample_id "
        "HAVING count(*) FILTER (e_label = 1) > {half} OR count(*) FILTER (e_label = 0) > {half}",
    ),
    "crowded_user": (
        "more examples of one user than match.max_per_user",
        "SELECT sample_id, min(example_id) AS example_id FROM pair WHERE filled GROUP BY sample_id, e_user "
        "HAVING count(*) > {per_user}",
    ),
    "repeated_item": (
        "examples of the same item despite match.distinct_items",
        "SELECT sample_id, min(example_id) AS example_id FROM pair WHERE filled GROUP BY sample_id, e_item "
        "HAVING count(*) > 1",
    ),
    "disorder": (
        "scores that rise, are not finite, or padding that is not last with score 0",
        "SELECT sample_id, example_id FROM (SELECT *, lag(score) OVER row AS above, lag(filled) OVER row AS before "
        "FROM pair WINDOW row AS (PARTITION BY sample_id ORDER BY place)) WHERE NOT isfinite(score) "
        "OR (filled AND (score > above OR NOT before)) OR (NOT filled AND score <> 0)",
    ),
}


def audit_matches(
    ingest_db: Path, match_parquet: Path, clock: Clock, balance: str = "labels", limits: Limits | None = None,
    exclude: Exclude = "strict", query: str = "row",
) -> AuditReport:  # fmt: skip
    """Check every stored match against the samples.

    Args:
        ingest_db: DuckDB file with the table `sample`.
        match_parquet: Table `example_match`.
        clock: The data's clock, as ingest recorded it: which examples count as past.
        balance: The recipe's `match.balance`; `labels` also checks that no label takes more than half.
        limits: The recipe's limits on users and items, checked where they are set.
        exclude: The recipe's `match.exclude`; `own_item` also checks that no example is of the sample's item.
        query: The recipe's `match.query`; with `history` no guard knows the sample's item, and an older row of the same
            user and item may be an example.

    Raises:
        StoreError: A file is missing or lacks the columns.
    """
    import duckdb

    if not match_parquet.exists():
        raise StoreError("no such file", code="store-missing", where=str(match_parquet), hint="llmcf status")
    with connect_read(ingest_db) as connection:
        try:
            connection.execute(_PAIR, {"matches": str(match_parquet)})
        except duckdb.Error as error:
            what = f"cannot be audited: {str(error).splitlines()[0]}"
            raise StoreError(what, code="audit-failed", where=f"{match_parquet} against {ingest_db}") from error
        samples, k = connection.execute(
            "SELECT count(*), coalesce(max(len(example_sample_id)), 0) FROM read_parquet($1)",
            [str(match_parquet)],
        ).fetchone()
        limits = limits or Limits()
        asked = {
            "label_imbalance": balance == "labels",
            "own_item": exclude == "own_item",
            "same_pair": query == "row",
            "crowded_user": limits.max_per_user is not None,
            "repeated_item": limits.distinct_items,
        }
        violations = []
        for kind, (meaning, query) in _CHECKS.items():
            if not asked.get(kind, True):
                continue
            rows = query.format(later=_LATER[clock], half=k // 2, per_user=limits.max_per_user)
            count, shown = _offenders(connection, rows, str(match_parquet))
            violations.append(Violation(kind, meaning, count, shown))
        return AuditReport(samples=samples, k=k, violations=tuple(violations), **_statistics(connection))


def _offenders(connection: Any, query: str, matches: str) -> tuple[int, tuple[tuple[int, int | None], ...]]:
    parameters = {"matches": matches} if "$matches" in query else None
    rows = connection.execute(
        f"SELECT sample_id, example_id, count(*) OVER () FROM ({query}) ORDER BY 1, 2 LIMIT {SHOWN}",
        parameters,
    ).fetchall()
    return (rows[0][2] if rows else 0), tuple((sample, example) for sample, example, _ in rows)


def _statistics(connection: Any) -> dict[str, Any]:
    positive, padding, used = connection.execute(
        "SELECT avg(e_label) FILTER (filled), avg((NOT filled)::INT), count(DISTINCT example_id) FILTER (filled) "
        "FROM pair"
    ).fetchone()
    most = connection.execute(
        "SELECT max(n) FROM (SELECT count(*) AS n FROM pair WHERE filled GROUP BY example_id)"
    ).fetchone()[0]
    scores = connection.execute(
        f"SELECT quantile_cont(score, {list(QUANTILES)}) FROM pair WHERE filled AND isfinite(score)"
    ).fetchone()[0]
    return {
        "positive_share": None if positive is None else float(positive),
        "padding_share": float(padding or 0.0),
        "examples_used": used,
        "most_used": most or 0,
        "score_quantiles": dict(zip(QUANTILES, map(float, scores), strict=True)) if scores else {},
        "coverage": _coverage(connection),
        "histogram": _histogram(connection),
    }


def _coverage(connection: Any) -> dict[str, dict[str, float]]:
    rows = connection.execute(
        "SELECT split, avg((n = k)::INT), avg((n > 0 AND n < k)::INT), avg((n = 0)::INT) FROM (SELECT split, "
        "count(*) AS k, count(*) FILTER (filled) AS n FROM pair WHERE known GROUP BY sample_id, split) "
        "GROUP BY split ORDER BY list_position(['train', 'validation', 'test'], split)"
    ).fetchall()
    return {split: {"all": full, "some": some, "none": none} for split, full, some, none in rows}


def _histogram(connection: Any) -> tuple[tuple[float, float, int], ...]:
    low, high = connection.execute(
        "SELECT min(score)::DOUBLE, max(score)::DOUBLE FROM pair WHERE filled AND isfinite(score)"
    ).fetchone()
    if low is None:
        return ()
    width = (high - low) / BINS or 1.0
    counts = dict(
        connection.execute(
            f"SELECT least(floor((score::DOUBLE - $1) / $2), {BINS - 1})::INT AS bin, count(*) FROM pair "
            "WHERE filled AND isfinite(score) GROUP BY bin",
            [low, width],
        ).fetchall()
    )
    bins = range(BINS) if high > low else range(1)
    return tuple((low + bin * width, low + (bin + 1) * width, counts.get(bin, 0)) for bin in bins)
