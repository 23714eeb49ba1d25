"""Measures of lists of the whole catalogue. Users count alike, however many queries each has.

With one target per query the share of targets found (recall) is the hit rate.

Legend: N queries, U users, I items, K listed items.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmcf_cli.core.errors import DataError
from llmcf_cli.rec.measure.base import MeanMeasure, Truth, Values
from llmcf_cli.rec.retrieval.ranked import items_of, rank_of

TABLED = 10
"""Length of the lists that tables tell of; files have all lengths."""


class ListMeasure(MeanMeasure):
    """A measure of the first items of the lists.

    Args:
        cutoff: How many.
    """

    letters: str
    higher_is_better = True

    def __init__(self, cutoff: int) -> None:
        self.cutoff, self.detail = cutoff, cutoff != TABLED
        self.name, self.title = f"{type(self).__name__.lower()}@{cutoff}", f"{self.letters}@{cutoff}"

    def pooled(self, predictions: Sequence[NDArray[Any]], truth: Truth) -> Values:
        """What several seeds reach on average, unit by unit: ranks have no mean that is a rank."""
        found = [self.values(prediction, truth) for prediction in predictions]
        return Values(float(np.mean([v.total for v in found])), np.mean([v.unit_U for v in found], axis=0))

    def counts(self, truth: Truth) -> Mapping[str, int]:
        """Queries."""
        return {"queries": len(truth)}


class QueryMeasure(ListMeasure):
    """A mean over users of the mean over their queries."""

    @abstractmethod
    def of_queries(self, prediction: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
        """What each query contributes, float64 [N]."""

    def values(self, prediction: NDArray[Any], truth: Truth) -> Values:
        """Each user contributes the mean over its queries, users by row."""
        if not len(truth):
            raise DataError("no queries to measure", code="data-empty", where=self.name)
        _, user_N = np.unique(truth.user_row_N, return_inverse=True)
        unit_U = np.bincount(user_N, self.of_queries(prediction, truth)) / np.bincount(user_N)
        return Values(float(unit_U.mean()), unit_U)


class HR(QueryMeasure):
    """Hit rate: the share of targets among the first items."""

    letters = "HR"

    def of_queries(self, prediction: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
        """1 for a hit, else 0."""
        return _hits(prediction, self.cutoff).astype(np.float64)


class NDCG(QueryMeasure):
    """1 / log₂(1 + rank) of a target among the first items, else 0; with one target the ideal is 1."""

    letters = "NDCG"

    def of_queries(self, prediction: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
        """Of each target's rank."""
        hit_N = _hits(prediction, self.cutoff)
        return np.where(hit_N, 1 / np.log2(1 + np.where(hit_N, rank_of(prediction), 1)), 0)


class MRR(QueryMeasure):
    """1 / rank of a target among the first items, else 0."""

    letters = "MRR"

    def of_queries(self, prediction: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
        """Of each target's rank."""
        hit_N = _hits(prediction, self.cutoff)
        return np.where(hit_N, 1 / np.where(hit_N, rank_of(prediction), 1), 0)


class Coverage(ListMeasure):
    """The share of the catalogue that is in somebody's list."""

    letters = "coverage"

    def values(self, prediction: NDArray[Any], truth: Truth) -> Values:
        """Each item contributes whether it is."""
        items = len(_taken(truth, self.name))
        listed_I = np.bincount(items_of(prediction)[:, : self.cutoff].ravel(), minlength=items)[1:] > 0
        return Values(float(listed_I.mean()), listed_I.astype(np.float64))


class Popularity(QueryMeasure):
    """How often the listed items were taken in train, on average."""

    letters, unit, digits = "popularity", "train events", 1
    higher_is_better = False

    def of_queries(self, prediction: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
        """Mean over each list."""
        return _mean_of_lists(_taken(truth, self.name).astype(np.float64), prediction, self.cutoff)


class Novelty(QueryMeasure):
    """−log₂ of the listed items' share of the train events, on average; each count is one higher, so none is 0."""

    letters, unit, digits = "novelty", "bits", 2

    def of_queries(self, prediction: NDArray[Any], truth: Truth) -> NDArray[np.float64]:
        """Mean over each list."""
        taken_I = _taken(truth, self.name)
        total = taken_I.sum() + len(taken_I) - 1
        return _mean_of_lists(-np.log2((taken_I + 1) / total), prediction, self.cutoff)


def _hits(prediction: NDArray[Any], cutoff: int) -> NDArray[np.bool_]:
    rank_N = rank_of(prediction)
    return (rank_N >= 1) & (rank_N <= cutoff)


def _taken(truth: Truth, name: str) -> NDArray[np.int64]:
    if truth.taken_I is None:
        raise DataError("the train popularity of items is missing", code="data", where=name)
    return truth.taken_I


def _mean_of_lists(value_I: NDArray[np.float64], prediction: NDArray[Any], cutoff: int) -> NDArray[np.float64]:
    """Mean over the items of each list, float64 [N]; 0 for an empty one."""
    item_NK = items_of(prediction)[:, :cutoff]
    there_NK = item_NK > 0
    mean_N: NDArray[np.float64] = (value_I[item_NK] * there_NK).sum(1) / np.maximum(there_NK.sum(1), 1)
    return mean_N
