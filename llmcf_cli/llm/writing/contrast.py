"""Two sets of chains of thought about the same samples, side by side: counts, the judge's scores, where they part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmcf_cli.llm.writing.cots import SCORES

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Side:
    """One of the two.

    Attributes:
        samples: Samples that were written about.
        kept: Those of which the judge kept a text.
        dropped: Reason → samples without a text that was kept.
        words: Mean number of words of a text, kept or not; None: there is none.
    """

    samples: int
    kept: int
    dropped: Mapping[str, int]
    words: float | None


@dataclass(frozen=True)
class ScoreDifference:
    """A score of the judge's, over the samples that both have it of.

    Attributes:
        score: Its name.
        samples: How many there are.
        first, second: Means of the two.
        difference: Second minus first, the mean over samples.
        low, high: Ends of its 95 % interval, by Student's t over the samples; None: too few samples.
    """

    score: str
    samples: int
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Pair:
    """Both texts about a sample.

    Attributes:
        sample_id, user_id, item_id, item, label: The sample.
        first, second: The texts.
        first_score, second_score: The judge's.
        first_kept, second_kept: Whether the judge kept them.
        common: Words that the two have in common, of all words of both; 1 for the same text.
    """

    sample_id: int
    user_id: str
    item_id: str
    item: str
    label: int
    first: str
    second: str
    first_score: float
    second_score: float
    first_kept: bool
    second_kept: bool
    common: float


@dataclass(frozen=True)
class Contrast:
    """Two sets of chains of thought.

    Attributes:
        first, second: What there is of each.
        both: Samples that both are about.
        same: Those of them with the same text.
        both_kept, first_kept, second_kept, none_kept: Those of them whose text the judge kept in both, in the first
            alone, in the second alone, in neither.
        scores: The judge's scores.
        most: The pairs that differ most: in score, then in words.
    """

    first: Side
    second: Side
    both: int
    same: int
    both_kept: int
    first_kept: int
    second_kept: int
    none_kept: int
    scores: tuple[ScoreDifference, ...]
    most: tuple[Pair, ...]


def contrast(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], most: int) -> Contrast:
    """Compare what was written about the same samples.

    Args:
        first: One text of each sample, as `to_review` gives them.
        second: Likewise, of the same samples as far as there are any.
        most: How many pairs to show.
    """
    others = {row["sample_id"]: row for row in second}
    pairs = [(row, others[row["sample_id"]]) for row in first if row["sample_id"] in others]
    kept = Counter((a["kept"], b["kept"]) for a, b in pairs)
    shown = sorted(map(_pair, pairs), key=lambda p: (-abs(p.second_score - p.first_score), p.common, p.sample_id))
    return Contrast(
        _side(first), _side(second), len(pairs), sum(a["text"] == b["text"] for a, b in pairs), kept[True, True],
        kept[True, False], kept[False, True], kept[False, False],
        tuple(found for name in SCORES if (found := _difference(name, pairs)) is not None), tuple(shown[:most]),
    )  # fmt: skip


def _side(rows: Sequence[Mapping[str, Any]]) -> Side:
    reasons = Counter(row["reason"] or "score" for row in rows if not row["kept"])
    lengths = [len(_WORD.findall(row["text"])) for row in rows]
    return Side(
        len(rows), sum(row["kept"] for row in rows), dict(reasons.most_common()),
        float(np.mean(lengths)) if lengths else None,
    )  # fmt: skip


def _difference(name: str, pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> ScoreDifference | None:
    from scipy.stats import t

    both = [(a[name], b[name]) for a, b in pairs if a[name] is not None and b[name] is not None]
    if not both:
        return None
    first_N, second_N = np.array(both, np.float64).T
    gap_N = second_N - first_N
    mean, low, high = float(gap_N.mean()), None, None
    if len(gap_N) > 1:
        half = float(t.ppf(0.975, len(gap_N) - 1) * gap_N.std(ddof=1) / np.sqrt(len(gap_N)))
        low, high = mean - half, mean + half
    return ScoreDifference(name, len(gap_N), float(first_N.mean()), float(second_N.mean()), mean, low, high)


def _pair(pair: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Pair:
    a, b = pair
    of_a, of_b = (set(_WORD.findall(row["text"].lower())) for row in pair)
    common = len(of_a & of_b) / max(len(of_a | of_b), 1)
    return Pair(
        **{name: a[name] for name in ("sample_id", "user_id", "item_id", "item", "label")}, first=a["text"],
        second=b["text"], first_score=a["score"], second_score=b["score"], first_kept=a["kept"],
        second_kept=b["kept"], common=1.0 if a["text"] == b["text"] else common,
    )  # fmt: skip
